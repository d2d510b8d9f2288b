"""containerd.services.images.v1.Images"""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid._native import WirePlan
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.images.api import NO_TARGET, Image, ImageStore
from containerd_hybrid.metadata.api import Collector
from containerd_hybrid.proto.services.images.v1 import images_pb2 as pb
from containerd_hybrid.proto.types.descriptor_pb2 import Descriptor
from containerd_hybrid.rpc.api import CallContext, Encoded
from containerd_hybrid.wire import descriptor_from_wire, descriptor_to_wire, timestamp

WIRE_PLAN = WirePlan(
    [
        (pb.Image.NAME_FIELD_NUMBER, "name", "text", None),
        (pb.Image.LABELS_FIELD_NUMBER, "labels", "map", None),
        (
            pb.Image.TARGET_FIELD_NUMBER,
            "target",
            "message",
            WirePlan(
                [
                    (Descriptor.MEDIA_TYPE_FIELD_NUMBER, "media_type", "text", None),
                    (Descriptor.DIGEST_FIELD_NUMBER, "digest", "text", None),
                    (Descriptor.SIZE_FIELD_NUMBER, "size", "number", None),
                    (Descriptor.ANNOTATIONS_FIELD_NUMBER, "annotations", "map", None),
                ]
            ),
        ),
        (pb.Image.CREATED_AT_FIELD_NUMBER, "created_at", "time", None),
        (pb.Image.UPDATED_AT_FIELD_NUMBER, "updated_at", "time", None),
    ]
)
"""An image as :func:`to_wire` makes it, for answers that are often wanted or long."""


class ImagesService:
    """Image records; deleting one lets the collector take what only it held."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Images"]

    def __init__(self, images: ImageStore, collector: Collector) -> None:
        self._images = images
        self._collector = collector

    async def get(self, request: pb.GetImageRequest, call: CallContext) -> Encoded:
        image = await self._images.get(call.scope, request.name)
        return Encoded(WIRE_PLAN.list(pb.GetImageResponse.IMAGE_FIELD_NUMBER, (image,)))

    async def list(self, request: pb.ListImagesRequest, call: CallContext) -> Encoded:
        images = await self._images.list(call.scope, tuple(request.filters))
        return Encoded(WIRE_PLAN.list(pb.ListImagesResponse.IMAGES_FIELD_NUMBER, images))

    async def create(self, request: pb.CreateImageRequest, call: CallContext) -> pb.CreateImageResponse:
        if not request.image.name:
            raise InvalidArgumentError("Image.Name required")
        created = await self._images.create(
            call.scope, _from_wire(request.image), source_date_epoch=_epoch(request)
        )
        return pb.CreateImageResponse(image=to_wire(created))

    async def update(self, request: pb.UpdateImageRequest, call: CallContext) -> pb.UpdateImageResponse:
        if not request.image.name:
            raise InvalidArgumentError("Image.Name required")
        paths = tuple(request.update_mask.paths)
        updated = await self._images.update(
            call.scope, _from_wire(request.image), paths, source_date_epoch=_epoch(request)
        )
        return pb.UpdateImageResponse(image=to_wire(updated))

    async def delete(self, request: pb.DeleteImageRequest, call: CallContext) -> Empty:
        target = descriptor_from_wire(request.target) if request.HasField("target") else None
        await self._images.delete(call.scope, request.name, target=target)
        if request.sync:
            await self._collector.collect()
        else:
            self._collector.trigger()
        return Empty()


def to_wire(image: Image) -> pb.Image:
    """The message of one."""
    return pb.Image(
        name=image.name,
        labels=dict(image.labels),
        target=descriptor_to_wire(image.target),
        created_at=timestamp(image.created_at),
        updated_at=timestamp(image.updated_at),
    )


def _from_wire(message: pb.Image) -> Image:
    # An update of labels alone comes without a target.
    target = descriptor_from_wire(message.target) if message.target.digest else NO_TARGET
    return Image(message.name, target, dict(message.labels))


def _epoch(request: pb.CreateImageRequest | pb.UpdateImageRequest) -> int | None:
    return request.source_date_epoch.ToNanoseconds() if request.HasField("source_date_epoch") else None
