"""When to collect; implements :class:`containerd_hybrid.metadata.api.Collector`.

The rules are those of containerd's plugin ``io.containerd.gc.v1.scheduler``:

* a first collection ``startup_delay`` after the start;
* after each one the next is planned so that pauses take at most ``pause_threshold`` of the time;
* a planned one is skipped when nothing was deleted since the last and fewer than
  ``mutation_threshold`` writes happened (0: writes do not count);
* once ``deletion_threshold`` things were deleted (0: never) it comes ``schedule_delay`` later, whatever
  was planned, and so it does when somebody waits for one in :meth:`GcScheduler.collect`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Protocol

from containerd_hybrid.errors import HybridError, UnavailableError
from containerd_hybrid.metadata.api import CollectedNode, CollectionReport, Database

log = logging.getLogger(__name__)

# Keeps the plan from following a collection that took no time at all.
_LEAST_PAUSE = 0.005
_FIRST_INTERVAL = 1.0
_RETRY = 1.0
_MOST_PAUSE_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class GcSettings:
    """containerd's settings and defaults; delays are seconds."""

    pause_threshold: float = 0.02
    deletion_threshold: int = 0
    mutation_threshold: int = 100
    schedule_delay: float = 0.0
    startup_delay: float = 0.1

    def clamped(self) -> GcSettings:
        """Values out of range are taken as the nearest one in it, as containerd does."""
        return GcSettings(
            min(max(self.pause_threshold, 0.0), _MOST_PAUSE_THRESHOLD),
            max(self.deletion_threshold, 0),
            max(self.mutation_threshold, 0),
            max(self.schedule_delay, 0.0),
            max(self.startup_delay, 0.0),
        )


class CollectsOnce(Protocol):
    """What is scheduled: :class:`containerd_hybrid.metadata.gc.MetadataCollector`."""

    async def collect(self, *, dry_run: bool = False) -> CollectionReport: ...
    async def why(self, namespace: str, type: str, key: str) -> list[CollectedNode]: ...


class GcScheduler:
    """Runs a collector in a task of its own, from :meth:`start` to :meth:`close`."""

    def __init__(
        self, collector: CollectsOnce, database: Database, settings: GcSettings | None = None
    ) -> None:
        self._collector = collector
        self.settings = (settings or GcSettings()).clamped()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: list[asyncio.Future[CollectionReport]] = []
        self._wake = asyncio.Event()
        self._next: float | None = None  # on the event loop's clock
        self._deletions = 0
        self._mutations = 0
        self._triggered = False
        self._pauses = 0.0
        self._collections = 0
        self._interval = _FIRST_INTERVAL
        self._closed = False
        database.on_commit(self._committed)

    def start(self) -> None:
        """Begin to collect. To be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        if self.settings.startup_delay > 0:
            self._plan(self.settings.startup_delay)
        self._task = self._loop.create_task(self._run(), name="gc-scheduler")
        self._consider()

    async def close(self) -> None:
        """Stop; a collection that is under way ends where it can be continued."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._give_up(UnavailableError("garbage collection has stopped"))

    async def collect(self, *, dry_run: bool = False) -> CollectionReport:
        """Collect as soon as the settings allow and wait for it.

        Raises:
            UnavailableError: the scheduler does not run (any more).
            HybridError: the collection failed; the error is that of the collection.
        """
        if dry_run:
            return await self._collector.collect(dry_run=True)
        if self._task is None or self._closed:
            raise UnavailableError("garbage collection does not run: the daemon is starting or stopping")
        waiter: asyncio.Future[CollectionReport] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._triggered = True
        self._consider()
        return await waiter

    def trigger(self) -> None:
        """Something was deleted. Counts as one deletion if the database has not told of any."""
        self._deletions = max(self._deletions, 1)
        self._consider()

    async def why(self, namespace: str, type: str, key: str) -> list[CollectedNode]:
        return await self._collector.why(namespace, type, key)

    def _committed(self, writes: int, deletions: int) -> None:
        self._mutations += writes
        self._deletions += deletions
        self._consider()

    def _consider(self) -> None:
        """Plan a collection for now if one is due."""
        settings = self.settings
        many_deleted = 0 < settings.deletion_threshold <= self._deletions
        # Nothing is planned before the first collection when it is not to follow the start.
        unplanned = self._next is None and (
            (settings.deletion_threshold == 0 and self._deletions > 0)
            or 0 < settings.mutation_threshold <= self._mutations
        )
        if self._loop is None or not (self._triggered or many_deleted or unplanned):
            return
        soon = self._loop.time() + settings.schedule_delay
        if self._next is None or self._next > soon:
            self._plan(settings.schedule_delay)

    def _plan(self, delay: float) -> None:
        assert self._loop is not None
        self._next = self._loop.time() + delay
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            delay = None if self._next is None else max(self._next - loop.time(), 0.0)
            if delay != 0.0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
                continue
            if self._skippable():
                self._plan(self._interval)
                continue
            await self._collect()

    def _skippable(self) -> bool:
        if self._triggered or self._deletions or not self._collections:
            return False
        return self.settings.mutation_threshold == 0 or self._mutations < self.settings.mutation_threshold

    async def _collect(self) -> None:
        # Whatever is deleted from here on may be too late for this collection and counts for the next.
        waiters, self._waiters = self._waiters, []
        before = self._deletions, self._mutations, self._triggered
        self._deletions, self._mutations, self._triggered = 0, 0, bool(self._waiters)
        try:
            report = await self._collector.collect()
        except asyncio.CancelledError:
            self._waiters += waiters
            raise
        except Exception as error:
            log.error("garbage collection failed: %s", error, exc_info=not isinstance(error, HybridError))
            self._deletions += before[0]
            self._mutations += before[1]
            self._plan(self._interval + _RETRY)
            self._consider()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(error)
            return
        if report.removed:
            log.info("garbage collected: %d things in %.3f s", len(report.removed), report.seconds)
        self._collections += 1
        self._pauses += report.database_seconds
        if self.settings.pause_threshold > 0:
            average = max(self._pauses / self._collections, _LEAST_PAUSE)
            self._interval = average / self.settings.pause_threshold - average
        self._plan(self._interval)
        self._consider()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(report)

    def _give_up(self, error: HybridError) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
