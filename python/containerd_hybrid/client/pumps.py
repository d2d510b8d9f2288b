"""Threads that copy between a process's FIFOs and what the caller gave for them.

A FIFO is not for the event loop: a terminal or a file of the caller's blocks, and cannot be made
non-blocking without changing it for everybody who shares it. So each stream has a thread, and all
threads of a process watch one :class:`Gate`, by which they are told to end.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

Sink: TypeAlias = int | Callable[[bytes], object] | None
"""Where output goes: a file descriptor, a function (called in a thread), or nowhere."""
Source: TypeAlias = int | bytes | None
"""Where input comes from: a file descriptor, bytes, or nowhere."""

CHUNK = 256 << 10
# How long the output of a process that has ended may be silent before it counts as whole: something
# it left behind (a background job) may hold its streams open for ever. Docker waits as long.
_IDLE_MILLISECONDS = 2000
_RETRY_MILLISECONDS = 10


class Gate:
    """A pipe that tells threads when to give up: a byte in it says "when there is no more", its end "now"."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC)
        self._ended = False

    def watch(self) -> int:
        """A descriptor of the thread's own to watch."""
        return os.dup(self._read)

    def end_when_silent(self) -> None:
        """The process has ended: what is still on its way comes now or never."""
        if self._write >= 0 and not self._ended:
            self._ended = True
            os.write(self._write, b".")

    def shut(self) -> None:
        """Every thread ends, whatever there is to copy."""
        if self._write >= 0:
            os.close(self._write)
            os.close(self._read)
            self._write = -1


class Readiness:
    """Waits for a descriptor, or for the gate that is watched."""

    def __init__(self, descriptor: int, event: int, watched: int, *, ends_when_silent: bool = False) -> None:
        self._descriptor = descriptor
        self._watched = watched
        self._timeout: int | None = None
        self._poller = select.poll()
        self._poller.register(descriptor, event)
        self._poller.register(watched, select.POLLIN if ends_when_silent else 0)

    def wait(self) -> bool:
        """True when the descriptor is ready, False when it is time to end."""
        while True:
            ready = dict(self._poller.poll(self._timeout))
            if ready.get(self._watched, 0) & select.POLLHUP:
                return False
            if self._descriptor in ready:
                return True
            if not ready:
                return False
            self._poller.modify(self._watched, 0)
            self._timeout = _IDLE_MILLISECONDS


def pump_output(descriptor: int, sink: Sink, watched: int) -> None:
    """Hand on all that comes out of a FIFO; takes both descriptors over.

    When the sink fails the rest is read and thrown away, so that the process is not held up, and
    the failure is raised at the end.
    """
    failure: Exception | None = None
    try:
        readable = Readiness(descriptor, select.POLLIN, watched, ends_when_silent=True)
        while readable.wait():
            try:
                data = os.read(descriptor, CHUNK)
            except BlockingIOError:
                continue
            if not data:
                break
            if failure is None:
                try:
                    _give(sink, data, watched)
                except Exception as error:
                    failure = error
    finally:
        os.close(descriptor)
        os.close(watched)
    if failure is not None:
        raise failure


def pump_input(path: str, source: int | bytes, watched: int) -> bool:
    """Hand the source to a FIFO; takes ``watched`` over. False when it was told to end before."""
    try:
        descriptor = _open_for_writing(path, watched)
        if descriptor is None:
            return False
        try:
            if isinstance(source, bytes):
                return write_all(descriptor, source, watched)
            return _copy_input(source, descriptor, watched)
        except BrokenPipeError:
            return False  # the process does not read any more
        finally:
            os.close(descriptor)
    finally:
        os.close(watched)


def write_all(descriptor: int, data: bytes, watched: int) -> bool:
    """Write everything, to a descriptor that may block or not; False when told to end before."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            if not Readiness(descriptor, select.POLLOUT, watched).wait():
                return False
    return True


def _give(sink: Sink, data: bytes, watched: int) -> None:
    if isinstance(sink, int):
        write_all(sink, data, watched)
    elif sink is not None:
        sink(data)


def _copy_input(source: int, descriptor: int, watched: int) -> bool:
    readable = Readiness(source, select.POLLIN, watched)
    while readable.wait():
        try:
            data = os.read(source, CHUNK)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno == errno.EIO:
                return True  # the terminal it came from is gone
            raise
        if not data:
            return True
        if not write_all(descriptor, data, watched):
            return False
    return False


def _open_for_writing(path: str, watched: int) -> int | None:
    """The FIFO, once somebody has it open for reading; shims do that at their own time."""
    poller = select.poll()
    poller.register(watched, 0)
    while True:
        with suppress(BlockingIOError):
            return _open_write_end(path)
        if poller.poll(_RETRY_MILLISECONDS):
            return None


def _open_write_end(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise BlockingIOError(errno.EAGAIN, "nobody reads yet", path) from error
        raise
