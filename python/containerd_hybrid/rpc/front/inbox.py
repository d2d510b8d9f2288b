"""The messages of one stream of requests, between the connection and the handler."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

from containerd_hybrid.errors import InternalError, ResourceExhaustedError

# So many bytes are taken before the peer is told that it may send as much again; far less than its window.
_REPORTED = 64 << 10


class Inbox:
    """An async iterator over decoded messages. ``consumed`` is told how many bytes were taken."""

    __slots__ = ("_consumed", "_decode", "_ended", "_messages", "_taken", "_waiter")

    def __init__(self, decode: Callable[[bytes, bool], Any], consumed: Callable[[int], None]) -> None:
        self._decode = decode
        self._consumed = consumed
        self._messages: deque[tuple[bytes, bool]] = deque()
        self._ended = False
        self._taken = 0
        self._waiter: asyncio.Future[None] | None = None

    def put(self, payload: bytes, compressed: bool) -> None:
        """Add a message that arrived. How many may wait is for the peer's window to say."""
        self._messages.append((payload, compressed))
        self._wake()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._wake()

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Any:
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        payload, compressed = self._messages.popleft()
        self._taken += len(payload)
        if self._taken >= _REPORTED:
            self._consumed(self._taken)
            self._taken = 0
        return self._decode(payload, compressed)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def decompress(payload: bytes, limit: int) -> bytes:
    """A gzip message, of ``limit`` bytes at most.

    Raises:
        InternalError: it is damaged.
        ResourceExhaustedError: it would be larger.
    """
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(payload, limit + 1)
    except zlib.error as error:
        raise InternalError(f"grpc: failed to decompress the received message: {error}") from None
    if len(data) > limit:
        raise ResourceExhaustedError(f"grpc: received message after decompression larger than max {limit}")
    if not inflater.eof:
        raise InternalError("grpc: failed to decompress the received message: unexpected EOF")
    return data
