"""The one place where failures become statuses.

What a handler raises leaves here as a :class:`HybridError`, whose code and message a transport can
send as they are. An error of ours passes through. What the system says (disk full, a damaged
database) gets the code it deserves. Anything else is a bug: the log has all of it, the caller only
its kind, because an unforeseen message may hold a secret.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
from types import TracebackType

from google.protobuf.message import DecodeError

from containerd_hybrid.errors import (
    DataLossError,
    DeadlineExceededError,
    HybridError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
    error_for_os,
)
from containerd_hybrid.rpc.api import CallContext, Method
from containerd_hybrid.rpc.interceptors.around import around

logger = logging.getLogger(__name__)

_SQLITE_CLASSES: dict[int, type[HybridError]] = {
    sqlite3.SQLITE_FULL: ResourceExhaustedError,
    sqlite3.SQLITE_NOMEM: ResourceExhaustedError,
    sqlite3.SQLITE_BUSY: UnavailableError,
    sqlite3.SQLITE_LOCKED: UnavailableError,
    sqlite3.SQLITE_CORRUPT: DataLossError,
    sqlite3.SQLITE_NOTADB: DataLossError,
    sqlite3.SQLITE_IOERR: DataLossError,
}


class ErrorInterceptor:
    """Lets nothing but HybridError (and cancellation) out of a handler."""

    def wrap(self, service: str, method: Method) -> Method:
        return around(method, _Translation)


class _Translation:
    __slots__ = ("_call",)

    def __init__(self, call: CallContext) -> None:
        self._call = call

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, HybridError) or not isinstance(error, Exception):
            return
        raise translate(error, self._call.method) from error


def translate(error: Exception, method: str) -> HybridError:
    """The error that a caller of ``method`` is told instead of ``error``, which is logged if it is ours."""
    match error:
        case HybridError():
            return error
        case TimeoutError():
            # Not the caller's deadline (that one is a HybridError): something of ours took too long.
            return DeadlineExceededError(f"{method}: {str(error) or 'an operation took too long'}")
        case DecodeError():
            return InvalidArgumentError(f"{method}: a message in the request cannot be decoded: {error}")
    logger.error("call failed", exc_info=error, extra={"method": method})
    match error:
        case OSError(errno=int()):
            return _from_os(error)
        case sqlite3.Error():
            return _from_sqlite(error)
        case MemoryError():
            return ResourceExhaustedError(f"{method}: out of memory")
        case _:
            return InternalError(
                f"{method}: unexpected {type(error).__name__}, a bug: the daemon's log has the details"
            )


def _from_os(error: OSError) -> HybridError:
    """The system's words and the path are told, as containerd does: they name what to look at."""
    words = error.strerror or errno.errorcode.get(error.errno or 0, "error")
    message = ": ".join(str(part) for part in (error.filename, words[:1].lower() + words[1:]) if part)
    return type(error_for_os(error, ""))(message)


def _from_sqlite(error: sqlite3.Error) -> HybridError:
    # Extended codes (SQLITE_IOERR_WRITE) have the primary one in their low byte.
    primary = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return _SQLITE_CLASSES.get(primary, InternalError)(f"metadata store: {error}")
