"""Makes a file that somebody else's store has a blob of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from containerd_hybrid.content.api import BlobStore, ContentInfo
from containerd_hybrid.errors import AlreadyExistsError
from containerd_hybrid.events.api import ContentCreate, EventPublisher
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.content_rows import insert_blob
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.metadata.threads import settled
from containerd_hybrid.model import Digest, Scope
from containerd_hybrid.model.labels import validate_labels


class MetadataContentAdopter:
    """Implements :class:`containerd_hybrid.content.api.ContentAdopter`."""

    def __init__(
        self, database: Database, blobs: BlobStore, locks: BlobLocks, publisher: EventPublisher
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._locks = locks
        self._publisher = publisher

    async def adopt(
        self, scope: Scope, source: Path, digest: Digest, size: int, labels: Mapping[str, str]
    ) -> ContentInfo:
        validate_labels(labels, "info.Labels")

        def work(transaction: Transaction) -> ContentInfo | None:
            info = insert_blob(transaction.connection, scope, digest, size, labels)
            if info is not None:
                event = ContentCreate(str(digest), size)
                transaction.after_commit(lambda: self._publisher.publish(scope.namespace, event))
            return info

        async with self._locks.hold(digest):
            await settled(lambda: self._blobs.link(source, digest))
            info = await self._database.write(work)
        if info is None:
            raise AlreadyExistsError(f"content {digest}: already exists")
        return info
