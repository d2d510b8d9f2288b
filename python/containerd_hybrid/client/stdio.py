"""The streams of a process: FIFOs that its shim writes to and reads from, pumped by threads.

A FIFO's reading end is opened before the shim opens the other, without waiting; the pump starts
once the shim has, and ends when the shim closes its end, which it does after the last byte. So
when a pump has ended, its stream is whole.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Sink: TypeAlias = int | Callable[[bytes], object] | None
"""Where output goes: a file descriptor, a function (called in a thread), or nowhere."""
Source: TypeAlias = int | bytes | None
"""Where input comes from: a file descriptor, bytes, or nowhere."""

_CHUNK = 256 << 10
_FIFO_ROOT = Path("/run/containerd-hybrid/fifo")


@dataclass(frozen=True, slots=True)
class Streams:
    """What the caller wants of a process's streams. With ``terminal`` there is no separate stderr."""

    stdin: Source = None
    stdout: Sink = None
    stderr: Sink = None
    terminal: bool = False


class ProcessStreams:
    """The FIFOs of one process and the threads that serve them."""

    def __init__(self, streams: Streams, stdin_ended: Callable[[], None] | None = None) -> None:
        """``stdin_ended`` is called on the event loop when all input was handed over."""
        self._streams = streams
        self._stdin_ended = stdin_ended
        self._loop = asyncio.get_running_loop()
        _FIFO_ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=_FIFO_ROOT))
        self._stop_reading, self._stop_writing = os.pipe2(os.O_CLOEXEC)
        self._outputs: list[tuple[int, Sink]] = []
        self._threads: list[threading.Thread] = []
        self._input: threading.Thread | None = None
        self.stdin = self._make("stdin") if streams.stdin is not None else ""
        self.stdout = self._output("stdout", streams.stdout)
        self.stderr = "" if streams.terminal else self._output("stderr", streams.stderr)

    def start(self) -> None:
        """Begin to copy; the shim has its ends open now."""
        for descriptor, sink in self._outputs:
            self._threads.append(self._thread(_pump_output, descriptor, sink, self._stop_reading))
        self._outputs = []
        if self.stdin:
            self._input = self._thread(self._pump_input)

    async def drained(self) -> None:
        """Wait until every output stream has come to its end."""
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    async def close(self) -> None:
        """Stop what still runs and remove the FIFOs."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._stop_writing < 0:
            return
        os.close(self._stop_writing)
        self._stop_writing = -1
        for thread in (*self._threads, *((self._input,) if self._input else ())):
            thread.join()
        for descriptor, _ in self._outputs:
            os.close(descriptor)
        os.close(self._stop_reading)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self, name: str) -> str:
        path = self._folder / name
        os.mkfifo(path, 0o600)
        return str(path)

    def _output(self, name: str, sink: Sink) -> str:
        if sink is None:
            return ""
        path = self._make(name)
        self._outputs.append((os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), sink))
        return path

    def _thread(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name="stdio", daemon=True)
        thread.start()
        return thread

    def _pump_input(self) -> None:
        try:
            descriptor = os.open(self.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # the process is gone already
        try:
            source = self._streams.stdin
            if isinstance(source, bytes):
                _write_all(descriptor, source, self._stop_reading)
            elif source is not None:
                _copy_input(source, descriptor, self._stop_reading)
        except OSError:
            pass  # the process does not read (any more)
        finally:
            os.close(descriptor)
            if self._stdin_ended is not None and self._stop_writing >= 0:
                self._loop.call_soon_threadsafe(self._stdin_ended)


def _pump_output(descriptor: int, sink: Sink, stop: int) -> None:
    try:
        while _ready(descriptor, select.POLLIN, stop):
            try:
                data = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return
            if isinstance(sink, int):
                _write_all(sink, data, stop)
            elif sink is not None:
                sink(data)
    except OSError:
        pass  # nobody reads our own output any more
    finally:
        os.close(descriptor)


def _copy_input(source: int, descriptor: int, stop: int) -> None:
    while _ready(source, select.POLLIN, stop):
        data = os.read(source, _CHUNK)
        if not data:
            return
        _write_all(descriptor, data, stop)


def _write_all(descriptor: int, data: bytes, stop: int) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            if not _ready(descriptor, select.POLLOUT, stop):
                return


def _ready(descriptor: int, event: int, stop: int) -> bool:
    """Wait for the descriptor; False when the streams are being closed."""
    poller = select.poll()
    poller.register(descriptor, event)
    poller.register(stop, select.POLLHUP)
    while True:
        ready = dict(poller.poll())
        if descriptor in ready:
            return True
        if stop in ready:
            return False
