"""Layers through programs: what they are given, how they follow one another, how they fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid.diff.processors import StreamProcessor, StreamProcessors
from containerd_hybrid.errors import FailedPreconditionError, UnknownError


def program(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def blob(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "blob").write_bytes(b"0123456789")
    descriptor = os.open(tmp_path / "blob", os.O_RDONLY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


async def read(stream: int) -> bytes:
    parts = []
    while part := await asyncio.to_thread(os.read, stream, 65536):
        parts.append(part)
    return b"".join(parts)


async def test_standard_streams_arguments_environment_and_payload(tmp_path: Path, blob: int) -> None:
    script = 'echo "$1 $KEY $STREAM_PROCESSOR_MEDIATYPE $(cat <&3)"; cat'
    decoder = StreamProcessor(
        "d", ("x+encrypted",), "x", program(tmp_path, "d", script), ("one",), ("KEY=a=b",)
    )
    processors = StreamProcessors([decoder])
    assert processors.accepts("x+encrypted")
    assert not processors.accepts("x")
    async with processors.opened(blob, "x+encrypted", {"d": b"payload", "other": b"no"}) as processed:
        assert processed.media_type == "x"
        assert await read(processed.stream) == b"one a=b x+encrypted payload\n0123456789"
        await processed.check()


async def test_programs_follow_one_another(tmp_path: Path, blob: int) -> None:
    processors = StreamProcessors(
        [
            StreamProcessor("second", ("b",), "c", program(tmp_path, "s", "cat; echo second")),
            StreamProcessor("first", ("a",), "b", program(tmp_path, "f", "cat; echo first")),
        ]
    )
    async with processors.opened(blob, "a") as processed:
        assert processed.media_type == "c"
        assert await read(processed.stream) == b"0123456789first\nsecond\n"
        await processed.check()


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo wrong key >&2; exit 3", "wrong key"), ("exit 3", "exit code 3"), ("kill -9 $$", "signal 9")],
)
async def test_one_that_fails_says_why(tmp_path: Path, blob: int, script: str, said: str) -> None:
    processors = StreamProcessors([StreamProcessor("d", ("a",), "b", program(tmp_path, "d", script))])
    async with processors.opened(blob, "a") as processed:
        assert await read(processed.stream) == b""
        with pytest.raises(UnknownError, match=rf"stream processor d \(.*/d\) failed: {said}$"):
            await processed.check()


async def test_what_is_not_installed_and_what_leads_in_a_circle(blob: int) -> None:
    missing = StreamProcessors([StreamProcessor("d", ("a",), "b", "no-such-decoder")])
    with pytest.raises(FailedPreconditionError, match="its program no-such-decoder is not installed"):
        async with missing.opened(blob, "a"):
            pass
    circle = StreamProcessors([StreamProcessor("d", ("a",), "a", "cat")])
    with pytest.raises(FailedPreconditionError, match="in a circle: d → d"):
        async with circle.opened(blob, "a"):
            pass


async def test_nobody_is_left_when_the_reader_gives_up(tmp_path: Path, blob: int) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; wait"
    processors = StreamProcessors([StreamProcessor("d", ("a",), "b", program(tmp_path, "d", script))])
    with pytest.raises(KeyError):  # noqa: PT012
        async with processors.opened(blob, "a"):
            while not (tmp_path / "pid").exists():
                await asyncio.sleep(0.01)
            raise KeyError
    stat = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            await asyncio.sleep(0.01)
