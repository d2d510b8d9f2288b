"""The one place that knows how to put code around a handler of any kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from typing import Any, TypeAlias, cast

from google.protobuf.message import Message

from containerd_hybrid.rpc.api import CallContext, Handler, Kind, Method

Enter: TypeAlias = Callable[[CallContext], AbstractContextManager[object]]


def answers_once(method: Method) -> bool:
    """Whether the handler is a coroutine function, not an async iterator of responses."""
    return method.kind in {Kind.UNARY, Kind.CLIENT_STREAM}


def around(method: Method, enter: Enter) -> Method:
    """The method with its handler run inside ``enter(call)``; the manager sees what the handler raises."""
    handler = cast(Any, method.handler)

    async def once(request: Any, call: CallContext) -> Message:
        with enter(call):
            return cast(Message, await handler(request, call))

    async def many(request: Any, call: CallContext) -> AsyncIterator[Message]:
        with enter(call):
            async with aclosing(handler(request, call)) as responses:
                async for response in responses:
                    yield response

    return _with_handler(method, once if answers_once(method) else many)


def with_context(method: Method, change: Callable[[CallContext], CallContext]) -> Method:
    """The method with its handler given ``change(call)``; what ``change`` raises fails the call.

    ``change`` runs when the handler is called, not when its result is awaited, so an interceptor
    outside must call the handler inside of what it puts around it; :func:`around` does.
    """
    handler = cast(Any, method.handler)

    def changed(request: Any, call: CallContext) -> Any:
        return handler(request, change(call))

    return _with_handler(method, changed)


def _with_handler(method: Method, handler: Any) -> Method:
    return replace(method, handler=cast(Handler, handler))
