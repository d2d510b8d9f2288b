"""The caller's deadline: when it passes, the handler is cancelled, whatever the transport does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, cast

from google.protobuf.message import Message

from containerd_hybrid.errors import DeadlineExceededError
from containerd_hybrid.rpc.api import CallContext, Handler, Method
from containerd_hybrid.rpc.interceptors.around import answers_once


class DeadlineInterceptor:
    """Turns ``call.deadline`` into a DeadlineExceededError inside of the handler's task.

    The task must be the call's own: a stream handler is suspended between two messages, and a
    deadline that passes then is raised in whatever its task does. All our transports see to that.
    Most calls have no deadline, and go straight through.
    """

    def wrap(self, service: str, method: Method) -> Method:
        handler = cast(Any, method.handler)

        async def timed(request: Any, call: CallContext) -> Message:
            async with _Deadline(call):
                return cast(Message, await handler(request, call))

        def once(request: Any, call: CallContext) -> Any:
            return (handler if call.deadline is None else timed)(request, call)

        async def many(request: Any, call: CallContext) -> AsyncIterator[Message]:
            async with _Deadline(call), aclosing(handler(request, call)) as responses:
                async for response in responses:
                    yield response

        return replace(method, handler=cast(Handler, once if answers_once(method) else many))


class _Deadline:
    """Like asyncio.timeout_at, with an error of ours."""

    __slots__ = ("_timeout",)

    def __init__(self, call: CallContext) -> None:
        self._timeout = asyncio.timeout_at(call.deadline)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._timeout.expired():
                raise DeadlineExceededError("context deadline exceeded") from None
            raise
