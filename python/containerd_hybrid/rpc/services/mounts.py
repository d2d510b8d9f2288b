"""containerd.services.mounts.v1.Mounts"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.errors import UnimplementedError
from containerd_hybrid.mounts.api import Activation, MountManager
from containerd_hybrid.proto.services.mounts.v1 import mounts_pb2 as pb
from containerd_hybrid.proto.types import mount_pb2
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.wire import mount_to_wire, mounts_from_wire, timestamp


class MountsService:
    """Mounts by name."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Mounts"]

    def __init__(self, mounts: MountManager) -> None:
        self._mounts = mounts

    async def activate(self, request: pb.ActivateRequest, call: CallContext) -> pb.ActivateResponse:
        activation = await self._mounts.activate(
            call.scope,
            request.name,
            mounts_from_wire(request.mounts),
            labels=dict(request.labels),
            temporary=request.temporary,
        )
        return pb.ActivateResponse(info=_to_wire(activation))

    async def deactivate(self, request: pb.DeactivateRequest, call: CallContext) -> Empty:
        await self._mounts.deactivate(call.scope, request.name)
        return Empty()

    async def info(self, request: pb.InfoRequest, call: CallContext) -> pb.InfoResponse:
        return pb.InfoResponse(info=_to_wire(await self._mounts.info(call.scope, request.name)))

    async def update(self, request: pb.UpdateRequest, call: CallContext) -> pb.UpdateResponse:
        """containerd offers no update either."""
        raise UnimplementedError(
            f"mount {request.info.name!r} cannot be updated; deactivate and activate it: not implemented"
        )

    async def list(self, request: pb.ListRequest, call: CallContext) -> AsyncIterator[pb.ListMessage]:
        for activation in await self._mounts.list(call.scope, tuple(request.filters)):
            yield pb.ListMessage(info=_to_wire(activation))


def _to_wire(activation: Activation) -> mount_pb2.ActivationInfo:
    return mount_pb2.ActivationInfo(
        name=activation.name,
        active=[
            mount_pb2.ActiveMount(
                mount=mount_to_wire(one.mount),
                mounted_at=timestamp(one.mounted_at),
                mount_point=one.mount_point,
                data=dict(one.data),
            )
            for one in activation.active
        ],
        system=[mount_to_wire(mount) for mount in activation.system],
        labels=dict(activation.labels),
    )
