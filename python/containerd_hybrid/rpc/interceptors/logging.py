"""A line in the log for each call that ended, at debug level; one that failed inside us, at error."""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType

from containerd_hybrid.errors import HybridError
from containerd_hybrid.rpc.api import NAMESPACE_HEADER, CallContext, Method
from containerd_hybrid.rpc.interceptors.around import around

logger = logging.getLogger(__name__)

_OURS = frozenset({"INTERNAL", "DATA_LOSS"})


class LoggingInterceptor:
    """Logs method, code, duration, namespace and peer; never a message, which may hold a secret."""

    def wrap(self, service: str, method: Method) -> Method:
        return around(method, _LoggedCall)


class _LoggedCall:
    __slots__ = ("_call", "_started")

    def __init__(self, call: CallContext) -> None:
        self._call = call
        self._started = time.monotonic()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = code_of(error)
        level = logging.ERROR if code in _OURS else logging.DEBUG
        if not logger.isEnabledFor(level):
            return
        fields = {
            "method": self._call.method,
            "code": code,
            "duration": f"{(time.monotonic() - self._started) * 1000:.3f}ms",
            "namespace": self._call.metadata.get(NAMESPACE_HEADER, ""),
            "peer": self._call.peer,
        }
        if error is not None:
            fields["error"] = str(error)
        logger.log(level, "call", extra={name: value for name, value in fields.items() if value})


def code_of(error: BaseException | None) -> str:
    """The status a caller sees for what a handler raised, or for its success."""
    match error:
        case None:
            return "OK"
        case HybridError():
            return error.code
        case asyncio.CancelledError() | GeneratorExit():
            return "CANCELLED"
        case _:
            return "UNKNOWN"
