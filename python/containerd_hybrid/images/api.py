"""Images: names for descriptors, and the archives they travel in (containerd.services.images.v1)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from containerd_hybrid.model import Descriptor, Platform, Scope


@dataclass(frozen=True, slots=True)
class Image:
    """A name that points to a manifest or an index. Times are Unix nanoseconds, 0 before it is stored."""

    name: str
    target: Descriptor
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


class ImageStore(Protocol):
    """Image records of a namespace."""

    async def get(self, scope: Scope, name: str) -> Image: ...

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Image]: ...

    async def create(self, scope: Scope, image: Image) -> Image:
        """AlreadyExistsError when the name is taken."""
        ...

    async def update(self, scope: Scope, image: Image, fieldpaths: Sequence[str] = ()) -> Image:
        """Replace the fields named (``labels``, ``labels.KEY``, ``target``, ``annotations…``), or all of them."""
        ...

    async def delete(self, scope: Scope, name: str, *, target: Descriptor | None = None) -> None:
        """Remove the name; with ``target`` only while it still points there, else NotFoundError."""
        ...


class ArchiveSource(Protocol):
    """Bytes of an archive, in order, from a stream that need not be seekable."""

    async def read(self, size: int) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        ...


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What to take from an archive and how to name it.

    ``base_name`` is put before names that are only a tag; ``index_name`` names the whole index;
    ``platforms`` empty means all that are there.
    """

    base_name: str = ""
    index_name: str = ""
    platforms: tuple[Platform, ...] = ()
    all_platforms: bool = False
    digest_names: bool = False
    overwrite: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)


class ImageImporter(Protocol):
    """Reads OCI layouts and Docker archives (``docker save``), plain, gzip or zstd compressed."""

    async def import_archive(self, scope: Scope, source: ArchiveSource, options: ImportOptions) -> Sequence[Image]:
        """Store the blobs, verified, and create or update the image records; nothing half-made stays."""
        ...


class ImageExporter(Protocol):
    """Writes an OCI layout that Docker can load too."""

    def export_archive(
        self, scope: Scope, names: Sequence[str], platforms: Sequence[Platform] = (), *, all_platforms: bool = False
    ) -> AsyncIterator[bytes]:
        """The archive's bytes, in pieces. NotFoundError names the image or blob that is not here."""
        ...
