"""The caller's deadline: when it passes, the handler is cancelled, whatever the transport does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from containerd_hybrid.errors import DeadlineExceededError
from containerd_hybrid.rpc.api import CallContext, Method
from containerd_hybrid.rpc.interceptors.around import around_async


class DeadlineInterceptor:
    """Turns ``call.deadline`` into a DeadlineExceededError inside of the handler's task.

    The task must be the call's own: a stream handler is suspended between two messages, and a
    deadline that passes then is raised in whatever its task does. All our transports see to that.
    """

    def wrap(self, service: str, method: Method) -> Method:
        return around_async(method, _until_deadline)


@asynccontextmanager
async def _until_deadline(call: CallContext) -> AsyncIterator[None]:
    if call.deadline is None:
        yield
        return
    timeout = asyncio.timeout_at(call.deadline)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if timeout.expired():
            raise DeadlineExceededError("context deadline exceeded") from None
        raise
