"""Calls without a wire: the daemon's handlers, called from the same process.

Satisfies ``client.api.Transport``. Messages are copied on their way in and out, so that neither side
sees the other change one; errors arrive as the objects that were raised. A stream handler runs in a
task of its own, as it does behind a socket, and a bounded queue between it and the caller stands in
for the flow control of HTTP/2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from containerd_hybrid.errors import UnavailableError, UnimplementedError
from containerd_hybrid.rpc.api import CallContext, Encoded, Kind, Method, Service

M = TypeVar("M", bound=Message)

_QUEUED = 16


class InProcessTransport:
    """Calls ``services`` (already inside their interceptors) until it is closed."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services = {service.name: service for service in services}
        self._streams: set[asyncio.Task[None]] = set()
        self._closed = False

    async def unary(
        self,
        service: str,
        method: str,
        request: Message,
        response: type[M],
        *,
        metadata: Mapping[str, str],
        timeout: float | None = None,
    ) -> M:
        """Call a unary method. Cancelling the caller cancels the handler, which runs in its task."""
        found = self._method(service, method, Kind.UNARY)
        handler = cast(Any, found.handler)
        answer = await handler(_copy(request, found.request), _context(service, method, metadata, timeout))
        return _copy(answer, response)

    def server_stream(
        self, service: str, method: str, request: Message, response: type[M], *, metadata: Mapping[str, str]
    ) -> AsyncIterator[M]:
        """Call a server streaming method; it begins at the first message that is asked for."""
        found = self._method(service, method, Kind.SERVER_STREAM)
        return self._responses(
            found, _copy(request, found.request), _context(service, method, metadata), response
        )

    def bidi_stream(
        self,
        service: str,
        method: str,
        requests: AsyncIterator[Message],
        response: type[M],
        *,
        metadata: Mapping[str, str],
    ) -> AsyncIterator[M]:
        """Call a bidirectional method; requests are taken ahead of the handler, a few at most."""
        found = self._method(service, method, Kind.BIDI_STREAM)
        return self._responses(found, requests, _context(service, method, metadata), response)

    async def close(self) -> None:
        """End the streams that are open and refuse further calls."""
        self._closed = True
        streams = list(self._streams)
        for task in streams:
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    def _method(self, service: str, method: str, kind: Kind) -> Method:
        if self._closed:
            raise UnavailableError("the runtime is closed")
        found = self._services.get(service)
        if found is None:
            raise UnimplementedError(f"unknown service {service}")
        if method not in found.methods or found.methods[method].kind is not kind:
            raise UnimplementedError(f"unknown method {method} for service {service}")
        return found.methods[method]

    async def _responses(
        self, method: Method, request: Any, call: CallContext, response: type[M]
    ) -> AsyncIterator[M]:
        stream = _Stream(method, request, call)
        self._streams.add(stream.task)
        stream.task.add_done_callback(self._streams.discard)
        try:
            while (message := await stream.next()) is not None:
                yield _copy(message, response)
        finally:
            await _cancelled(stream.task)


class _Stream:
    """One running stream handler and the queue of its responses."""

    def __init__(self, method: Method, request: Any, call: CallContext) -> None:
        self._method = method
        self._queue: asyncio.Queue[Message] = asyncio.Queue(_QUEUED)
        self._request_failure: Exception | None = None
        self.task = asyncio.create_task(self._serve(request, call), name=call.method)

    async def next(self) -> Message | None:
        """The next response, None after the last; raises what the handler raised."""
        if self._queue.empty():
            getter = asyncio.ensure_future(self._queue.get())
            try:
                await asyncio.wait({getter, self.task}, return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    return getter.result()
            finally:
                getter.cancel()
        if not self._queue.empty():
            return self._queue.get_nowait()
        if self._request_failure is not None:
            raise self._request_failure
        if self.task.cancelled():
            raise UnavailableError("the runtime is closed")
        self.task.result()
        return None

    async def _serve(self, request: Any, call: CallContext) -> None:
        handler = cast(Any, self._method.handler)
        if self._method.kind is Kind.BIDI_STREAM:
            async with aclosing(self._requests(request)) as requests:
                await self._pump(handler(requests, call))
        else:
            await self._pump(handler(request, call))

    async def _pump(self, responses: Any) -> None:
        async with aclosing(responses) as messages:
            async for message in messages:
                # Copied here and not by the reader: the handler may change its message after the yield.
                await self._queue.put(_copy(message, type(message)))

    async def _requests(self, source: AsyncIterator[Message]) -> AsyncGenerator[Message, None]:
        queue: asyncio.Queue[Message | None] = asyncio.Queue(_QUEUED)
        reader = asyncio.create_task(self._read(source, queue))
        try:
            while (message := await queue.get()) is not None:
                yield message
        finally:
            await _cancelled(reader)

    async def _read(self, source: AsyncIterator[Message], queue: asyncio.Queue[Message | None]) -> None:
        try:
            async for message in source:
                await queue.put(_copy(message, self._method.request))
        except Exception as error:
            # The caller's own failure: it gets it back as it was, and the handler sees a cancelled call.
            self._request_failure = error
            self.task.cancel()
        else:
            await queue.put(None)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until its clean-up is done."""
    task.cancel()
    await asyncio.wait({task})


def _context(
    service: str, method: str, metadata: Mapping[str, str], timeout: float | None = None
) -> CallContext:
    return CallContext(
        method=f"/{service}/{method}",
        metadata={key.lower(): value for key, value in metadata.items()},
        deadline=None if timeout is None else asyncio.get_running_loop().time() + timeout,
        peer="in-process",
    )


def _copy(message: Any, kind: type[M]) -> M:
    if isinstance(message, Encoded):
        # Never changed, and only its bytes are known: it becomes a message where the caller wants one.
        if cast(Any, kind) is Encoded:
            return cast(M, message)
        return kind.FromString(message.SerializeToString())
    if isinstance(message, kind):
        copy = kind()
        copy.CopyFrom(message)
        return copy
    # The same message type from another descriptor pool: only the bytes are common to both.
    return kind.FromString(message.SerializeToString())
