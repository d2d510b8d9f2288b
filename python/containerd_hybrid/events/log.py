"""The log of events: a bounded SQLite file that keeps each with a number.

A publisher only appends to a list. A thread takes what is in it, writes it in one transaction, and says
how far it has come; while it writes, the next group gathers. Nothing is synced to the disk (unless
``sync``), so a group takes a fraction of a millisecond: what is written survives SIGKILL of the daemon, and
power loss may take the newest. Calls wait for that before they answer (``rpc/interceptors/recorded.py``),
so what SIGKILL takes are only events of what no call has acknowledged.

Readers are told of what is written and nothing else, from memory if it is recent and else from the file.
Each has only its position: one that is slow costs nobody anything, and one that is so slow that the bounds
overtake it is told so.

Invariant: numbers in the file have no gaps but those that writing failed to fill, and the newest event is
never removed, so that numbers go on after a restart.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypeVar

from containerd_hybrid.errors import DataLossError, NotFoundError, OutOfRangeError, UnavailableError
from containerd_hybrid.events.api import CaughtUp, Envelope, From, LogStatus, Recorded
from containerd_hybrid.events.fields import EnvelopeFields
from containerd_hybrid.events.logfile import LogFile, Row, size_of
from containerd_hybrid.model.filters import Filters

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

DEFAULT_BYTES = 64 << 20
DEFAULT_AGE = 7 * 86400.0

_READ_AT_ONCE = 256
_RECENT_BYTES = 1 << 20
# What waits for a disk that takes nothing; then events are given up, which readers are told.
_PENDING_BYTES = 16 << 20
_RETRY_SECONDS = 1.0


class SqliteEventLog:
    """Implements :class:`containerd_hybrid.events.api.EventLog`; all but the file is the event loop's."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = DEFAULT_BYTES,
        max_age: float = DEFAULT_AGE,
        sync: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """``max_age`` is seconds; 0 as a bound is none."""
        self._file = LogFile(path, max_bytes=max_bytes, max_age=max_age, sync=sync)
        self._clock = clock
        self._lock = threading.Lock()  # of what the writer takes: pending and stopping
        self._pending: list[Row] = []
        self._pending_bytes = 0
        self._stopping = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last = 0
        self._written = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._news = asyncio.Event()
        self._recent: deque[Recorded] = deque()
        self._recent_bytes = 0
        self._closed = False

    async def open(self) -> None:
        """Open the file, or make it; take from it what is beyond the bounds.

        Raises:
            DataLossError: it is damaged; the message says what to do.
            HybridError: it cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        self._last = self._written = await asyncio.to_thread(self._file.open)
        self._thread = threading.Thread(target=self._write_all, name="event-log", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Write what is pending and end; readers come to the end of theirs."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            self._stopping = True
        self._wake.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._release(self._last)
        self._news.set()
        await asyncio.to_thread(self._file.close)

    @property
    def last(self) -> int:
        return self._last

    @property
    def written(self) -> int:
        return self._written

    def append(self, envelope: Envelope) -> int:
        """See :meth:`containerd_hybrid.events.api.EventLog.append`."""
        self._last += 1
        size = size_of(envelope)
        lost = 0
        with self._lock:
            if self._pending_bytes + size > _PENDING_BYTES:
                lost, self._pending, self._pending_bytes = len(self._pending), [], 0
            self._pending.append(Row(self._last, self._clock(), envelope, size))
            self._pending_bytes += size
        self._wake.set()
        if lost:
            logger.error("the event log cannot be written: events were given up", extra={"events": lost})
        return self._last

    async def settled(self) -> None:
        """See :meth:`containerd_hybrid.events.api.EventLog.settled`."""
        if self._written >= self._last or self._closed:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._last, future))
        await future

    async def status(self) -> LogStatus:
        """See :class:`~containerd_hybrid.events.api.LogStatus`.

        Raises:
            UnavailableError: the log cannot be read.
        """
        await self.settled()
        return await self._read(self._file.status)

    def replay(
        self, start: From, filters: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[Recorded | CaughtUp]:
        """See :meth:`containerd_hybrid.events.api.EventLog.replay`."""
        return self._replay(start, Filters.parse(filters), follow=follow)

    async def _replay(
        self, start: From, filters: Filters, *, follow: bool
    ) -> AsyncIterator[Recorded | CaughtUp]:
        await self.settled()
        position = await self._position(start)
        end = self._written
        told = False
        while not self._closed:
            while position < (self._written if told else end):
                rows, scanned = await self._after(position, filters)
                for row in rows:
                    yield row
                position = scanned
            if not told:
                told = True
                yield CaughtUp(position)
                continue
            if not follow:
                return
            if position >= self._written:
                await self._news.wait()

    async def _position(self, start: From) -> int:
        if start.log and start.log != self._file.id:
            raise NotFoundError(
                f"event log {start.log} is not here, this one is {self._file.id}: its numbers begin anew, "
                "list what exists and go on from its newest event"
            )
        if start.since:
            return await self._read(lambda: self._file.before(start.since, self._written))
        if start.after > self._last:
            raise OutOfRangeError(f"no event has number {start.after} yet: the newest is {self._last}")
        if start.after:
            return start.after
        return max((await self._read(self._file.status)).first - 1, 0)

    async def _after(self, position: int, filters: Filters) -> tuple[Sequence[Recorded], int]:
        """Some events behind a number for which the filters hold, and the number of the last looked at."""
        recent = self._recent
        if recent and recent[0].sequence <= position + 1:
            skipped = position + 1 - recent[0].sequence
            found = list(islice(recent, skipped, skipped + _READ_AT_ONCE))
            matching = [row for row in found if filters.match(EnvelopeFields(row.envelope))]
            return matching, found[-1].sequence

        def read() -> tuple[int, int, list[Recorded]]:
            rows, first = self._file.after(position, _READ_AT_ONCE)
            matching = [row for row in rows if filters.match(EnvelopeFields(row.envelope))]
            contiguous = position
            for row in rows:
                if row.sequence != contiguous + 1:
                    break
                contiguous = row.sequence
            return first, contiguous, [row for row in matching if row.sequence <= contiguous]

        first, contiguous, matching = await self._read(read)
        if contiguous == position:
            self._fail_for_gap(position, first)
        return matching, contiguous

    def _fail_for_gap(self, position: int, first: int) -> NoReturn:
        if position + 1 < first:
            raise OutOfRangeError(
                f"events {position + 1} to {first - 1} are no longer kept: "
                f"list what exists, then go on after event {first - 1}"
            )
        raise DataLossError(
            f"events after {position} could not be written when they happened: "
            f"list what exists, then go on from the time you did"
        )

    async def _read(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.to_thread(work)
        except sqlite3.Error as error:
            raise UnavailableError(f"the event log {self._file.path} cannot be read: {error}") from error

    # --- the writer's thread ---------------------------------------------------------------------

    def _write_all(self) -> None:
        failing = False
        while True:
            self._wake.wait(_RETRY_SECONDS if failing else None)
            self._wake.clear()
            with self._lock:
                batch, self._pending, self._pending_bytes = self._pending, [], 0
                stopping = self._stopping
            if batch:
                failing = not self._write(batch, quiet=failing)
            if stopping:
                return

    def _write(self, batch: list[Row], *, quiet: bool) -> bool:
        assert self._loop is not None
        try:
            self._file.write(batch)
        except Exception as error:
            # Whatever it is: this thread must not end, for answers to calls wait for it.
            if not quiet:
                logger.error(
                    "the event log cannot be written; events are kept in memory meanwhile",
                    extra={"path": str(self._file.path), "error": str(error) or type(error).__name__},
                    exc_info=not isinstance(error, sqlite3.Error),
                )
            with self._lock:
                self._pending[:0] = batch
                self._pending_bytes += sum(row.size for row in batch)
            _call(self._loop, lambda: self._release(batch[-1].sequence))
            return False
        if quiet:
            logger.warning("the event log is written again")
        _call(self._loop, lambda: self._advance(batch))
        return True

    # --- and back on the loop --------------------------------------------------------------------

    def _advance(self, batch: list[Row]) -> None:
        if self._recent and batch[0].sequence != self._recent[-1].sequence + 1:
            self._recent.clear()
            self._recent_bytes = 0
        for row in batch:
            self._recent.append(Recorded(row.sequence, row.envelope))
            self._recent_bytes += row.size
        while self._recent_bytes > _RECENT_BYTES and len(self._recent) > 1:
            self._recent_bytes -= size_of(self._recent.popleft().envelope)
        self._written = batch[-1].sequence
        self._release(self._written)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _release(self, sequence: int) -> None:
        """Let go who waits for events up to this number."""
        waiting, self._waiting = self._waiting, []
        for wanted, future in waiting:
            if wanted > sequence:
                self._waiting.append((wanted, future))
            elif not future.done():
                future.set_result(None)


def _call(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(action)
    except RuntimeError:
        logger.debug("the event loop ended before the event log was closed")
