"""The client's end of streams that are opened beside a call (containerd.services.streaming.v1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, BinaryIO

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from containerd_hybrid.client.calls import Calls, fresh_name
from containerd_hybrid.errors import UnavailableError, UnimplementedError
from containerd_hybrid.proto.services.streaming.v1 import streaming_pb2 as pb
from containerd_hybrid.proto.types.transfer import streaming_pb2

_STREAMING = pb.DESCRIPTOR.services_by_name["Streaming"]
_CHUNK = 1 << 20
_WINDOW = 8 << 20
# gRPC does not learn why a call was refused when that happens while it is written to. Who waits a
# little (seconds) before the first write is told.
_OPENING_DELAYS = (0.0, 0.05, 0.5)


def pack(message: Message) -> AnyMessage:
    """An Any whose type url is the bare name, as containerd's own clients write it."""
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


class ClientStream:
    """An open stream; ``name`` is what a call refers to it by."""

    def __init__(self, calls: Calls, name: str, delay: float = 0) -> None:
        self.name = name
        self._delay = delay
        self._outgoing: asyncio.Queue[AnyMessage | None] = asyncio.Queue(4)
        self._incoming = calls.bidi_stream(_STREAMING, "Stream", self._messages(), AnyMessage)

    async def send(self, message: Message) -> None:
        """Waits while the transport does not take more."""
        await self._outgoing.put(pack(message))

    async def close_sending(self) -> None:
        """Tell the daemon that no more comes."""
        await self._outgoing.put(None)

    async def receive(self) -> AnyMessage | None:
        """The next message, None at the end."""
        return await anext(self._incoming, None)

    async def close(self) -> None:
        """End the call, whatever is still on its way."""
        if isinstance(self._incoming, AsyncGenerator):
            await self._incoming.aclose()

    async def _messages(self) -> AsyncIterator[AnyMessage]:
        if self._delay:
            await asyncio.sleep(self._delay)
        yield pack(pb.StreamInit(id=self.name))
        while (message := await self._outgoing.get()) is not None:
            yield message


@asynccontextmanager
async def open_stream(calls: Calls) -> AsyncIterator[ClientStream]:
    """A fresh stream, registered with the daemon."""
    stream = await _registered(calls)
    try:
        yield stream
    finally:
        await stream.close()


async def _registered(calls: Calls) -> ClientStream:
    for delay in _OPENING_DELAYS:
        try:
            return await _opened(calls, delay)
        except UnavailableError:
            continue
    return await _opened(calls, _OPENING_DELAYS[-1])


async def _opened(calls: Calls, delay: float) -> ClientStream:
    with transfer_needed():
        stream = ClientStream(calls, f"hybrid-{fresh_name(8)}", delay)
        try:
            if await stream.receive() is None:
                raise UnavailableError("the daemon closed a stream that was just opened")
        except BaseException:
            await stream.close()
            raise
    return stream


@contextmanager
def transfer_needed() -> Iterator[None]:
    """Says which daemon a call needs that the one we talk to does not know."""
    try:
        yield
    except UnimplementedError as error:
        raise UnimplementedError(
            "this daemon has no transfer service (containerd has it since 1.7): "
            f"bring images in with its own client, e.g. ctr image import ({error.message})"
        ) from error


async def send_file(stream: ClientStream, source: BinaryIO) -> None:
    """Send all of ``source``, no more at a time than the daemon asked for."""
    window = 0
    while data := await asyncio.to_thread(source.read, _CHUNK):
        view = memoryview(data)
        while view:
            while window <= 0:
                message = await stream.receive()
                if message is None:
                    return  # the call that reads tells why
                window += streaming_pb2.WindowUpdate.FromString(message.value).update
            piece = view[: min(len(view), window)]
            await stream.send(streaming_pb2.Data(data=bytes(piece)))
            window -= len(piece)
            view = view[len(piece) :]
    await stream.close_sending()


async def receive_file(stream: ClientStream, sink: BinaryIO) -> None:
    """Write all that the daemon sends into ``sink``."""
    window = 0
    while True:
        if window < _WINDOW // 2:
            await stream.send(streaming_pb2.WindowUpdate(update=_WINDOW))
            window += _WINDOW
        message = await stream.receive()
        if message is None:
            return
        data = streaming_pb2.Data.FromString(message.value).data
        window -= len(data)
        await asyncio.to_thread(sink.write, data)


async def while_moving(call: Coroutine[Any, Any, None], moving: Coroutine[Any, Any, None]) -> None:
    """Run a call and the stream it reads or writes; the call's error is the one that counts."""
    mover = asyncio.ensure_future(moving)
    caller = asyncio.ensure_future(call)
    try:
        await asyncio.wait({mover, caller}, return_when=asyncio.FIRST_COMPLETED)
        if mover.done() and mover.exception() is not None and not caller.done():
            # Give the call a moment to fail with the reason why its stream broke.
            await asyncio.wait({caller}, timeout=1)
            if not caller.done():
                caller.cancel()
                await asyncio.wait({caller})
                mover.result()
        await caller
        await mover
    finally:
        for task in (mover, caller):
            if not task.done():
                task.cancel()
        await asyncio.gather(mover, caller, return_exceptions=True)
