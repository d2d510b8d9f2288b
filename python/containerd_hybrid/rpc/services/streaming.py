"""containerd.services.streaming.v1.Streaming"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.errors import InvalidArgumentError, UnavailableError
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.services.streaming.v1 import streaming_pb2 as pb
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.streaming.api import StreamManager

# Messages that wait for the transport; more would only hide that the receiver is slow.
_SEND_QUEUE = 4


class StreamingService:
    """A call that stays open as a stream until the call that uses it closes it."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Streaming"]

    def __init__(self, streams: StreamManager) -> None:
        self._streams = streams

    async def stream(
        self, requests: AsyncIterator[AnyMessage], call: CallContext
    ) -> AsyncIterator[AnyMessage]:
        first = await anext(requests, None)
        if first is None:
            return
        if first.type_url.rpartition("/")[2] != pb.StreamInit.DESCRIPTOR.full_name:
            raise InvalidArgumentError(f"a stream begins with a StreamInit, not with {first.type_url!r}")
        name = pb.StreamInit.FromString(first.value).id
        stream = _WireStream(requests)
        self._streams.register(call.scope, name, stream)
        try:
            yield AnyMessage(type_url=Empty.DESCRIPTOR.full_name)  # tells the client that it is registered
            async for message in stream.outgoing():
                yield message
        finally:
            stream.close()
            self._streams.unregister(call.scope, name)


class _WireStream:
    """The handler's side of one open call."""

    def __init__(self, requests: AsyncIterator[AnyMessage]) -> None:
        self._requests = requests
        self._queue: asyncio.Queue[AnyMessage] = asyncio.Queue(_SEND_QUEUE)
        self._closed = asyncio.Event()

    async def send(self, message: AnyValue) -> None:
        put = asyncio.ensure_future(
            self._queue.put(AnyMessage(type_url=message.type_url, value=message.value))
        )
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({put, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not put.done():
                raise UnavailableError("the stream is closed")
        finally:
            put.cancel()
            closed.cancel()
            await asyncio.gather(put, closed, return_exceptions=True)

    async def receive(self) -> AnyValue | None:
        message = await anext(self._requests, None)
        return AnyValue(message.type_url, message.value) if message is not None else None

    def close(self) -> None:
        self._closed.set()

    async def outgoing(self) -> AsyncIterator[AnyMessage]:
        """What was sent, until the stream is closed and all of it is out."""
        closed = asyncio.ensure_future(self._closed.wait())
        get = asyncio.ensure_future(self._queue.get())
        try:
            while True:
                await asyncio.wait({get, closed}, return_when=asyncio.FIRST_COMPLETED)
                if not get.done():
                    return
                yield get.result()
                get = asyncio.ensure_future(self._queue.get())
        finally:
            get.cancel()
            closed.cancel()
            await asyncio.gather(get, closed, return_exceptions=True)
