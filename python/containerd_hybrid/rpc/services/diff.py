"""containerd.services.diff.v1.Diff"""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from containerd_hybrid.diff.api import Applier, Comparer, DiffOptions
from containerd_hybrid.proto.services.diff.v1 import diff_pb2 as pb
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.wire import descriptor_from_wire, descriptor_to_wire, mounts_from_wire


class DiffService:
    """Layers onto snapshots and snapshots into layers."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Diff"]

    def __init__(self, applier: Applier, comparer: Comparer, *, sync_fs: bool) -> None:
        self._applier = applier
        self._comparer = comparer
        self._sync_fs = sync_fs

    async def apply(self, request: pb.ApplyRequest, call: CallContext) -> pb.ApplyResponse:
        applied = await self._applier.apply(
            call.scope,
            descriptor_from_wire(request.diff),
            mounts_from_wire(request.mounts),
            sync=request.sync_fs or self._sync_fs,
            payloads={name: payload.SerializeToString() for name, payload in request.payloads.items()},
        )
        return pb.ApplyResponse(applied=descriptor_to_wire(applied.descriptor))

    async def diff(self, request: pb.DiffRequest, call: CallContext) -> pb.DiffResponse:
        epoch = request.source_date_epoch.seconds if request.HasField("source_date_epoch") else None
        options = DiffOptions(request.media_type, request.ref, dict(request.labels), epoch)
        made = await self._comparer.compare(
            call.scope, mounts_from_wire(request.left), mounts_from_wire(request.right), options
        )
        return pb.DiffResponse(diff=descriptor_to_wire(made))
