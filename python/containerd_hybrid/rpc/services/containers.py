"""containerd.services.containers.v1.Containers"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid._native import WirePlan
from containerd_hybrid.containers.api import Container, ContainerStore
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.metadata.api import Collector
from containerd_hybrid.proto.services.containers.v1 import containers_pb2 as pb
from containerd_hybrid.rpc.api import CallContext, Encoded
from containerd_hybrid.wire import any_from_wire, any_to_wire, timestamp

WIRE_PLAN = WirePlan(
    [
        (pb.Container.ID_FIELD_NUMBER, "id", "text", None),
        (pb.Container.LABELS_FIELD_NUMBER, "labels", "map", None),
        (pb.Container.IMAGE_FIELD_NUMBER, "image", "text", None),
        (
            pb.Container.RUNTIME_FIELD_NUMBER,
            "",
            "part",
            WirePlan(
                [
                    (pb.Container.Runtime.NAME_FIELD_NUMBER, "runtime_name", "text", None),
                    (pb.Container.Runtime.OPTIONS_FIELD_NUMBER, "runtime_options", "any", None),
                ]
            ),
        ),
        (pb.Container.SPEC_FIELD_NUMBER, "spec", "any", None),
        (pb.Container.SNAPSHOTTER_FIELD_NUMBER, "snapshotter", "text", None),
        (pb.Container.SNAPSHOT_KEY_FIELD_NUMBER, "snapshot_key", "text", None),
        (pb.Container.CREATED_AT_FIELD_NUMBER, "created_at", "time", None),
        (pb.Container.UPDATED_AT_FIELD_NUMBER, "updated_at", "time", None),
        (pb.Container.EXTENSIONS_FIELD_NUMBER, "extensions", "anys", None),
        (pb.Container.SANDBOX_FIELD_NUMBER, "sandbox", "text", None),
    ]
)
"""A container as :func:`to_wire` makes it, for answers that are often wanted or long."""


class ContainersService:
    """Container records."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Containers"]

    def __init__(self, containers: ContainerStore, collector: Collector) -> None:
        self._containers = containers
        self._collector = collector

    async def get(self, request: pb.GetContainerRequest, call: CallContext) -> Encoded:
        container = await self._containers.get(call.scope, request.id)
        return Encoded(WIRE_PLAN.list(pb.GetContainerResponse.CONTAINER_FIELD_NUMBER, (container,)))

    async def list(self, request: pb.ListContainersRequest, call: CallContext) -> Encoded:
        containers = await self._containers.list(call.scope, tuple(request.filters))
        return Encoded(WIRE_PLAN.list(pb.ListContainersResponse.CONTAINERS_FIELD_NUMBER, containers))

    async def list_stream(
        self, request: pb.ListContainersRequest, call: CallContext
    ) -> AsyncIterator[Encoded]:
        number = pb.ListContainerMessage.CONTAINER_FIELD_NUMBER
        for container in await self._containers.list(call.scope, tuple(request.filters)):
            yield Encoded(WIRE_PLAN.list(number, (container,)))

    async def create(
        self, request: pb.CreateContainerRequest, call: CallContext
    ) -> pb.CreateContainerResponse:
        created = await self._containers.create(call.scope, _from_wire(request.container))
        return pb.CreateContainerResponse(container=to_wire(created))

    async def update(
        self, request: pb.UpdateContainerRequest, call: CallContext
    ) -> pb.UpdateContainerResponse:
        if not request.container.id:
            raise InvalidArgumentError("Container.ID required")
        updated = await self._containers.update(
            call.scope, _from_wire(request.container), tuple(request.update_mask.paths)
        )
        return pb.UpdateContainerResponse(container=to_wire(updated))

    async def delete(self, request: pb.DeleteContainerRequest, call: CallContext) -> Empty:
        await self._containers.delete(call.scope, request.id)
        self._collector.trigger()
        return Empty()


def to_wire(container: Container) -> pb.Container:
    """The message of one."""
    message = pb.Container(
        id=container.id,
        labels=dict(container.labels),
        image=container.image,
        runtime=pb.Container.Runtime(
            name=container.runtime_name, options=any_to_wire(container.runtime_options)
        ),
        spec=any_to_wire(container.spec),
        snapshotter=container.snapshotter,
        snapshot_key=container.snapshot_key,
        created_at=timestamp(container.created_at),
        updated_at=timestamp(container.updated_at),
        sandbox=container.sandbox,
    )
    for name, value in container.extensions.items():
        message.extensions[name].type_url = value.type_url
        message.extensions[name].value = value.value
    return message


def _from_wire(message: pb.Container) -> Container:
    extensions = {name: any_from_wire(value) for name, value in message.extensions.items()}
    return Container(
        id=message.id,
        image=message.image,
        runtime_name=message.runtime.name,
        runtime_options=any_from_wire(message.runtime.options),
        spec=any_from_wire(message.spec),
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        sandbox=message.sandbox,
        labels=dict(message.labels),
        extensions={name: value for name, value in extensions.items() if value is not None},
    )
