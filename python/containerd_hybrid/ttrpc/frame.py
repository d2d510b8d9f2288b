"""Frames of the ttrpc wire (github.com/containerd/ttrpc, PROTOCOL.md), without any I/O.

    data length (4 bytes, big endian) | stream id (4, big endian) | type (1) | flags (1) | data

A frame longer than the limit is skipped and reported, so that the one call it belongs to fails and
the connection lives on. The first byte of a header is reserved and must be zero: any other value
means that the two sides are out of step, and nothing after it can be trusted.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

HEADER_LENGTH = 10
MAX_DATA_LENGTH = 4 << 20
_RESERVED = 1 << 24
_HEADER = struct.Struct(">IIBB")


class MessageType(enum.IntEnum):
    """What a frame is. A receiver ignores types it does not know."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(enum.IntFlag):
    """Seen from the receiver: whether its remote side will send more on the stream."""

    REMOTE_CLOSED = 1
    REMOTE_OPEN = 2
    NO_DATA = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; ``type`` and ``flags`` are plain numbers because a peer may send unknown ones."""

    stream_id: int
    type: int
    flags: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class OversizedFrame:
    """The header of a frame whose ``length`` bytes of data were skipped."""

    stream_id: int
    type: int
    length: int


Decoded: TypeAlias = Frame | OversizedFrame


class FramingError(Exception):
    """The bytes are not frames; the connection is of no further use."""


def encode(stream_id: int, type: MessageType, flags: int, data: bytes) -> bytes:
    """A frame's bytes. ``data`` is at most MAX_DATA_LENGTH, which the caller has checked."""
    return _HEADER.pack(len(data), stream_id, type, flags) + data


class FrameDecoder:
    """Cuts a byte stream into frames, in whatever pieces it arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[Decoded]:
        """The frames that ``data`` completes. Consume the iterator before the next call.

        Raises:
            FramingError: a header's reserved byte is not zero.
        """
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= HEADER_LENGTH:
                length, stream_id, kind, flags = _HEADER.unpack_from(self._buffer, start)
                if length >= _RESERVED:
                    raise FramingError(f"not a ttrpc frame: the reserved byte is {length >> 24:#04x}")
                end = start + HEADER_LENGTH + length
                if length > MAX_DATA_LENGTH:
                    self._skip = max(0, end - len(self._buffer))
                    start = min(end, len(self._buffer))
                    yield OversizedFrame(stream_id, kind, length)
                elif end > len(self._buffer):
                    return
                else:
                    body = bytes(self._buffer[start + HEADER_LENGTH : end])
                    start = end
                    yield Frame(stream_id, kind, flags, body)
        finally:
            del self._buffer[:start]
