"""What transfers send and receive over streams of the client (containerd.types.transfer).

Bytes go in windows that the receiving side grants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from google.protobuf.message import Message

from containerd_hybrid.errors import InvalidArgumentError, UnavailableError
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.types.transfer import streaming_pb2
from containerd_hybrid.streaming.api import Stream

# What a sender may send before it hears from us again; containerd's 64 KiB cost a round trip each.
WINDOW = 8 << 20

# How long a reader may take for what is left when the transfer is done.
_LAST_SECONDS = 5.0

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def pack(message: Message) -> AnyValue:
    """As streams carry it."""
    return AnyValue(message.DESCRIPTOR.full_name, message.SerializeToString())


class Telling(Generic[T]):
    """Sends in order without making the transfer wait for a slow reader; ``send`` sends one.

    A transfer goes on when nobody reads any more.
    """

    def __init__(self, stream: Stream, send: Callable[[T], Awaitable[None]]) -> None:
        self._stream = stream
        self._queue: asyncio.Queue[T | None] = asyncio.Queue()
        self._sender = asyncio.ensure_future(self._send(send))

    def tell(self, value: T) -> None:
        self._queue.put_nowait(value)

    async def finish(self) -> None:
        """Everything told is sent, or the reader is gone or too slow."""
        self._queue.put_nowait(None)
        try:
            await asyncio.wait({self._sender}, timeout=_LAST_SECONDS)
        finally:
            self._sender.cancel()
            self._stream.close()
            await asyncio.gather(self._sender, return_exceptions=True)

    async def _send(self, send: Callable[[T], Awaitable[None]]) -> None:
        with suppress(UnavailableError):
            while (value := await self._queue.get()) is not None:
                await send(value)


class ReceivedBytes:
    """Bytes that the client sends, with windows as containerd's streams have them."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._window = 0
        self._ended = False

    async def read(self, size: int) -> bytes:
        data = b""
        while not data and not self._ended:
            if self._window < WINDOW // 2:
                await self._grant()
            message = await self._stream.receive()
            self._ended = message is None
            if message is not None:
                data = _expect(message, streaming_pb2.Data).data
                self._window -= len(data)
        return data

    async def _grant(self) -> None:
        try:
            await self._stream.send(pack(streaming_pb2.WindowUpdate(update=WINDOW)))
            self._window += WINDOW
        except UnavailableError:
            pass  # the sender has sent all and closed; what it sent is still to be read


class SentBytes:
    """Bytes for the client, no more of them than it has asked for."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._window = 0

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            while self._window <= 0:
                message = await self._stream.receive()
                if message is None:
                    raise UnavailableError("the receiver of the archive is gone")
                self._window += _expect(message, streaming_pb2.WindowUpdate).update
            piece = view[: min(len(view), self._window)]
            await self._stream.send(pack(streaming_pb2.Data(data=bytes(piece))))
            self._window -= len(piece)
            view = view[len(piece) :]

    async def close(self) -> None:
        self._stream.close()


def _expect(message: AnyValue, kind: type[M]) -> M:
    parse: Callable[[bytes], M] = kind.FromString
    if message.type_name != kind.DESCRIPTOR.full_name:
        raise InvalidArgumentError(
            f"unexpected {message.type_url} on the stream: expected {kind.DESCRIPTOR.full_name}"
        )
    return parse(message.value)
