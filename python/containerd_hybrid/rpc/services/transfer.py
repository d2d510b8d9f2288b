"""containerd.services.transfer.v1.Transfer"""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.errors import UnimplementedError
from containerd_hybrid.images.api import ImportOptions
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.services.transfer.v1 import transfer_pb2 as pb
from containerd_hybrid.proto.types.transfer import (
    imagestore_pb2,
    importexport_pb2,
    progress_pb2,
    registry_pb2,
)
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.rpc.services.byte_streams import WINDOW, ReceivedBytes, SentBytes, Telling, pack
from containerd_hybrid.rpc.services.transfer_registry import reference_rules, registry_place, store_target
from containerd_hybrid.streaming.api import StreamManager
from containerd_hybrid.transfer.api import Progress, ProgressSink, Transferrer, UnpackTarget
from containerd_hybrid.wire import descriptor_to_wire, platform_from_wire

ImageStore = imagestore_pb2.ImageStore
ImageImportStream = importexport_pb2.ImageImportStream
ImageExportStream = importexport_pb2.ImageExportStream
OCIRegistry = registry_pb2.OCIRegistry


class TransferService:
    """Pairs the two ends of a transfer with what the transferrer can do."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Transfer"]

    def __init__(self, transferrer: Transferrer, streams: StreamManager) -> None:
        self._transferrer = transferrer
        self._streams = streams

    async def transfer(self, request: pb.TransferRequest, call: CallContext) -> Empty:
        scope = call.scope
        name = request.options.progress_stream
        if not name:
            await self._run(scope, request, _nobody)
            return Empty()
        stream = self._streams.get(scope, name)
        told = Telling[Progress](stream, lambda progress: stream.send(_progress(progress)))
        try:
            await self._run(scope, request, told.tell)
        finally:
            await told.finish()
        return Empty()

    async def _run(self, scope: Scope, request: pb.TransferRequest, progress: ProgressSink) -> None:
        source, destination = _name(request.source), _name(request.destination)
        match source, destination:
            case "ImageImportStream", "ImageStore":
                await self._import(
                    scope,
                    ImageImportStream.FromString(request.source.value),
                    ImageStore.FromString(request.destination.value),
                    progress,
                )
            case "ImageStore", "ImageExportStream":
                await self._export(
                    scope,
                    ImageStore.FromString(request.source.value),
                    ImageExportStream.FromString(request.destination.value),
                    progress,
                )
            case "ImageImportStream", "ImageExportStream":
                await self._echo(
                    scope,
                    ImageImportStream.FromString(request.source.value),
                    ImageExportStream.FromString(request.destination.value),
                )
            case "ImageStore", "ImageStore":
                target = ImageStore.FromString(request.destination.value)
                await self._transferrer.tag(
                    scope,
                    ImageStore.FromString(request.source.value).name,
                    target.name,
                    _unpack_targets(target),
                    progress,
                    labels=dict(target.labels),
                )
            case "OCIRegistry", "ImageStore":
                await self._pull(
                    scope,
                    OCIRegistry.FromString(request.source.value),
                    ImageStore.FromString(request.destination.value),
                    progress,
                )
            case "ImageStore", "OCIRegistry":
                await self._push(
                    scope,
                    ImageStore.FromString(request.source.value),
                    OCIRegistry.FromString(request.destination.value),
                    progress,
                )
            case _:
                raise UnimplementedError(
                    f"method Transfer not implemented for {request.source.type_url} "
                    f"to {request.destination.type_url}"
                )

    async def _import(
        self,
        scope: Scope,
        source: importexport_pb2.ImageImportStream,
        destination: imagestore_pb2.ImageStore,
        progress: ProgressSink,
    ) -> None:
        stream = self._streams.get(scope, source.stream)
        try:
            await self._transferrer.import_images(
                scope,
                ReceivedBytes(stream),
                _import_options(destination),
                [platform_from_wire(platform) for platform in destination.platforms],
                _unpack_targets(destination),
                progress,
                compress=source.force_compress,
            )
        finally:
            stream.close()

    async def _export(
        self,
        scope: Scope,
        source: imagestore_pb2.ImageStore,
        destination: importexport_pb2.ImageExportStream,
        progress: ProgressSink,
    ) -> None:
        if any(reference.is_prefix for reference in source.extra_references):
            raise UnimplementedError("prefix lookup on export not implemented")
        names = [source.name] if source.name else []
        names += [reference.name for reference in source.extra_references]
        stream = self._streams.get(scope, destination.stream)
        sink = SentBytes(stream)
        try:
            await self._transferrer.export_images(
                scope,
                names,
                sink,
                [platform_from_wire(platform) for platform in destination.platforms],
                all_platforms=destination.all_platforms,
                skip_docker_manifest=destination.skip_compatibility_manifest,
                skip_non_distributable=destination.skip_non_distributable,
                progress=progress,
            )
        finally:
            stream.close()

    async def _echo(
        self,
        scope: Scope,
        source: importexport_pb2.ImageImportStream,
        destination: importexport_pb2.ImageExportStream,
    ) -> None:
        """Hand an archive from one stream to the other; clients test their streams with it."""
        incoming, outgoing = (
            self._streams.get(scope, source.stream),
            self._streams.get(scope, destination.stream),
        )
        received, sent = ReceivedBytes(incoming), SentBytes(outgoing)
        try:
            while data := await received.read(WINDOW):
                await sent.write(data)
        finally:
            incoming.close()
            await sent.close()

    async def _pull(
        self,
        scope: Scope,
        source: registry_pb2.OCIRegistry,
        destination: imagestore_pb2.ImageStore,
        progress: ProgressSink,
    ) -> None:
        async with registry_place(source, scope, self._streams) as place:
            await self._transferrer.pull(
                scope, place, store_target(destination), _unpack_targets(destination), progress
            )

    async def _push(
        self,
        scope: Scope,
        source: imagestore_pb2.ImageStore,
        destination: registry_pb2.OCIRegistry,
        progress: ProgressSink,
    ) -> None:
        async with registry_place(destination, scope, self._streams) as place:
            platforms = [platform_from_wire(platform) for platform in source.platforms]
            await self._transferrer.push(scope, source.name, place, platforms, progress)


def _name(value: AnyMessage) -> str:
    prefix, _, name = value.type_url.rpartition("/")[2].rpartition(".")
    return name if prefix == "containerd.types.transfer" else ""


def _unpack_targets(store: imagestore_pb2.ImageStore) -> list[UnpackTarget]:
    return [UnpackTarget(platform_from_wire(unpack.platform), unpack.snapshotter) for unpack in store.unpacks]


def _import_options(store: imagestore_pb2.ImageStore) -> ImportOptions:
    return ImportOptions(store.name, reference_rules(store), dict(store.labels))


def _nobody(progress: Progress) -> None:
    """Nobody listens."""


def _progress(progress: Progress) -> AnyValue:
    return pack(
        progress_pb2.Progress(
            event=progress.event,
            name=progress.name,
            parents=progress.parents,
            progress=progress.progress,
            total=progress.total,
            desc=descriptor_to_wire(progress.descriptor) if progress.descriptor else None,
        )
    )
