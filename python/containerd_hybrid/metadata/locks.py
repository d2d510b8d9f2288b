"""Locks by blob, between whoever makes a blob's record and the collector that removes its bytes.

The bytes of a blob and its record cannot change in one step. Without a lock the collector could find
that no namespace has a blob, a commit of the same digest could find the bytes already there and add its
record, and the collector would then remove the bytes under it. So:

* who adds a record for bytes, or relies on bytes being there, holds the digest's lock from before it
  looks at the bytes until its record is committed;
* the collector holds it from before it looks for records until the bytes are gone.

Nobody waits for a whole collection: only for the removal of the very same blob.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from containerd_hybrid.model import Digest


class BlobLocks:
    """One lock for each digest in use; made on demand, gone when nobody holds it. One event loop only."""

    def __init__(self) -> None:
        # The lock, and how many hold it or wait for it.
        self._locks: dict[Digest, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, digest: Digest) -> AsyncIterator[None]:
        """Hold the digest's lock for the block."""
        await self._take(digest)
        try:
            yield
        finally:
            self._give_back(digest)

    @asynccontextmanager
    async def hold_all(self, digests: Iterable[Digest]) -> AsyncIterator[None]:
        """Hold the locks of many, none of them named twice. Who holds a lock must not ask for this."""
        held = []
        try:
            for digest in digests:
                await self._take(digest)
                held.append(digest)
            yield
        finally:
            for digest in held:
                self._give_back(digest)

    async def _take(self, digest: Digest) -> None:
        lock, users = self._locks.get(digest, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[digest] = lock, users + 1
        try:
            await lock.acquire()
        except BaseException:
            self._leave(digest)
            raise

    def _give_back(self, digest: Digest) -> None:
        self._locks[digest][0].release()
        self._leave(digest)

    def _leave(self, digest: Digest) -> None:
        lock, users = self._locks.pop(digest)
        if users > 1:
            self._locks[digest] = lock, users - 1
