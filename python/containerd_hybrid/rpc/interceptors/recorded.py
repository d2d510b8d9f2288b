"""A call is answered when the events it caused are in the log, so that SIGKILL takes none of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from google.protobuf.message import Message

from containerd_hybrid.events.api import EventLog
from containerd_hybrid.rpc.api import CallContext, Handler, Kind, Method
from containerd_hybrid.rpc.interceptors.around import answers_once


class RecordedInterceptor:
    """Waits for ``log`` before each answer, if something was published since the last one.

    What only tells (server streams: subscriptions, lists, reads) causes no events and does not wait.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def wrap(self, service: str, method: Method) -> Method:
        if method.kind is Kind.SERVER_STREAM:
            return method
        handler, log = cast(Any, method.handler), self._log

        async def once(request: Any, call: CallContext) -> Message:
            before = log.last
            response = await handler(request, call)
            if log.last != before:
                await log.settled()
            return cast(Message, response)

        async def many(request: Any, call: CallContext) -> AsyncIterator[Message]:
            before = log.last
            async with aclosing(handler(request, call)) as responses:
                async for response in responses:
                    if log.last != before:
                        before = log.last
                        await log.settled()
                    yield response

        return replace(method, handler=cast(Handler, once if answers_once(method) else many))
