"""Recipes beside records: what a namespace has is there, whatever becomes of the files it is made of.

The graph knows nothing of recipes: labels, leases and references hold blobs, whichever way they are stored,
and a snapshot may be removed as ever. Its folder goes last, and who removes it comes here before.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

from containerd_hybrid._native import CancelToken
from containerd_hybrid.content.api import RecipeStore
from containerd_hybrid.errors import DataLossError, NotFoundError
from containerd_hybrid.metadata.api import Database
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.metadata.threads import settled
from containerd_hybrid.model import Digest
from containerd_hybrid.workers import in_own_thread

log = logging.getLogger(__name__)


class MetadataRecipes:
    """Implements :class:`containerd_hybrid.content.api.ContentRecipes`; ``locks`` are the collector's."""

    def __init__(self, database: Database, blobs: RecipeStore, locks: BlobLocks) -> None:
        self._database = database
        self._blobs = blobs
        self._locks = locks

    async def convert(self, digest: Digest, folder: Path, stands: Callable[[], Awaitable[bool]]) -> str:
        async with self._locks.hold(digest):
            # In this order: a removal that does not see the intention has deleted the record before.
            self._blobs.intend(digest, folder)
            try:
                if not await stands():
                    return "its snapshot was removed"
                cancel = CancelToken()
                return await in_own_thread(lambda: self._blobs.convert(digest, folder, cancel), cancel.cancel)
            finally:
                self._blobs.intend(digest, None)

    async def part_with(self, folder: Path) -> None:
        for digest in self._blobs.recipes_in(folder):
            async with self._locks.hold(digest):
                if digest in self._blobs.recipes_in(folder):
                    await self._part(digest)

    async def _part(self, digest: Digest) -> None:
        def is_needed(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "SELECT EXISTS (SELECT 1 FROM content WHERE digest = :digest)"
                " OR EXISTS (SELECT 1 FROM ingests WHERE expected = :digest)",
                {"digest": str(digest)},
            ).fetchone()
            return bool(row[0])

        if await self._database.read(is_needed):
            try:
                await in_own_thread(lambda: self._blobs.restore(digest), lambda: None)
                return
            except DataLossError as error:
                # The files are wrong already: to keep them would help nobody.
                log.error("content is lost with the snapshot it was stored in: %s", error.message)
        try:
            await settled(lambda: self._blobs.remove(digest))
        except NotFoundError:
            log.debug("the recipe of %s has gone", digest)
