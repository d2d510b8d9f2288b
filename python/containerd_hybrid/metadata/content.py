"""Content as a namespace sees it: which blobs it has, their labels, and its ingests.

The bytes of a blob are there once, whatever namespaces have it. Under the policy ``shared`` a namespace
that asks to write a blob which is here already gets its bytes without sending them; under ``isolated``
it has to show that it has them, unless a namespace with the blob is labelled
``containerd.io/namespace.shareable=true``. Source: containerd's ``core/metadata/content.go``.

A record is made after its bytes and goes before them, so a crash leaves bytes that nobody knows (the
collector removes them) and never a record without bytes. If bytes are lost nevertheless, reading says
DataLossError, and the blob may be written again as if it were new.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from containerd_hybrid.content.api import (
    BlobIngest,
    BlobStat,
    BlobStore,
    ContentInfo,
    IngestStatus,
    RecipeStore,
)
from containerd_hybrid.errors import (
    AlreadyExistsError,
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    error_for_os,
)
from containerd_hybrid.events.api import ContentDelete, EventPublisher
from containerd_hybrid.metadata import content_rows as rows
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.content_ingest import MetadataIngest
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.metadata.refs import CONTENT
from containerd_hybrid.metadata.rows import add_to_lease, ingest_key
from containerd_hybrid.metadata.threads import settled
from containerd_hybrid.model import Digest, Scope
from containerd_hybrid.model.fieldpaths import updated_labels
from containerd_hybrid.model.filters import FieldLookup, Filters, map_value
from containerd_hybrid.model.identifiers import quoted
from containerd_hybrid.model.labels import validate_labels
from containerd_hybrid.workers import in_own_thread

_PAGE = 500
# Bytes that are copied on the event loop, if they are in memory: some microseconds of its time.
_SMALL = 64 << 10


class MetadataContentStore:
    """Implements :class:`containerd_hybrid.content.api.ContentStore`.

    ``locks`` are those of the collector that removes bytes from ``blobs``. ``shared`` is the sharing
    policy (containerd's ``content_sharing_policy``).
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        locks: BlobLocks,
        publisher: EventPublisher,
        *,
        shared: bool = True,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._recipes = blobs if isinstance(blobs, RecipeStore) else None
        self._locks = locks
        self._publisher = publisher
        self._shared = shared

    # --- blobs

    async def info(self, scope: Scope, digest: Digest) -> ContentInfo:
        def work(connection: sqlite3.Connection) -> ContentInfo:
            return _known(rows.select_blob(connection, scope.namespace, digest), digest)

        return await self._database.recall((CONTENT, scope.namespace, digest), work)

    async def update(
        self, scope: Scope, digest: Digest, labels: Mapping[str, str], fieldpaths: Sequence[str] = ()
    ) -> ContentInfo:
        def work(transaction: Transaction) -> ContentInfo:
            connection = transaction.connection
            info = _known(rows.select_blob(connection, scope.namespace, digest), digest)
            what = f"content info {quoted(str(digest))}"
            changed = updated_labels(info.labels, labels, fieldpaths, what)
            validate_labels(changed, "info.Labels")
            return rows.update_blob(connection, scope.namespace, info, changed)

        return await self._database.write(work)

    def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        return self._walk(scope.namespace, Filters.parse(filters))

    async def _walk(self, namespace: str, filters: Filters) -> AsyncIterator[ContentInfo]:
        async for info in self._candidates(namespace, filters):
            if filters.match(_fields(info)):
                yield info

    async def _candidates(self, namespace: str, filters: Filters) -> AsyncIterator[ContentInfo]:
        """What may match: page by page, or only the digests that the filters name."""
        named = filters.exact("digest")
        if named is not None:
            for text in sorted(named):
                info = await self._database.read(partial(rows.select_blob, namespace=namespace, digest=text))
                if info is not None:
                    yield info
            return
        after = ""
        while True:
            page = await self._database.read(
                partial(rows.select_blobs, namespace=namespace, after=after, limit=_PAGE)
            )
            for info in page:
                yield info
            if len(page) < _PAGE:
                return
            after = str(page[-1].digest)

    async def delete(self, scope: Scope, digest: Digest) -> None:
        def work(transaction: Transaction) -> None:
            if not rows.delete_blob(transaction.connection, scope, digest):
                raise _unknown(digest)
            transaction.mark_dirty()
            event = ContentDelete(str(digest))
            transaction.after_commit(lambda: self._publisher.publish(scope.namespace, event))

        await self._database.write(work)

    async def open_blob(self, scope: Scope, digest: Digest) -> int:
        """Raises: DataLossError: the record is there and its bytes are not, or not all."""
        info = await self.info(scope, digest)
        await self._make(info)
        return await settled(lambda: self._open(info), os.close)

    async def _make(self, info: ContentInfo) -> None:
        """What is there as a recipe may take long to make."""
        recipes = self._recipes
        if recipes is not None and recipes.is_recipe(info.digest):
            await in_own_thread(lambda: recipes.ready(info.digest), lambda: None)

    async def read_at(self, scope: Scope, digest: Digest, offset: int, length: int) -> bytes:
        """Raises: OutOfRangeError: ``offset`` is behind the end. DataLossError as for open_blob."""
        if offset < 0 or length < 0:
            raise InvalidArgumentError(f"cannot read {length} bytes at {offset}: invalid argument")
        known = await self.info(scope, digest)
        if offset <= known.size:
            length = min(length, known.size - offset)
            data = self._blobs.read_cached(digest, known.size, offset, length) if length <= _SMALL else None
            if data is not None:
                return data
        await self._make(known)

        # The record once more, in the thread that reads: it says why the bytes are not there, if so.
        def work(connection: sqlite3.Connection) -> bytes:
            info = _known(rows.select_blob(connection, scope.namespace, digest), digest)
            if offset > info.size:
                raise OutOfRangeError(f"read past object length {info.size} bytes")
            return self._read(info, offset, min(length, info.size - offset))

        return await self._database.read(work)

    def _open(self, info: ContentInfo) -> int:
        try:
            fd = self._blobs.open(info.digest)
        except NotFoundError:
            raise _lost(info, 0) from None
        found = os.fstat(fd).st_size
        if found != info.size:
            os.close(fd)
            raise _lost(info, found)
        return fd

    def _read(self, info: ContentInfo, offset: int, length: int) -> bytes:
        fd = self._open(info)
        try:
            parts = []
            while length > 0 and (data := os.pread(fd, length, offset)):
                parts.append(data)
                offset += len(data)
                length -= len(data)
            return b"".join(parts)
        except OSError as error:
            raise error_for_os(error, f"read content {info.digest}") from error
        finally:
            os.close(fd)

    # --- ingests

    async def open_ingest(
        self, scope: Scope, ref: str, total: int = 0, expected: Digest | None = None
    ) -> MetadataIngest:
        if not ref:
            raise InvalidArgumentError("ref must not be empty: invalid argument")
        # The bytes that are found must still be there when the record says that they are used.
        guard: AbstractAsyncContextManager[None] = self._locks.hold(expected) if expected else nullcontext()
        async with guard:
            present = None if expected is None else await settled(lambda: self._stat(expected))

            def work(transaction: Transaction) -> tuple[int, BlobStat | None] | None:
                return self._begin(transaction, scope, ref, total, expected, present)

            begun = await self._database.write(work)
        if begun is None:
            raise AlreadyExistsError(f"content {expected}: already exists")
        number, adopted = begun
        key = ingest_key(number, scope.namespace, ref)
        source: BlobIngest | BlobStat
        if adopted is not None:
            source = adopted
        else:
            source = await settled(lambda: self._blobs.open_ingest(key, total, expected), lambda i: i.close())
        return MetadataIngest(
            self._database, self._blobs, self._locks, self._publisher, scope, ref, key, source
        )

    def _begin(
        self,
        transaction: Transaction,
        scope: Scope,
        ref: str,
        total: int,
        expected: Digest | None,
        present: BlobStat | None,
    ) -> tuple[int, BlobStat | None] | None:
        """Number of the ingest and the blob it adopts; None when the namespace has ``expected``."""
        connection = transaction.connection
        adopted = None
        if expected is not None:
            known = rows.select_blob(connection, scope.namespace, expected)
            if known is None:
                # An announced size that is wrong is for the commit to tell the caller.
                if (
                    present is not None
                    and total in (0, present.size)
                    and self._may_adopt(transaction, present)
                ):
                    adopted = present
            elif present is not None and present.size == known.size:
                add_to_lease(connection, scope, CONTENT, str(expected))
                return None
        number = rows.begin_ingest(connection, scope, ref, total, adopted.digest if adopted else None)
        return number, adopted

    def _may_adopt(self, transaction: Transaction, blob: BlobStat) -> bool:
        return self._shared or rows.is_shareable(transaction.connection, blob.digest)

    def _stat(self, digest: Digest) -> BlobStat | None:
        try:
            return self._blobs.stat(digest)
        except NotFoundError:
            return None

    async def ingest_status(self, scope: Scope, ref: str) -> IngestStatus:
        """Raises: NotFoundError: there is none, or it has no bytes of its own."""
        number = await self._database.read(lambda c: rows.select_ingest(c, scope.namespace, ref))
        if number is not None:
            for status in await settled(lambda: self._statuses(scope.namespace, [(number, ref)])):
                return status
        raise NotFoundError(f"could not get status for ref {quoted(ref)}: reference {ref}: not found")

    async def list_ingests(self, scope: Scope, filters: Sequence[str] = ()) -> list[IngestStatus]:
        """Those with bytes of their own, in order of their refs. Field: ``ref``."""
        wanted = Filters.parse(filters)
        found = await self._database.read(lambda c: rows.select_ingests(c, scope.namespace))
        matching = [(number, ref) for number, ref in found if wanted.match(_ingest_fields(ref))]
        return await settled(lambda: self._statuses(scope.namespace, matching))

    def _statuses(self, namespace: str, ingests: Sequence[tuple[int, str]]) -> list[IngestStatus]:
        found = []
        for number, ref in ingests:
            try:
                status = self._blobs.ingest_status(ingest_key(number, namespace, ref))
            except NotFoundError:
                continue
            found.append(
                IngestStatus(ref, status.offset, status.total, None, status.started_at, status.updated_at)
            )
        return found

    async def abort(self, scope: Scope, ref: str) -> None:
        number = await self._database.write(lambda t: rows.delete_ingest(t.connection, scope, ref))
        if number is None:
            raise NotFoundError(f"reference {ref}: not found")
        await settled(lambda: self._blobs.remove_ingest(ingest_key(number, scope.namespace, ref)))


def _fields(info: ContentInfo) -> FieldLookup:
    def lookup(path: tuple[str, ...]) -> str | None:
        match path[0]:
            case "digest":
                return str(info.digest)
            case "size":
                return str(info.size)
            case "labels":
                return map_value(path, info.labels)
            case _:
                return None

    return lookup


def _ingest_fields(ref: str) -> FieldLookup:
    return lambda path: ref if path[0] == "ref" else None


def _known(info: ContentInfo | None, digest: Digest) -> ContentInfo:
    if info is None:
        raise _unknown(digest)
    return info


def _unknown(digest: Digest) -> NotFoundError:
    return NotFoundError(f"content digest {digest}: not found")


def _lost(info: ContentInfo, found: int) -> DataLossError:
    return DataLossError(
        f"content {info.digest} is damaged: {found} of its {info.size} bytes are there; fetch it again"
    )
