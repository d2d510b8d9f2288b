"""containerd.services.containers.v1.Containers"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.containers.api import Container, ContainerStore
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.metadata.api import Collector
from containerd_hybrid.proto.services.containers.v1 import containers_pb2 as pb
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.wire import any_from_wire, any_to_wire, timestamp


class ContainersService:
    """Container records."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Containers"]

    def __init__(self, containers: ContainerStore, collector: Collector) -> None:
        self._containers = containers
        self._collector = collector

    async def get(self, request: pb.GetContainerRequest, call: CallContext) -> pb.GetContainerResponse:
        return pb.GetContainerResponse(container=_to_wire(await self._containers.get(call.scope, request.id)))

    async def list(self, request: pb.ListContainersRequest, call: CallContext) -> pb.ListContainersResponse:
        containers = await self._containers.list(call.scope, tuple(request.filters))
        return pb.ListContainersResponse(containers=[_to_wire(container) for container in containers])

    async def list_stream(
        self, request: pb.ListContainersRequest, call: CallContext
    ) -> AsyncIterator[pb.ListContainerMessage]:
        for container in await self._containers.list(call.scope, tuple(request.filters)):
            yield pb.ListContainerMessage(container=_to_wire(container))

    async def create(
        self, request: pb.CreateContainerRequest, call: CallContext
    ) -> pb.CreateContainerResponse:
        created = await self._containers.create(call.scope, _from_wire(request.container))
        return pb.CreateContainerResponse(container=_to_wire(created))

    async def update(
        self, request: pb.UpdateContainerRequest, call: CallContext
    ) -> pb.UpdateContainerResponse:
        if not request.container.id:
            raise InvalidArgumentError("Container.ID required")
        updated = await self._containers.update(
            call.scope, _from_wire(request.container), tuple(request.update_mask.paths)
        )
        return pb.UpdateContainerResponse(container=_to_wire(updated))

    async def delete(self, request: pb.DeleteContainerRequest, call: CallContext) -> Empty:
        await self._containers.delete(call.scope, request.id)
        self._collector.trigger()
        return Empty()


def _to_wire(container: Container) -> pb.Container:
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
