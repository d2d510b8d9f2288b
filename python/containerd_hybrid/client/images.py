"""Images of a namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.files import opened, replaced_file
from containerd_hybrid.client.registries import registry_end
from containerd_hybrid.client.streams import (
    ClientStream,
    open_stream,
    pack,
    receive_file,
    send_file,
    transfer_needed,
    while_moving,
)
from containerd_hybrid.errors import InvalidReferenceError, NotFoundError
from containerd_hybrid.images.api import Image
from containerd_hybrid.model import Descriptor, Platform, Reference
from containerd_hybrid.model.manifest import (
    ImageConfig,
    Manifest,
    choose_manifest,
    parse_image_config,
    parse_manifest_or_index,
)
from containerd_hybrid.proto.services.content.v1 import content_pb2
from containerd_hybrid.proto.services.images.v1 import images_pb2
from containerd_hybrid.proto.services.transfer.v1 import transfer_pb2
from containerd_hybrid.proto.types.transfer import imagestore_pb2, importexport_pb2, progress_pb2
from containerd_hybrid.registry.api import RegistryOptions
from containerd_hybrid.transfer.api import Progress, ProgressSink
from containerd_hybrid.wire import descriptor_from_wire, platform_to_wire

_IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]
_CONTENT = content_pb2.DESCRIPTOR.services_by_name["Content"]
_TRANSFER = transfer_pb2.DESCRIPTOR.services_by_name["Transfer"]


def full_name(name: str) -> str:
    """The name an image is stored under: ``busybox`` is ``docker.io/library/busybox:latest``.

    Raises:
        InvalidReferenceError: it cannot be a name.
    """
    return str(Reference.parse(name))


class AsyncImages:
    """``client.images``"""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def list(self, filters: Sequence[str] = ()) -> Sequence[Image]:
        """All images for which one of the filters (``name==…``, ``labels.key==…``) holds, or all."""
        request = images_pb2.ListImagesRequest(filters=filters)
        answer = await self._calls.unary(_IMAGES, "List", request, images_pb2.ListImagesResponse)
        return [_from_wire(image) for image in answer.images]

    async def get(self, name: str) -> Image:
        """
        Raises:
            NotFoundError: there is no image of that name, as given or as its full name.
        """
        names = [name]
        with suppress(InvalidReferenceError):  # other clients store other names
            names = list(dict.fromkeys((full_name(name), name)))
        for candidate in names:
            request = images_pb2.GetImageRequest(name=candidate)
            with suppress(NotFoundError):
                answer = await self._calls.unary(_IMAGES, "Get", request, images_pb2.GetImageResponse)
                return _from_wire(answer.image)
        raise NotFoundError(f"image {names[0]!r} not found: import it first")

    async def remove(self, name: str, *, sync: bool = True) -> None:
        """Remove the name; with ``sync`` also wait until what only it held is gone."""
        image = await self.get(name)
        await self._calls.unary(
            _IMAGES, "Delete", images_pb2.DeleteImageRequest(name=image.name, sync=sync), Empty
        )

    async def tag(self, source: str, target: str) -> Image:
        """Give an image one more name, taking it from whatever had it."""
        image = await self.get(source)
        store = imagestore_pb2.ImageStore
        await self._transfer(store(name=image.name), store(name=full_name(target)))
        return await self.get(target)

    async def unpack(self, name: str, *, snapshotter: str = "", platform: Platform | None = None) -> None:
        """Unpack an image that is here; what is unpacked already costs nothing."""
        image = await self.get(name)
        store = imagestore_pb2.ImageStore(name=image.name)
        target = imagestore_pb2.ImageStore(
            name=image.name, unpacks=[_unpack(platform or Platform.host(), snapshotter)]
        )
        await self._transfer(store, target)

    async def pull(
        self,
        name: str,
        *,
        platform: Platform | None = None,
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        registry: RegistryOptions | None = None,
        progress: ProgressSink | None = None,
    ) -> Image:
        """Pull an image from its registry; what is here already is not fetched again.

        Of an index the layers of ``platform`` (default: this machine's) are taken, of the other
        platforms what describes them. ``registry`` says how to reach it; paths in it are the daemon's.

        Raises:
            NotFoundError: the registry has no such image, or none for the platform.
            UnauthenticatedError, PermissionDeniedError: credentials are missing, wrong, or not enough.
            UnavailableError: the registry cannot be reached; what was fetched is kept for the next try.
        """
        full = full_name(name)
        wanted = platform or Platform.host()
        target = imagestore_pb2.ImageStore(
            name=full,
            platforms=[] if all_platforms else [platform_to_wire(wanted)],
            all_metadata=True,
            unpacks=[_unpack(wanted, snapshotter)] if unpack else [],
        )
        async with registry_end(self._calls, full, registry or RegistryOptions()) as source:
            await self._transfer(source, target, progress)
        return await self.get(full)

    async def push(
        self,
        name: str,
        target: str = "",
        *,
        platform: Platform | None = None,
        registry: RegistryOptions | None = None,
        progress: ProgressSink | None = None,
    ) -> None:
        """Push an image to the registry that its name says, or as ``target`` to another one.

        With ``platform`` only that one's manifest and layers of an index are sent, with the index.

        Raises:
            NotFoundError: the image, or a part of it, is not here.
            UnauthenticatedError, PermissionDeniedError: credentials are missing, wrong, or not enough.
        """
        image = await self.get(name)
        place = full_name(target or image.name)
        source = imagestore_pb2.ImageStore(
            name=image.name, platforms=[platform_to_wire(platform)] if platform else []
        )
        async with registry_end(self._calls, place, registry or RegistryOptions()) as end:
            await self._transfer(source, end, progress)

    async def import_archive(
        self,
        archive: str | Path | BinaryIO,
        *,
        name: str = "",
        base_name: str = "import",
        platform: Platform | None = None,
        unpack: bool = True,
        snapshotter: str = "",
        progress: ProgressSink | None = None,
    ) -> Sequence[Image]:
        """Import an OCI layout or Docker archive.

        ``name`` names the archive's index; otherwise names come from the archive, and a bare tag ``x``
        becomes ``base_name:x``. Without ``platform`` that of this machine is unpacked and what else the
        archive holds is kept.

        Raises:
            InvalidArgumentError: it is no image archive, or a damaged one.
        """
        target = imagestore_pb2.ImageStore(
            name=full_name(name) if name else "",
            platforms=[platform_to_wire(platform)] if platform else [],
            unpacks=[_unpack(platform or Platform.host(), snapshotter)] if unpack else [],
            extra_references=[
                imagestore_pb2.ImageReference(name=base_name, is_prefix=True, allow_overwrite=True)
            ],
        )
        names: list[str] = []

        def note(step: Progress) -> None:
            if step.event == "saved":
                names.append(step.name)
            if progress is not None:
                progress(step)

        async with opened(archive, "rb") as file, open_stream(self._calls) as stream:
            source = importexport_pb2.ImageImportStream(stream=stream.name)
            await while_moving(self._transfer(source, target, note), send_file(stream, file))
        return [await self.get(saved) for saved in names]

    async def export_archive(
        self,
        names: Sequence[str],
        archive: str | Path | BinaryIO,
        *,
        platform: Platform | None = None,
        all_platforms: bool = False,
        progress: ProgressSink | None = None,
    ) -> None:
        """Write an OCI layout that ``docker load`` reads too. A file that could not be finished is removed.

        Raises:
            NotFoundError: an image, or a blob of it, is not here.
        """
        images = [await self.get(name) for name in names]
        source = imagestore_pb2.ImageStore(
            extra_references=[imagestore_pb2.ImageReference(name=image.name) for image in images]
        )
        async with replaced_file(archive) as file, open_stream(self._calls) as stream:
            target = importexport_pb2.ImageExportStream(
                stream=stream.name,
                platforms=[platform_to_wire(platform)] if platform else [],
                all_platforms=all_platforms,
            )
            await while_moving(self._transfer(source, target, progress), receive_file(stream, file))

    async def config(self, image: Image, platform: Platform | None = None) -> tuple[Manifest, ImageConfig]:
        """The manifest for the platform (default: this machine's) and the image configuration.

        Raises:
            NotFoundError: the image has none for it.
        """
        wanted = platform or Platform.host()
        descriptor = image.target
        while True:
            document = parse_manifest_or_index(await self._read(descriptor), descriptor.media_type)
            if isinstance(document, Manifest):
                return document, parse_image_config(await self._read(document.config))
            chosen = choose_manifest(document, wanted)
            if chosen is None:
                raise NotFoundError(f"image {image.name!r} has no manifest for {wanted}")
            descriptor = chosen

    async def _read(self, descriptor: Descriptor) -> bytes:
        request = content_pb2.ReadContentRequest(digest=str(descriptor.digest))
        data = bytearray()
        async for piece in self._calls.server_stream(
            _CONTENT, "Read", request, content_pb2.ReadContentResponse
        ):
            data += piece.data
        return bytes(data)

    async def _transfer(
        self, source: Message, destination: Message, progress: ProgressSink | None = None
    ) -> None:
        request = transfer_pb2.TransferRequest(source=pack(source), destination=pack(destination))
        if progress is None:
            with transfer_needed():
                await self._calls.unary(_TRANSFER, "Transfer", request, Empty)
            return
        async with open_stream(self._calls) as stream:
            request.options.progress_stream = stream.name
            listening = asyncio.ensure_future(_listen(stream, progress))
            try:
                await self._calls.unary(_TRANSFER, "Transfer", request, Empty)
                await listening
            finally:
                listening.cancel()
                await asyncio.wait({listening})


async def _listen(stream: ClientStream, progress: ProgressSink) -> None:
    while (message := await stream.receive()) is not None:
        progress(_progress(message))


def _from_wire(message: images_pb2.Image) -> Image:
    return Image(
        message.name,
        descriptor_from_wire(message.target),
        dict(message.labels),
        message.created_at.ToNanoseconds(),
        message.updated_at.ToNanoseconds(),
    )


def _unpack(platform: Platform, snapshotter: str) -> imagestore_pb2.UnpackConfiguration:
    return imagestore_pb2.UnpackConfiguration(platform=platform_to_wire(platform), snapshotter=snapshotter)


def _progress(message: AnyMessage) -> Progress:
    step = progress_pb2.Progress.FromString(message.value)
    return Progress(
        step.event,
        step.name,
        tuple(step.parents),
        step.progress,
        step.total,
        descriptor_from_wire(step.desc) if step.HasField("desc") else None,
    )
