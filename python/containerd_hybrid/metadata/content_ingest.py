"""An open ingest of a namespace: bytes of its own, or those of a blob another namespace has."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping

from containerd_hybrid._native import Growing, HttpBody
from containerd_hybrid.content.api import BlobIngest, BlobStat, BlobStore, ContentInfo, IngestStatus
from containerd_hybrid.errors import (
    AlreadyExistsError,
    DigestMismatchError,
    HybridError,
    InvalidArgumentError,
    OutOfRangeError,
    SizeMismatchError,
)
from containerd_hybrid.events.api import ContentCreate, EventPublisher
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.content_rows import delete_ingest, insert_blob
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.metadata.rows import now
from containerd_hybrid.metadata.threads import settled
from containerd_hybrid.model import Digest, Scope
from containerd_hybrid.model.identifiers import quoted
from containerd_hybrid.model.labels import validate_labels
from containerd_hybrid.workers import in_own_thread

_COPY_CHUNK = 1 << 20


class MetadataIngest:
    """Implements :class:`containerd_hybrid.content.api.Ingest`.

    An ingest that was opened for a blob whose bytes are here already *adopts* them: it stands at the
    blob's end, and committing it copies nothing. Writing or truncating gives it bytes of its own first.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        locks: BlobLocks,
        publisher: EventPublisher,
        scope: Scope,
        ref: str,
        key: str,
        source: BlobIngest | BlobStat,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._locks = locks
        self._publisher = publisher
        self._scope = scope
        self._ref = ref
        self._key = key
        self._source = source
        self._opened_at = now()
        self._turn = asyncio.Lock()  # the bytes have one order

    @property
    def status(self) -> IngestStatus:
        source = self._source
        if isinstance(source, BlobStat):
            return IngestStatus(
                self._ref, source.size, source.size, source.digest, self._opened_at, self._opened_at
            )
        return IngestStatus(
            self._ref, source.offset, source.total, None, source.started_at, source.updated_at
        )

    async def write(self, data: bytes, offset: int | None = None) -> int:
        async with self._turn:
            present = self.status.offset
            if offset == 0 and present > 0:
                await self._empty()
            elif offset is not None and offset != present:
                raise OutOfRangeError(f"write @{offset} must occur at current offset {present}")
            if data:
                ingest = await self._own_bytes()
                await settled(lambda: ingest.write(data))
            return self.status.offset

    async def receive(self, body: HttpBody, limit: int) -> int:
        async with self._turn:
            ingest = await self._own_bytes()
            return await in_own_thread(lambda: ingest.receive(body, limit), body.close)

    async def append_file(self, fd: int, length: int) -> int:
        async with self._turn:
            ingest = await self._own_bytes()
            return await settled(lambda: ingest.append_file(fd, length))

    async def growing(self, total: int) -> Growing | None:
        source = self._source
        if isinstance(source, BlobStat):
            return None
        return source.growing(total)

    async def digest(self) -> Digest:
        async with self._turn:  # a write in a thread would make the event loop wait
            return self._digest()

    def _digest(self) -> Digest:
        source = self._source
        return source.digest if isinstance(source, BlobStat) else source.digest()

    async def truncate(self, size: int) -> None:
        async with self._turn:
            present = self.status.offset
            if size == present:
                return
            if size != 0:
                raise InvalidArgumentError(
                    f"cannot truncate ingest {quoted(self._ref)} to {size}: only to 0 or its offset {present}"
                )
            await self._empty()

    async def commit(
        self, size: int = 0, expected: Digest | None = None, labels: Mapping[str, str] | None = None
    ) -> ContentInfo:
        async with self._turn:
            try:
                validate_labels(labels or {}, "info.Labels")
                self._check(size, expected)
                digest = expected or self._digest()
                async with self._locks.hold(digest):
                    blob = await self._commit_bytes(size, expected)
                    return await self._record(blob, labels or {})
            finally:
                await self._close()

    async def close(self) -> None:
        async with self._turn:
            await self._close()

    def _check(self, size: int, expected: Digest | None) -> None:
        present = self.status.offset
        if size not in (0, present):
            raise SizeMismatchError(
                f"{quoted(self._ref)} failed size validation: {present} != {size}: failed precondition"
            )
        if isinstance(self._source, BlobStat) and expected not in (None, self._source.digest):
            raise DigestMismatchError(f"{quoted(self._ref)} unexpected digest: failed precondition")

    async def _commit_bytes(self, size: int, expected: Digest | None) -> BlobStat:
        source = self._source
        if isinstance(source, BlobStat):
            return source
        return await settled(lambda: source.commit(size, expected))

    async def _record(self, blob: BlobStat, labels: Mapping[str, str]) -> ContentInfo:
        def work(transaction: Transaction) -> ContentInfo | None:
            delete_ingest(transaction.connection, self._scope, self._ref)
            info = insert_blob(transaction.connection, self._scope, blob.digest, blob.size, labels)
            if info is not None:
                event = ContentCreate(str(info.digest), info.size)
                transaction.after_commit(lambda: self._publisher.publish(self._scope.namespace, event))
            return info

        info = await self._database.write(work)
        if info is None:
            raise AlreadyExistsError(f"content {blob.digest}: already exists")
        return info

    async def _empty(self) -> None:
        source = self._source
        if isinstance(source, BlobStat):
            self._source = await settled(lambda: self._open_own(0), _close_quietly)
        else:
            await settled(source.truncate)

    async def _own_bytes(self) -> BlobIngest:
        source = self._source
        if not isinstance(source, BlobStat):
            return source
        own = await settled(lambda: self._copy(source), _close_quietly)
        self._source = own
        return own

    def _open_own(self, total: int) -> BlobIngest:
        ingest = self._blobs.open_ingest(self._key, total, None)
        if ingest.offset:  # of an earlier time when it had bytes of its own
            ingest.truncate()
        return ingest

    def _copy(self, blob: BlobStat) -> BlobIngest:
        fd = self._blobs.open(blob.digest)
        try:
            ingest = self._open_own(blob.size)
            try:
                while data := os.pread(fd, _COPY_CHUNK, ingest.offset):
                    ingest.write(data)
            except BaseException:
                ingest.close()
                raise
            return ingest
        finally:
            os.close(fd)

    async def _close(self) -> None:
        source = self._source
        if not isinstance(source, BlobStat):
            await settled(source.close)


def _close_quietly(ingest: BlobIngest) -> None:
    # Nobody waits for it, and opening it again finds what is there.
    with contextlib.suppress(HybridError):
        ingest.close()
