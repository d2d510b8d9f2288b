"""Images: names for descriptors, and the archives they travel in (containerd.services.images.v1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from containerd_hybrid.errors import AlreadyExistsError, NotFoundError
from containerd_hybrid.model import Descriptor, Digest, Platform, Scope
from containerd_hybrid.model.descriptor import is_config, is_layer, is_manifest
from containerd_hybrid.model.labels import GC_REF_CONTENT

NO_TARGET = Descriptor("", Digest("", ""), 0)
"""The target of an image that only says what to change of another; a store refuses to keep it."""


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

    async def create(self, scope: Scope, image: Image, *, source_date_epoch: int | None = None) -> Image:
        """AlreadyExistsError when the name is taken.

        ``source_date_epoch`` (Unix nanoseconds) is used for the record's times instead of the clock.
        """
        ...

    async def update(
        self,
        scope: Scope,
        image: Image,
        fieldpaths: Sequence[str] = (),
        *,
        source_date_epoch: int | None = None,
    ) -> Image:
        """Replace the fields named (``labels``, ``labels.KEY``, ``target``, ``annotations…``), or all."""
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
class ReferenceRule:
    """How names are given to the images of an archive (containerd.types.transfer.ImageReference).

    A prefix rule names each image by what the archive says: a full name is taken as it is (only when
    it begins with ``name``, unless ``allow_overwrite``), a bare tag becomes ``name:tag``.
    ``add_digest`` also makes ``name@digest``, for images that got a name only if not
    ``skip_named_digest``. A rule that is no prefix names the whole index.
    """

    name: str
    is_prefix: bool = False
    allow_overwrite: bool = False
    add_digest: bool = False
    skip_named_digest: bool = False


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to name what was read; ``index_name`` names the whole index, ``labels`` go on every image."""

    index_name: str = ""
    references: tuple[ReferenceRule, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImportedIndex:
    """What an archive held: its index, and the manifests of it that were wanted."""

    index: Descriptor
    manifests: tuple[Descriptor, ...]


class ImageImporter(Protocol):
    """Reads OCI layouts and Docker archives (``docker save``), plain or compressed with gzip or zstd."""

    async def read(
        self,
        scope: Scope,
        source: ArchiveSource,
        platforms: Sequence[Platform] = (),
        *,
        compress: bool = False,
    ) -> ImportedIndex:
        """Store the blobs, verified and labelled for the collector. The scope has to hold a lease.

        With ``platforms`` only what serves one of them has to be whole. ``compress`` stores the plain
        layers of a Docker archive with gzip; those of an OCI layout are what their manifest says.

        Raises:
            InvalidArgumentError: no archive, or not of an image; names the entry.
            NotFoundError: a manifest names a blob that is not in the archive.
        """
        ...

    async def serves(self, scope: Scope, image: Descriptor, platform: Platform) -> bool:
        """Whether a manifest or index that was read is, or has, an image for the platform."""
        ...

    async def store(self, scope: Scope, imported: ImportedIndex, options: ImportOptions) -> Sequence[Image]:
        """Create or update the image records.

        Raises:
            NotFoundError: the archive gives no names and the options neither.
        """
        ...


class ImageExporter(Protocol):
    """Writes an OCI layout that Docker can load too."""

    def export_archive(
        self,
        scope: Scope,
        names: Sequence[str],
        platforms: Sequence[Platform] = (),
        *,
        all_platforms: bool = False,
        skip_docker_manifest: bool = False,
        skip_non_distributable: bool = False,
    ) -> AsyncIterator[bytes]:
        """The archive's bytes, in pieces; of each index what serves the platforms (this machine's) best.

        ``skip_docker_manifest`` leaves ``manifest.json`` out, which only Docker reads;
        ``skip_non_distributable`` the layers that may not be handed on.

        Raises:
            NotFoundError: names the image or blob that is not here.
        """
        ...


def child_labels(children: Sequence[Descriptor]) -> list[str]:
    """The labels by which the collector follows a manifest or index to its children, in their order.

    Named as containerd names them: ``….config``, ``….m.N`` (manifests), ``….l.N`` (layers), ``….N``
    (whatever else), each kind counted by itself.
    """
    labels: list[str] = []
    counts: Counter[str] = Counter()
    for child in children:
        kind, number = _kind_of_child(child.media_type), ""
        if counts[kind] or kind.endswith("."):
            number = str(counts[kind])
        labels.append(f"{GC_REF_CONTENT}{kind}{number}")
        counts[kind] += 1
    return labels


def _kind_of_child(media_type: str) -> str:
    if is_config(media_type):
        return ".config"
    if is_manifest(media_type):
        return ".m."
    return ".l." if is_layer(media_type) else "."


async def put_image(images: ImageStore, scope: Scope, image: Image, fieldpaths: Sequence[str] = ()) -> Image:
    """Create the image, or update the fields named (or all) of the one that has its name."""
    while True:
        try:
            return await images.create(scope, image)
        except AlreadyExistsError:
            pass
        try:
            return await images.update(scope, image, fieldpaths)
        except NotFoundError:
            continue  # somebody removed it in between
