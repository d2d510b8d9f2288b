"""Transfer: moving images between places in one call (containerd.services.transfer.v1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from containerd_hybrid.images.api import ArchiveSource, Image, ImportOptions, ReferenceRule
from containerd_hybrid.model import Descriptor, Platform, Scope
from containerd_hybrid.registry.api import Fetcher, RegistryOptions


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a transfer: ``event`` says what (``extracting``, ``saved`` …), counts are bytes."""

    event: str
    name: str = ""
    parents: tuple[str, ...] = ()
    progress: int = 0
    total: int = 0
    descriptor: Descriptor | None = None


ProgressSink: TypeAlias = Callable[[Progress], None]


class BlobFetcher(Protocol):
    """Blobs from a registry into the content store."""

    async def fetch(self, scope: Scope, source: Fetcher, blob: Descriptor) -> bool:
        """Make the namespace have the blob; False when it had it.

        Raises:
            DigestMismatchError, SizeMismatchError: the registry has something else; its bytes are removed.
            UnavailableError: it broke off too often; what came is kept.
        """
        ...


class ArchiveSink(Protocol):
    """Where an exported archive goes; ``write`` waits while the receiver is slow."""

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class UnpackTarget:
    """Unpack for this platform with this snapshotter (empty: the default)."""

    platform: Platform
    snapshotter: str = ""


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """An image in a registry, and how to reach it."""

    reference: str
    options: RegistryOptions = field(default_factory=RegistryOptions)

    def __str__(self) -> str:
        return f"OCI Registry ({self.reference})"


@dataclass(frozen=True, slots=True)
class StoreTarget:
    """What of an image to keep, and under which names.

    No ``platforms`` means all. ``all_metadata`` also keeps manifests and configs of the others, without
    layers. ``manifest_limit`` (0: none) bounds how many manifests of an index are taken, best first.
    """

    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    all_metadata: bool = False
    manifest_limit: int = 0
    references: tuple[ReferenceRule, ...] = ()


class RegistryTransfers(Protocol):
    """Transfers between registries and the image store."""

    async def pull(
        self,
        scope: Scope,
        source: RegistryPlace,
        target: StoreTarget,
        unpack: Sequence[UnpackTarget] = (),
        progress: ProgressSink | None = None,
    ) -> Sequence[Image]:
        """Fetch what is not here, unpack it, and then name it.

        Cancelled or failed, no image is named, and what was fetched of a blob is kept for the next time.
        """
        ...

    async def push(
        self,
        scope: Scope,
        name: str,
        target: RegistryPlace,
        platforms: Sequence[Platform] = (),
        progress: ProgressSink | None = None,
    ) -> None:
        """Upload what the registry does not have: blobs, then manifests, then indexes.

        A place that names no tag gets none: the image is there by its digest.
        """
        ...


class Transferrer(RegistryTransfers, Protocol):
    """The transfers this daemon can do."""

    async def import_images(
        self,
        scope: Scope,
        source: ArchiveSource,
        options: ImportOptions,
        platforms: Sequence[Platform] = (),
        unpack: Sequence[UnpackTarget] = (),
        progress: ProgressSink | None = None,
        *,
        compress: bool = False,
    ) -> Sequence[Image]: ...

    async def export_images(
        self,
        scope: Scope,
        names: Sequence[str],
        sink: ArchiveSink,
        platforms: Sequence[Platform] = (),
        *,
        all_platforms: bool = False,
        skip_docker_manifest: bool = False,
        skip_non_distributable: bool = False,
        progress: ProgressSink | None = None,
    ) -> None: ...

    async def tag(
        self,
        scope: Scope,
        source: str,
        target: str,
        unpack: Sequence[UnpackTarget] = (),
        progress: ProgressSink | None = None,
        *,
        labels: Mapping[str, str] | None = None,
    ) -> Image:
        """Unpack the image ``source``, and give it the name ``target`` with ``labels``.

        What that pointed to is replaced, with its labels; those of ``source`` stay its own.
        """
        ...
