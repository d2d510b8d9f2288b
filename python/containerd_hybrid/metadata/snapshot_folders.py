"""The life of a driver's folders beside their records: numbers, removal, clean-up.

A folder is made before its record and removed after it. While it is being made its number is noted, so
that the clean-up, which removes folders without a record, leaves it alone; after a crash nothing is
being made, and the clean-up finds what was left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from containerd_hybrid.errors import HybridError
from containerd_hybrid.metadata import snapshot_rows as rows
from containerd_hybrid.metadata.api import Database
from containerd_hybrid.metadata.threads import settled
from containerd_hybrid.snapshots.api import FolderDriver, RemoteDriver, SnapshotDriver

# Removing a tree keeps a disk busy; more at once would only make everybody else wait.
_REMOVERS = 2

log = logging.getLogger(__name__)


class SnapshotFolderKeeper:
    """Numbers and folders of one driver. One event loop only."""

    def __init__(
        self,
        database: Database,
        driver: SnapshotDriver,
        part_with: Callable[[Path], Awaitable[None]] | None = None,
    ) -> None:
        self._part_with = part_with
        self._database = database
        self._driver = driver
        self._reserved: list[int] = []
        self._reserving = asyncio.Lock()
        self._being_made: set[int] = set()
        self._removals: dict[int, asyncio.Task[HybridError | None]] = {}
        # Another process refuses to remove what something else still builds on, so there the order counts.
        self._removers = asyncio.Semaphore(1 if isinstance(driver, RemoteDriver) else _REMOVERS)

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[int]:
        """A new number for the block, which has to make both folder and record.

        When it fails to make the record, it has to call :meth:`remove`.
        """
        number = await self._reserve()
        self._being_made.add(number)
        try:
            yield number
        finally:
            self._being_made.discard(number)

    async def _reserve(self) -> int:
        async with self._reserving:
            if not self._reserved:
                numbers = await self._database.write(lambda t: rows.reserve_ids(t.connection))
                self._reserved = sorted(numbers, reverse=True)
            return self._reserved.pop()

    def remove(self, id: int) -> asyncio.Task[HybridError | None]:
        """Begin to remove a folder; a failure is logged, returned, and left for the next clean-up."""
        task = self._removals.get(id)
        if task is None:
            task = asyncio.create_task(self._remove(id))
            self._removals[id] = task
            task.add_done_callback(lambda _: self._removals.pop(id))
        return task

    async def _remove(self, id: int) -> HybridError | None:
        async with self._removers:
            try:
                if self._part_with is not None and isinstance(self._driver, FolderDriver):
                    await self._part_with(self._driver.layer_folder(id))
                await settled(lambda: self._driver.remove(id))
            except HybridError as error:
                log.warning("snapshotter %s: %s; the next clean-up tries again", self._driver.name, error)
                return error
            return None

    async def cleanup(self) -> None:
        """Remove all folders without a record; raises the first error when not all could be removed."""
        # In this order: what is recorded after the listing is in the records when they are read, and
        # what is recorded later still is being made.
        present = set(await settled(self._driver.ids))
        being_made = set(self._being_made)
        known = await self._database.read(lambda c: rows.select_ids(c, self._driver.name))
        doomed = present - being_made - known
        while doomed:
            removals = {number: self.remove(number) for number in sorted(doomed, reverse=True)}
            await asyncio.wait(removals.values())
            failed = {number: error for number in removals if (error := removals[number].result())}
            if len(failed) == len(doomed) or not isinstance(self._driver, RemoteDriver):
                for error in failed.values():
                    raise error
                return
            doomed = set(failed)

    async def close(self) -> None:
        """Wait for the folders that are being removed."""
        if self._removals:
            await asyncio.wait(list(self._removals.values()))
