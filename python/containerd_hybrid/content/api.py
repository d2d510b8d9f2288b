"""Content: blobs named by their digest, and the ingests that become blobs.

Life cycle: ``open_ingest(ref)`` → ``write``… → ``commit`` (verifies size and digest, then the blob is
visible) or ``abort``. An ingest outlives the call that made it: opening the same ``ref`` again
resumes at its offset. One ingest has one writer at a time; a second one gets UnavailableError.

A :class:`BlobStore` is the folder on disk and knows no namespaces. A :class:`ContentStore` is what
clients see: per namespace, with labels, leases and the sharing policy.

All times are Unix nanoseconds, all sizes bytes. Source: containerd.services.content.v1.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from containerd_hybrid._native import CancelToken, Growing, HttpBody
from containerd_hybrid.errors import ResourceExhaustedError
from containerd_hybrid.model import Descriptor, Digest, Scope
from containerd_hybrid.model.manifest import MAX_DOCUMENT_BYTES


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """A committed blob as one namespace sees it."""

    digest: Digest
    size: int
    created_at: int
    updated_at: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """How far an ingest is. ``total`` is 0 and ``expected`` None while they are unknown."""

    ref: str
    offset: int
    total: int
    expected: Digest | None
    started_at: int
    updated_at: int


class Ingest(Protocol):
    """The one open writer of an ingest; closing it keeps the bytes for a later resume."""

    @property
    def status(self) -> IngestStatus:
        """Where the ingest stands now."""
        ...

    async def write(self, data: bytes, offset: int | None = None) -> int:
        """Append ``data`` and return the new offset.

        ``offset`` says where the caller believes to be; a value other than the present offset is
        OutOfRangeError, except 0 … offset which truncates (as containerd's Write does).
        """
        ...

    async def receive(self, body: HttpBody, limit: int) -> int:
        """Append all of ``body``, which no byte of passes through Python; the new offset.

        ``status`` tells meanwhile how far it is. A body that breaks off leaves the ingest open.

        Raises:
            UnavailableError: it broke off or stalled; what came is kept.
            SizeMismatchError: more than ``limit`` bytes came.
        """
        ...

    async def append_file(self, fd: int, length: int) -> int:
        """Append ``length`` bytes from the offset of ``fd``, by Rust; the new offset."""
        ...

    async def growing(self, total: int) -> Growing | None:
        """Something to read the bytes from while they are written, up to ``total``.

        None when there is nothing to wait for: the bytes are those of a blob that is here.
        """
        ...

    async def digest(self) -> Digest:
        """The digest of the bytes written so far."""
        ...

    async def truncate(self, size: int) -> None:
        """Throw away what lies behind ``size``; only 0 and the present offset are possible."""
        ...

    async def commit(
        self, size: int = 0, expected: Digest | None = None, labels: Mapping[str, str] | None = None
    ) -> ContentInfo:
        """Verify and make the blob visible; the ingest is gone afterwards.

        Raises:
            SizeMismatchError, DigestMismatchError: nothing becomes visible.
            AlreadyExistsError: this namespace has the blob; the ingest is removed.
        """
        ...

    async def close(self) -> None:
        """Release the ingest for another writer, keeping its bytes."""
        ...


class ContentStore(Protocol):
    """Namespaced content; every method raises NotFoundError for what the namespace does not have."""

    async def info(self, scope: Scope, digest: Digest) -> ContentInfo: ...

    async def update(
        self, scope: Scope, digest: Digest, labels: Mapping[str, str], fieldpaths: Sequence[str] = ()
    ) -> ContentInfo:
        """Replace labels (no field paths, or ``labels``) or single ones (``labels.KEY``)."""
        ...

    def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        """All blobs for which one of the filters holds, in digest order."""
        ...

    async def delete(self, scope: Scope, digest: Digest) -> None:
        """Forget the blob in this namespace; its bytes go with the last namespace, at collection."""
        ...

    async def open_blob(self, scope: Scope, digest: Digest) -> int:
        """A read-only descriptor of the blob's file; the caller closes it."""
        ...

    async def read_at(self, scope: Scope, digest: Digest, offset: int, length: int) -> bytes:
        """At most ``length`` bytes at ``offset``; for manifests and ranged reads."""
        ...

    async def open_ingest(
        self, scope: Scope, ref: str, total: int = 0, expected: Digest | None = None
    ) -> Ingest:
        """Begin or resume the ingest ``ref``.

        Raises:
            AlreadyExistsError: ``expected`` is already in this namespace.
            UnavailableError: somebody else has it open.
        """
        ...

    async def ingest_status(self, scope: Scope, ref: str) -> IngestStatus: ...

    async def list_ingests(self, scope: Scope, filters: Sequence[str] = ()) -> list[IngestStatus]: ...

    async def abort(self, scope: Scope, ref: str) -> None:
        """Remove the ingest and its bytes."""
        ...


class ContentAdopter(Protocol):
    """Takes files of another blob store as blobs of this one."""

    async def adopt(
        self, scope: Scope, source: Path, digest: Digest, size: int, labels: Mapping[str, str]
    ) -> ContentInfo:
        """Make the file ``source``, whose digest and size the caller vouches for, a blob of the namespace.

        Raises:
            AlreadyExistsError: the namespace has the blob.
        """
        ...


@dataclass(frozen=True, slots=True)
class BlobStat:
    """A blob's file: its size and when it was committed (Unix nanoseconds)."""

    digest: Digest
    size: int
    created_at: int


class BlobIngest(Protocol):
    """An open ingest folder of a :class:`BlobStore`. Methods block: call them in a thread.

    Whatever fails closes it; the bytes that reached the disk stay for a later resume.
    """

    @property
    def total(self) -> int: ...
    @property
    def started_at(self) -> int: ...
    @property
    def updated_at(self) -> int: ...
    @property
    def offset(self) -> int:
        """How many bytes are there; also while another thread is writing."""
        ...

    def write(self, data: bytes) -> int:
        """Append ``data`` and return the new offset."""
        ...

    def receive(self, body: HttpBody, limit: int) -> int:
        """Append all of ``body`` and return the new offset; see :meth:`Ingest.receive`."""
        ...

    def append_file(self, fd: int, length: int) -> int:
        """Append ``length`` bytes from the offset of ``fd`` and return the new offset."""
        ...

    def growing(self, total: int) -> Growing:
        """Something to read the bytes from while they are written, up to ``total``."""
        ...

    def digest(self) -> Digest:
        """The digest of the bytes so far; does not touch the disk."""
        ...

    def truncate(self) -> None:
        """Begin again with nothing."""
        ...

    def commit(self, size: int, expected: Digest | None) -> BlobStat:
        """Verify, sync as configured, and rename into place; an existing equal blob is kept.

        Raises:
            SizeMismatchError, DigestMismatchError: nothing becomes visible, the bytes stay.
            AbortedError: the ingest was removed meanwhile.
        """
        ...

    def close(self) -> None:
        """Release the ingest, keeping its bytes; twice is harmless."""
        ...


class BlobStore(Protocol):
    """Blobs and ingests on disk, laid out as containerd lays them out.

    Methods block, all but :meth:`read_cached`: call them in a thread.

    NotFoundError for what is not there.
    """

    def stat(self, digest: Digest) -> BlobStat: ...

    def open(self, digest: Digest) -> int:
        """A read-only descriptor; the caller closes it."""
        ...

    def read_cached(self, digest: Digest, size: int, offset: int, length: int) -> bytes | None:
        """Some bytes of a blob that has ``size``, if the kernel has them in memory. Never waits.

        None says nothing: read it another way, which tells what is wrong if something is.
        """
        ...

    def remove(self, digest: Digest) -> None: ...

    def walk(self) -> Iterable[BlobStat]:
        """All blobs, in no order."""
        ...

    def verify(self, digest: Digest) -> BlobStat:
        """Read every byte; DataLossError when they are not what the name says."""
        ...

    def open_ingest(self, key: str, total: int, expected: Digest | None) -> BlobIngest:
        """Begin or resume; ``expected`` only chooses the algorithm. UnavailableError when it is open."""
        ...

    def ingest_status(self, key: str) -> IngestStatus:
        """How far an ingest is that need not be open; its ``ref`` is the key."""
        ...

    def link(self, source: Path, digest: Digest) -> BlobStat:
        """Take a file as a blob, by a hard link or as a copy; see :class:`ContentAdopter`."""
        ...

    def ingest_keys(self) -> Iterable[str]: ...

    def remove_ingest(self, key: str) -> None:
        """Remove an ingest, open or not; none is no error."""
        ...


@runtime_checkable
class RecipeStore(BlobStore, Protocol):
    """A blob store that can have a blob as a *recipe*: how it is made of the files of an unpacked layer.

    All methods of a :class:`BlobStore` take a recipe for the blob that it gives; those that read it raise
    DataLossError when the files are not what they were.
    """

    def is_recipe(self, digest: Digest) -> bool:
        """Whether there is a recipe; there may be a blob beside it. Does not block."""
        ...

    def ready(self, digest: Digest) -> None:
        """Make the blob of a recipe, so that opening it soon does not take long."""
        ...

    def intend(self, digest: Digest, folder: Path | None) -> None:
        """Have ``recipes_in`` tell of a blob that is about to become a recipe; None: no more."""
        ...

    def recipes_in(self, folder: Path) -> list[Digest]:
        """The recipes that need the files of a folder, and those intended. Does not block."""
        ...

    def convert(self, digest: Digest, folder: Path, cancel: CancelToken) -> str:
        """Make a blob a recipe by the files that it was unpacked to; "" or why it has to stay a blob.

        Raises:
            DigestMismatchError, SizeMismatchError, InvalidArgumentError: the blob is damaged, or no layer.
        """
        ...

    def restore(self, digest: Digest) -> None:
        """Make a recipe a blob again; none is no error."""
        ...


class ContentRecipes(Protocol):
    """Blobs that become recipes, and blobs again before the files go that they are made of."""

    async def convert(self, digest: Digest, folder: Path, stands: Callable[[], Awaitable[bool]]) -> str:
        """Make a blob a recipe if that gives it exactly; "", or why it stays a blob.

        ``stands`` tells whether ``folder`` still belongs to a snapshot; a removal after it was asked comes
        to ``part_with`` first.
        """
        ...

    async def part_with(self, folder: Path) -> None:
        """Called before a folder is removed: what is needed of it is a blob again afterwards.

        Raises:
            ResourceExhaustedError: there is no room for that; the folder has to stay.
        """
        ...


async def read_document(content: ContentStore, scope: Scope, descriptor: Descriptor) -> bytes:
    """A manifest, index or config, whole.

    Raises:
        NotFoundError: the blob is not here.
        ResourceExhaustedError: it is larger than any honest document.
    """
    if descriptor.size > MAX_DOCUMENT_BYTES:
        raise ResourceExhaustedError(
            f"{descriptor.digest} ({descriptor.media_type}) has {descriptor.size} bytes, "
            f"more than the {MAX_DOCUMENT_BYTES} that are read into memory"
        )
    size = (await content.info(scope, descriptor.digest)).size
    return await content.read_at(scope, descriptor.digest, 0, min(size, MAX_DOCUMENT_BYTES))
