"""Transfers of this daemon: archives and names here, registries by who knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from containerd_hybrid.errors import UnimplementedError
from containerd_hybrid.images.api import (
    ArchiveSource,
    Image,
    ImageExporter,
    ImageImporter,
    ImageStore,
    ImportOptions,
    put_image,
)
from containerd_hybrid.leases.api import LeaseManager, protected
from containerd_hybrid.model import Descriptor, Platform, Scope
from containerd_hybrid.retention.api import Retention
from containerd_hybrid.transfer.api import (
    ArchiveSink,
    Progress,
    ProgressSink,
    RegistryPlace,
    RegistryTransfers,
    StoreTarget,
    UnpackTarget,
)
from containerd_hybrid.unpack.api import Unpacker, UnpackProgress


class LocalTransferrer:
    """See :class:`containerd_hybrid.transfer.api.Transferrer`."""

    def __init__(
        self,
        images: ImageStore,
        importer: ImageImporter,
        exporter: ImageExporter,
        unpacker: Unpacker,
        leases: LeaseManager,
        registries: RegistryTransfers | None = None,
        retention: Retention | None = None,
    ) -> None:
        self._images = images
        self._importer = importer
        self._exporter = exporter
        self._unpacker = unpacker
        self._leases = leases
        self._registries = registries
        self._retention = retention

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
    ) -> list[Image]:
        tell = progress or _nobody
        async with protected(self._leases, scope) as held:
            tell(Progress("Importing"))
            imported = await self._importer.read(held, source, platforms, compress=compress)
            for manifest in imported.manifests:
                serving = [
                    target
                    for target in unpack
                    if await self._importer.serves(held, manifest, target.platform)
                ]
                await self._unpack(held, manifest, serving, tell)
            images = list(await self._importer.store(held, imported, options))
            for image in images:
                tell(Progress("saved", image.name, descriptor=image.target))
            tell(Progress("Completed import"))
            return images

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
    ) -> None:
        tell = progress or _nobody
        async with protected(self._leases, scope) as held:
            tell(Progress("Exporting"))
            async for piece in self._exporter.export_archive(
                held,
                names,
                platforms,
                all_platforms=all_platforms,
                skip_docker_manifest=skip_docker_manifest,
                skip_non_distributable=skip_non_distributable,
            ):
                await sink.write(piece)
            await sink.close()
            tell(Progress("Completed export"))

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
        async with protected(self._leases, scope) as held:
            image = await self._images.get(held, source)
            await self._unpack(held, image.target, unpack, progress or _nobody)
            if source == target:
                return image
            return await put_image(self._images, held, Image(target, image.target, dict(labels or {})))

    async def pull(
        self,
        scope: Scope,
        source: RegistryPlace,
        target: StoreTarget,
        unpack: Sequence[UnpackTarget] = (),
        progress: ProgressSink | None = None,
    ) -> Sequence[Image]:
        return await self._registry_transfers().pull(scope, source, target, unpack, progress)

    async def push(
        self,
        scope: Scope,
        name: str,
        target: RegistryPlace,
        platforms: Sequence[Platform] = (),
        progress: ProgressSink | None = None,
    ) -> None:
        await self._registry_transfers().push(scope, name, target, platforms, progress)

    def _registry_transfers(self) -> RegistryTransfers:
        if self._registries is None:
            raise UnimplementedError("this daemon has no registry client: it moves archives only")
        return self._registries

    async def _unpack(
        self, scope: Scope, image: Descriptor, targets: Sequence[UnpackTarget], tell: ProgressSink
    ) -> None:
        unpacked = [
            await self._unpacker.unpack(
                scope,
                image,
                target.platform,
                target.snapshotter,
                progress=lambda step: tell(_layer_progress(step)),
            )
            for target in targets
        ]
        if self._retention is not None:
            for one in unpacked:
                await self._retention.settle(scope, one)


def _nobody(progress: Progress) -> None:
    """Nobody listens."""


def _layer_progress(step: UnpackProgress) -> Progress:
    events = {"extracting": "extracting", "exists": "already exists", "done": "extracted"}
    return Progress(
        events[step.state], f"layer {step.layer.digest}", total=step.layer.size, descriptor=step.layer
    )
