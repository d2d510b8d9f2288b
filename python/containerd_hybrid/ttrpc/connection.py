"""What client and server have in common: a connection that sends and receives frames.

Reading is paused while a stream has too many undelivered messages. Because ttrpc has no flow control
of its own, that stops every stream of the connection; so a stream whose reader makes no progress for
a second is failed, as Go's implementation does it, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import cast

from containerd_hybrid.errors import HybridError, ResourceExhaustedError, UnavailableError
from containerd_hybrid.ttrpc.frame import (
    MAX_DATA_LENGTH,
    Decoded,
    FrameDecoder,
    FramingError,
    MessageType,
    encode,
)

logger = logging.getLogger(__name__)

_INBOX_HIGH = 64
_INBOX_LOW = 16
_STALLED_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a Unix socket, as the kernel says."""

    pid: int
    uid: int
    gid: int

    @property
    def is_same_user(self) -> bool:
        """Whether it runs as the user and group that we do."""
        return (self.uid, self.gid) == (os.geteuid(), os.getegid())

    def __str__(self) -> str:
        return f"pid:{self.pid}"


class Connection(asyncio.Protocol):
    """Frames over one asyncio transport. Subclasses handle what arrives and the end."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._decoder = FrameDecoder()
        self._writable = asyncio.Event()
        self._writable.set()
        self._full: dict[Inbox, asyncio.TimerHandle] = {}
        self._failure: str | None = None
        self._closed = asyncio.Event()

    # What subclasses implement

    def frame_received(self, frame: Decoded) -> None:
        raise NotImplementedError

    def connection_ended(self, reason: str) -> None:
        raise NotImplementedError

    # What they use

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    def peer(self) -> Peer | None:
        """The peer's credentials; None when it is not a Unix socket."""
        raw = self._transport.get_extra_info("socket") if self._transport else None
        if raw is None or raw.family != socket.AF_UNIX:
            return None
        data = raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return Peer(*struct.unpack("3i", data))

    def send(self, stream_id: int, type: MessageType, flags: int, data: bytes) -> None:
        """Hand a frame to the kernel, or to the transport's buffer; follow it with :meth:`drained`.

        Raises:
            ResourceExhaustedError: longer than a frame may be; nothing was sent.
            UnavailableError: the connection is gone.
        """
        check_length(data)
        if self._transport is None or self._transport.is_closing():
            raise UnavailableError(f"ttrpc: {self._failure or 'closed'}")
        self._transport.write(encode(stream_id, type, flags, data))

    async def drained(self) -> None:
        """Wait while the peer does not read what was sent."""
        await self._writable.wait()

    def close(self, reason: str = "closed") -> None:
        """Close at once; what is buffered is still sent."""
        self._failure = self._failure or reason
        if self._transport is not None:
            self._transport.close()

    async def shut(self, reason: str, *, flush: float = 0.0) -> None:
        """Close and wait for the end; a peer that does not read is given ``flush`` seconds."""
        self.close(reason)
        try:
            async with asyncio.timeout(flush):
                await self._closed.wait()
        except TimeoutError:
            if self._transport is not None:
                self._transport.abort()
            await self._closed.wait()

    async def wait_closed(self) -> None:
        """Return when the connection has ended, whoever ended it."""
        await self._closed.wait()

    def inbox_full(self, inbox: Inbox) -> None:
        """Stop reading until the inbox has been read from, or for a second."""
        if inbox in self._full or self._transport is None:
            return
        loop = asyncio.get_running_loop()
        self._full[inbox] = loop.call_later(_STALLED_AFTER, self._inbox_stalled, inbox)
        self._transport.pause_reading()

    def inbox_free(self, inbox: Inbox) -> None:
        """Go on reading, unless another inbox is full."""
        timer = self._full.pop(inbox, None)
        if timer is None:
            return
        timer.cancel()
        if not self._full and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _inbox_stalled(self, inbox: Inbox) -> None:
        inbox.discard()
        inbox.fail(ResourceExhaustedError("ttrpc: stream buffer full"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                if self.is_closed:
                    return
                self.frame_received(frame)
        except FramingError as error:
            logger.warning("ttrpc connection closed", extra={"error": str(error), "peer": str(self.peer())})
            self.close(str(error))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._full.values():
            timer.cancel()
        self._full.clear()
        self._writable.set()
        reason = self._failure or (str(exc) if exc else "closed")
        self._failure = reason
        self.connection_ended(reason)
        self._closed.set()


class Inbox:
    """Messages of one stream that its reader has not taken yet."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._error: HybridError | None = None
        self._changed = asyncio.Event()

    def put(self, message: bytes) -> None:
        """Add a message that arrived; after the end it is dropped."""
        if self._ended:
            return
        self._messages.append(message)
        self._changed.set()
        if len(self._messages) >= _INBOX_HIGH:
            self._connection.inbox_full(self)

    def end(self) -> None:
        """No more will come; what is here can still be read."""
        self._ended = True
        self._changed.set()

    def fail(self, error: HybridError) -> None:
        """End with an error, which readers get after what is still here."""
        if not self._ended:
            self._error = error
            self.end()

    async def get(self) -> bytes | None:
        """The next message, None after the last.

        Raises:
            HybridError: what :meth:`fail` was given.
        """
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        message = self._messages.popleft()
        if len(self._messages) <= _INBOX_LOW:
            self._connection.inbox_free(self)
        return message

    def discard(self) -> None:
        """Drop what is here; a reader that has gone calls :meth:`end` too."""
        self._messages.clear()
        self._connection.inbox_free(self)


def check_length(data: bytes) -> None:
    """ResourceExhaustedError when ``data`` does not fit into a frame."""
    if len(data) > MAX_DATA_LENGTH:
        raise ResourceExhaustedError(
            f"message length {len(data)} exceed maximum message size of {MAX_DATA_LENGTH}"
        )
