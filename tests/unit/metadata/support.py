"""What stands around the stores in their tests: a publisher that remembers, stores of bytes in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from containerd_hybrid.content.api import BlobIngest, BlobStat
from containerd_hybrid.errors import NotFoundError, UnavailableError
from containerd_hybrid.events.api import Envelope, Event
from containerd_hybrid.metadata.containers import MetadataContainerStore
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.gc import MetadataCollector
from containerd_hybrid.metadata.images import MetadataImageStore
from containerd_hybrid.metadata.leases import MetadataLeaseManager
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.metadata.namespaces import MetadataNamespaceStore
from containerd_hybrid.metadata.sandboxes import MetadataSandboxStore
from containerd_hybrid.model import Descriptor, Digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(name: str) -> Digest:
    """A digest that is as good as any other, the same for the same name."""
    return Digest.of(name.encode())


def descriptor_of(name: str) -> Descriptor:
    return Descriptor(MANIFEST, digest_of(name), 10)


@dataclass
class Recorder:
    """An event publisher that remembers."""

    events: list[tuple[str, Event]] = field(default_factory=list)

    def publish(self, namespace: str, event: Event) -> None:
        self.events.append((namespace, event))

    def forward(self, envelope: Envelope) -> None:
        raise AssertionError("stores forward nothing")


class MemoryBlobs:
    """The part of a blob store that the collector uses."""

    def __init__(self) -> None:
        self.blobs: set[Digest] = set()
        self.ingests: set[str] = set()
        self.stuck: set[Digest] = set()

    def stat(self, digest: Digest) -> BlobStat:
        if digest not in self.blobs:
            raise NotFoundError(f"content {digest}: not found")
        return BlobStat(digest, 1, 1)

    def walk(self) -> Iterable[BlobStat]:
        return [BlobStat(digest, 1, 1) for digest in self.blobs]

    def remove(self, digest: Digest) -> None:
        if digest in self.stuck:
            raise UnavailableError(f"content {digest} is busy")
        self.stat(digest)
        self.blobs.discard(digest)

    def ingest_keys(self) -> Iterable[str]:
        return list(self.ingests)

    def remove_ingest(self, key: str) -> None:
        if key not in self.ingests:
            raise NotFoundError(f"ingest {key}: not found")
        self.ingests.discard(key)

    def open(self, digest: Digest) -> int:
        raise NotImplementedError

    def open_ingest(self, key: str, total: int = 0, expected: Digest | None = None) -> BlobIngest:
        raise NotImplementedError


@dataclass
class CountingSnapshotter:
    """The part of a snapshotter that the collector uses."""

    name: str
    cleanups: int = 0
    failures: int = 0

    async def cleanup(self) -> None:
        self.cleanups += 1
        if self.failures:
            self.failures -= 1
            raise UnavailableError(f"{self.name}: device or resource busy")


@dataclass
class World:
    """A database and all stores over it."""

    database: SqliteDatabase
    recorder: Recorder
    blobs: MemoryBlobs
    locks: BlobLocks
    snapshotters: dict[str, CountingSnapshotter]
    namespaces: MetadataNamespaceStore
    images: MetadataImageStore
    containers: MetadataContainerStore
    leases: MetadataLeaseManager
    sandboxes: MetadataSandboxStore
    collector: MetadataCollector

    @classmethod
    def over(cls, database: SqliteDatabase) -> World:
        recorder, blobs, locks = Recorder(), MemoryBlobs(), BlobLocks()
        snapshotters = {name: CountingSnapshotter(name) for name in ("overlayfs", "native")}
        return cls(
            database,
            recorder,
            blobs,
            locks,
            snapshotters,
            MetadataNamespaceStore(database, recorder),
            MetadataImageStore(database, recorder),
            MetadataContainerStore(database, recorder),
            MetadataLeaseManager(database),
            MetadataSandboxStore(database),
            MetadataCollector(database, recorder, blobs, locks, snapshotters),  # type: ignore[arg-type]
        )

    async def rows(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        """What a query finds."""
        return await self.database.read(lambda connection: connection.execute(query, parameters).fetchall())

    async def change(self, statement: str, *parameters: object) -> None:
        """Write past the stores."""
        await self.database.write(lambda tx: tx.connection.execute(statement, parameters).rowcount)
