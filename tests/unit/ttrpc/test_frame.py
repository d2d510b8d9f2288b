"""The frame codec: what PROTOCOL.md says, in whatever pieces and with whatever garbage."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containerd_hybrid.ttrpc.frame import (
    HEADER_LENGTH,
    MAX_DATA_LENGTH,
    Flag,
    Frame,
    FrameDecoder,
    FramingError,
    MessageType,
    OversizedFrame,
    encode,
)

frames = st.builds(
    Frame,
    stream_id=st.integers(0, 2**32 - 1),
    type=st.sampled_from(MessageType),
    flags=st.integers(0, 255),
    data=st.binary(max_size=300),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_the_bytes_of_a_frame() -> None:
    data = encode(0x01020304, MessageType.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA, b"abc")
    assert data == bytes([0, 0, 0, 3, 1, 2, 3, 4, 3, 5]) + b"abc"


@given(st.lists(frames), st.lists(st.integers(0)))
def test_frames_arrive_whole_in_any_pieces(sent: list[Frame], places: list[int]) -> None:
    data = b"".join(encode(f.stream_id, MessageType(f.type), f.flags, f.data) for f in sent)
    decoder = FrameDecoder()
    assert [frame for piece in cut(data, places) for frame in decoder.feed(piece)] == sent


@settings(max_examples=20)
@given(st.lists(st.integers(0), max_size=5), st.integers(1, 2000))
def test_an_oversized_frame_is_skipped_and_the_next_one_read(places: list[int], beyond: int) -> None:
    length = MAX_DATA_LENGTH + beyond
    data = length.to_bytes(4) + (7).to_bytes(4) + bytes([1, 0]) + bytes(length)
    data += encode(9, MessageType.REQUEST, 0, b"next")
    decoder = FrameDecoder()
    got = [frame for piece in cut(data, places) for frame in decoder.feed(piece)]
    assert got == [OversizedFrame(7, 1, length), Frame(9, 1, 0, b"next")]


def test_a_frame_of_exactly_the_limit_is_read() -> None:
    (frame,) = FrameDecoder().feed(encode(1, MessageType.DATA, 0, bytes(MAX_DATA_LENGTH)))
    assert isinstance(frame, Frame)
    assert len(frame.data) == MAX_DATA_LENGTH


@given(st.integers(1, 255))
def test_a_reserved_byte_that_is_not_zero_ends_it(reserved: int) -> None:
    with pytest.raises(FramingError):
        list(FrameDecoder().feed(bytes([reserved]) + bytes(HEADER_LENGTH - 1)))


@given(st.lists(st.binary(max_size=60)))
def test_garbage_gives_frames_or_a_framing_error_and_nothing_else(pieces: list[bytes]) -> None:
    decoder = FrameDecoder()
    read = []
    with contextlib.suppress(FramingError):
        for piece in pieces:
            read += [frame for frame in decoder.feed(piece) if isinstance(frame, Frame)]
    assert sum(HEADER_LENGTH + len(frame.data) for frame in read) <= sum(map(len, pieces))


@given(st.binary(max_size=HEADER_LENGTH - 2))
def test_less_than_a_header_is_kept_for_later(rest: bytes) -> None:
    decoder = FrameDecoder()
    assert list(decoder.feed(b"")) == []
    assert list(decoder.feed(b"\0" + rest)) == []
