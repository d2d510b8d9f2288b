"""A content store over the local blob store, and everything around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.contract.support import RecordingPublisher

from containerd_hybrid.content.local import LocalBlobStore
from containerd_hybrid.events.api import Event
from containerd_hybrid.metadata.content import MetadataContentStore
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.gc import MetadataCollector
from containerd_hybrid.metadata.leases import MetadataLeaseManager
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.metadata.namespaces import MetadataNamespaceStore
from containerd_hybrid.model import Digest, Scope


@dataclass
class World:
    """A content store and everything around it."""

    content: MetadataContentStore
    blobs: LocalBlobStore
    database: SqliteDatabase
    leases: MetadataLeaseManager
    namespaces: MetadataNamespaceStore
    collector: MetadataCollector
    events: list[tuple[str, Event]]

    async def put(self, scope: Scope, data: bytes, labels: dict[str, str] | None = None) -> Digest:
        """Write a blob that is not there yet."""
        ingest = await self.content.open_ingest(scope, f"put-{Digest.of(data)}")
        await ingest.write(data)
        return (await ingest.commit(len(data), Digest.of(data), labels)).digest

    async def rows(self, sql: str) -> list[tuple[object, ...]]:
        """What a query finds."""
        return await self.database.read(lambda connection: connection.execute(sql).fetchall())


@asynccontextmanager
async def open_world(root: Path, *, shared: bool = True) -> AsyncIterator[World]:
    publisher = RecordingPublisher()
    blobs = LocalBlobStore(root / "content", sync=False)
    locks = BlobLocks()
    async with SqliteDatabase(root / "meta.db", no_sync=True) as database:
        yield World(
            MetadataContentStore(database, blobs, locks, publisher, shared=shared),
            blobs,
            database,
            MetadataLeaseManager(database),
            MetadataNamespaceStore(database, publisher),
            MetadataCollector(database, publisher, blobs, locks, {}),
            publisher.events,
        )
