"""The threads that read: each with a connection of its own, all from one queue.

A read is short, so what it costs to hand it over counts. A thread is started only when none waits, and
results that are ready together reach the event loop together: one wake-up for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from containerd_hybrid.errors import InternalError


class _Read:
    """A queued read. ``outcome`` or ``error`` is set by the thread that did it."""

    __slots__ = ("error", "future", "outcome", "ready", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], ready: _Ready) -> None:
        self.work = work
        self.ready = ready
        self.future: asyncio.Future[Any] = ready.loop.create_future()
        self.outcome: Any = None
        self.error: BaseException | None = None


class _Ready:
    """What was read for one event loop and has not reached it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._reads: deque[_Read] = deque()
        self._woken = False

    def add(self, read: _Read) -> None:
        """From a reader's thread."""
        self._reads.append(read)
        # Two threads may both find it unset and wake the loop twice, which does no harm.
        if not self._woken:
            self._woken = True
            # The loop may have been closed under its callers; then nobody waits.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._woken = False  # before the look: what is added from now on wakes the loop again
        while self._reads:
            read = self._reads.popleft()
            if read.future.done():  # its caller was cancelled
                continue
            if read.error is not None:
                read.future.set_exception(read.error)
            else:
                read.future.set_result(read.outcome)


class Readers:
    """At most ``count`` threads.

    ``connect`` opens a connection; ``translate`` tells what an error means outside.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        count: int,
        translate: Callable[[BaseException], BaseException],
    ) -> None:
        self._connect = connect
        self._count = count
        self._translate = translate
        self._queue: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._lock = threading.Lock()
        self._ready: dict[asyncio.AbstractEventLoop, _Ready] = {}

    def submit(self, work: Callable[[sqlite3.Connection], Any]) -> asyncio.Future[Any]:
        """Queue a read; the future is the running loop's."""
        loop = asyncio.get_running_loop()
        ready = self._ready.get(loop)
        if ready is None:
            ready = self._ready[loop] = _Ready(loop)
        read = _Read(work, ready)
        self._queue.put(read)
        with self._lock:
            # The one that waits is taken by this read, so the next does not count on it.
            if self._waiting:
                self._waiting -= 1
            elif len(self._threads) < self._count:
                self._start()
        return read.future

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._ready.clear()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"metadata-reader-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while (read := self._take()) is not None:
                try:
                    if connection is None:
                        connection = self._connect()
                    read.outcome = _in_transaction(connection, read.work)
                except StopIteration:  # which a future refuses to carry
                    read.error = InternalError("a read raised StopIteration")
                except BaseException as error:
                    read.error = self._translate(error)
                read.ready.add(read)
                # Nothing of the last read is kept while the next is awaited.
                del read
        finally:
            if connection is not None:
                connection.close()

    def _take(self) -> _Read | None:
        with contextlib.suppress(queue.Empty):
            return self._queue.get_nowait()
        with self._lock:
            self._waiting += 1
        return self._queue.get()


def _in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Any]) -> Any:
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
