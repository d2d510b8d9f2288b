"""Streams against a shim that is a few lines of the test: whole, in order, ended, and cleaned up."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.client import pumps
from containerd_hybrid.client.process import signal_number
from containerd_hybrid.client.stdio import ProcessStreams, Streams
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.testing.waiting import until_async


def in_thread(work: Callable[[], object]) -> asyncio.Future[object]:
    return asyncio.ensure_future(asyncio.to_thread(work))


async def opened(
    streams: Streams, *, terminal: bool = False, ended: Callable[[], None] = lambda: None
) -> ProcessStreams:
    return await ProcessStreams.open(streams, terminal=terminal, stdin_ended=ended)


def open_both(path: str) -> tuple[int, int]:
    """As shims do it: also the reading end, so that a client that leaves does not break the process."""
    return os.open(path, os.O_WRONLY), os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def left() -> list[Path]:
    return list(Path("/run").glob(f"containerd-hybrid-fifo-{os.getpid()}-*"))


async def test_without_a_wish_there_is_nothing() -> None:
    streams = await opened(Streams())
    assert (streams.stdin, streams.stdout, streams.stderr) == ("", "", "")
    streams.start()
    await streams.drained()
    await streams.close()


async def test_with_one_wish_there_are_both_outputs() -> None:
    streams = await opened(Streams(stdin=b""))
    assert streams.stdin.endswith("/stdin")
    assert (streams.stdout, streams.stderr) == ("/dev/null", "/dev/null")
    await streams.close()
    streams = await opened(Streams(stderr=lambda data: None))
    assert (streams.stdin, streams.stdout) == ("", "/dev/null")
    assert streams.stderr.endswith("/stderr")
    await streams.close()


async def test_a_terminal_has_one_output_that_is_always_taken() -> None:
    streams = await opened(Streams(), terminal=True)
    assert streams.stdout.endswith("/stdout")
    assert streams.stderr == ""
    streams.start()

    def write() -> None:
        with Path(streams.stdout).open("wb") as pipe:
            pipe.write(bytes(1 << 20))

    await in_thread(write)
    await streams.drained()
    await streams.close()
    assert left() == []


async def test_output_is_whole_and_in_order() -> None:
    seen = bytearray()
    streams = await opened(Streams(stdout=seen.extend))
    data = os.urandom(5 << 20)

    def write() -> None:
        with Path(streams.stdout).open("wb") as pipe:
            pipe.write(data)

    streams.start()
    await in_thread(write)
    await streams.drained()
    assert seen == data
    await streams.close()


async def test_output_that_was_written_before_anybody_looked() -> None:
    seen = bytearray()
    streams = await opened(Streams(stdout=seen.extend))
    os.close(_written(streams.stdout, b"early"))
    streams.start()
    await streams.drained()
    assert seen == b"early"
    await streams.close()


def _written(path: str, data: bytes) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(descriptor, data)
    return descriptor


@pytest.mark.parametrize("blocking", [True, False])
async def test_output_to_a_descriptor_that_blocks_or_not(blocking: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    streams = await opened(Streams(stdout=writing))
    data = os.urandom(3 << 20)

    def write() -> None:
        with Path(streams.stdout).open("wb") as pipe:
            pipe.write(data)

    def read() -> bytes:
        with os.fdopen(reading, "rb") as pipe:
            return pipe.read()

    reader = in_thread(read)
    streams.start()
    await in_thread(write)
    await streams.drained()
    await streams.close()
    os.close(writing)
    assert await reader == data


async def test_somebody_who_holds_the_stream_open_is_waited_for_while_he_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watching: list[pumps.Readiness] = []
    seen = bytearray()

    class Noted(pumps.Readiness):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            watching.append(self)

    def sink(data: bytes) -> None:
        seen.extend(data)
        if len(seen) == 10:
            # From now on he is silent; a machine that stood still must not be taken for that before.
            monkeypatch.setattr(pumps, "_IDLE_MILLISECONDS", 50)
            if watching[0]._timeout is not None:
                watching[0]._timeout = 50

    monkeypatch.setattr(pumps, "Readiness", Noted)
    monkeypatch.setattr(pumps, "_IDLE_MILLISECONDS", 600_000)

    streams = await opened(Streams(stdout=sink))
    writer = os.open(streams.stdout, os.O_WRONLY | os.O_NONBLOCK)
    streams.start()

    def go_on() -> None:
        for _ in range(10):
            os.write(writer, b".")
            time.sleep(0.02)

    writing = in_thread(go_on)
    await streams.drained()
    assert seen == b"." * 10
    await writing
    os.close(writer)
    await streams.close()


async def test_a_sink_that_fails_is_told_at_the_end_and_the_rest_thrown_away() -> None:
    calls = 0

    def fail(data: bytes) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("full")

    streams = await opened(Streams(stdout=fail))
    streams.start()

    def write() -> None:
        with Path(streams.stdout).open("wb") as pipe:
            pipe.write(bytes(4 << 20))

    await in_thread(write)
    with pytest.raises(ValueError, match="full"):
        await streams.drained()
    assert calls == 1
    await streams.close()


async def test_input_of_bytes_ends() -> None:
    ended = asyncio.Event()
    data = os.urandom(2 << 20)
    streams = await opened(Streams(stdin=data), ended=ended.set)
    streams.start()

    def read() -> bytes:
        with Path(streams.stdin).open("rb") as pipe:
            return pipe.read()

    assert await in_thread(read) == data
    await ended.wait()
    await streams.close()
    assert left() == []


async def test_input_waits_for_a_reader_who_comes_late() -> None:
    streams = await opened(Streams(stdin=b"late"))
    streams.start()
    await asyncio.sleep(0.1)

    def read() -> bytes:
        with Path(streams.stdin).open("rb") as pipe:
            return pipe.read()

    assert await in_thread(read) == b"late"
    await streams.close()


async def test_input_of_a_descriptor_comes_as_it_comes() -> None:
    reading, writing = os.pipe()
    ended = asyncio.Event()
    streams = await opened(Streams(stdin=reading), ended=ended.set)
    streams.start()
    shim = await in_thread(lambda: os.open(streams.stdin, os.O_RDONLY))
    assert isinstance(shim, int)
    for word in (b"one", b"two"):
        os.write(writing, word)
        assert await in_thread(lambda: os.read(shim, 100)) == word
    assert not ended.is_set()
    os.close(writing)
    await ended.wait()
    assert os.read(shim, 100) == b""
    os.close(shim)
    os.close(reading)
    await streams.close()


@pytest.mark.parametrize("source", [b"x" * (4 << 20), "descriptor"])
async def test_nobody_reads_the_input(source: bytes | str) -> None:
    ended = asyncio.Event()
    reading, writing = os.pipe()
    streams = await opened(Streams(stdin=reading if isinstance(source, str) else source), ended=ended.set)
    streams.start()
    shim = os.open(streams.stdin, os.O_RDONLY | os.O_NONBLOCK)
    await asyncio.sleep(0.1)
    os.close(shim)
    await streams.close()
    assert not ended.is_set()
    os.close(reading)
    os.close(writing)
    await _no_threads()


async def test_closing_in_the_middle_of_everything_leaves_nothing() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    reading, writing = os.pipe()
    streams = await opened(Streams(reading, lambda data: None, lambda data: None))
    await streams.close()
    streams = await opened(Streams(reading, lambda data: None, lambda data: None))
    streams.start()
    shim = open_both(streams.stdout)
    await streams.close()
    await streams.close()
    for descriptor in (*shim, reading, writing):
        os.close(descriptor)
    await _no_threads()
    assert left() == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


async def test_a_sink_that_blocks_for_ever_does_not_keep_who_closes() -> None:
    release = threading.Event()
    streams = await opened(Streams(stdout=lambda data: release.wait()))
    streams.start()
    os.close(_written(streams.stdout, b"x"))
    await streams.close()
    assert left() == []
    release.set()
    await _no_threads()


async def test_what_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, mode: int) -> None:
        if path.name == "stderr":
            raise OSError(28, "No space left on device")
        make(path, mode)

    make = os.mkfifo
    monkeypatch.setattr(os, "mkfifo", fail)
    with pytest.raises(OSError, match="No space left"):
        await opened(Streams(b"", lambda data: None, lambda data: None))
    assert left() == []


async def _no_threads() -> None:
    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    await until_async(lambda: not [name for name in names() if name.startswith("stdio")], names)


# --- signals


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (9, 9),
        ("9", 9),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("winch", 28),
        ("RTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        (signal.SIGHUP, 1),
    ],
)
def test_signals_by_any_name(text: int | str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "NOPE", "0", 0, -1, "65", "RTMIN+99", "KILL+x", "SIG", "_DFL"])
def test_signals_that_do_not_exist(text: int | str) -> None:
    with pytest.raises(InvalidArgumentError, match="there is no signal"):
        signal_number(text)
