"""containerd.services.snapshots.v1.Snapshots"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.metadata.api import Collector
from containerd_hybrid.proto.services.snapshots.v1 import snapshots_pb2 as pb
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.snapshots.api import Kind, SnapshotInfo, Snapshotter
from containerd_hybrid.wire import mount_to_wire, timestamp

_PAGE = 100
_KINDS = {Kind.VIEW: pb.VIEW, Kind.ACTIVE: pb.ACTIVE, Kind.COMMITTED: pb.COMMITTED}


class SnapshotsService:
    """All snapshotters by name."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Snapshots"]

    def __init__(self, snapshotters: Mapping[str, Snapshotter], collector: Collector) -> None:
        self._snapshotters = snapshotters
        self._collector = collector

    def _snapshotter(self, name: str) -> Snapshotter:
        if not name:
            raise InvalidArgumentError("snapshotter argument missing: invalid argument")
        found = self._snapshotters.get(name)
        if found is None:
            raise InvalidArgumentError(f"snapshotter not loaded: {name}: invalid argument")
        return found

    async def prepare(
        self, request: pb.PrepareSnapshotRequest, call: CallContext
    ) -> pb.PrepareSnapshotResponse:
        mounts = await self._snapshotter(request.snapshotter).prepare(
            call.scope, request.key, request.parent, dict(request.labels)
        )
        return pb.PrepareSnapshotResponse(mounts=[mount_to_wire(m) for m in mounts])

    async def view(self, request: pb.ViewSnapshotRequest, call: CallContext) -> pb.ViewSnapshotResponse:
        mounts = await self._snapshotter(request.snapshotter).view(
            call.scope, request.key, request.parent, dict(request.labels)
        )
        return pb.ViewSnapshotResponse(mounts=[mount_to_wire(m) for m in mounts])

    async def mounts(self, request: pb.MountsRequest, call: CallContext) -> pb.MountsResponse:
        mounts = await self._snapshotter(request.snapshotter).mounts(call.scope, request.key)
        return pb.MountsResponse(mounts=[mount_to_wire(m) for m in mounts])

    async def commit(self, request: pb.CommitSnapshotRequest, call: CallContext) -> Empty:
        await self._snapshotter(request.snapshotter).commit(
            call.scope, request.name, request.key, dict(request.labels), parent=request.parent
        )
        return Empty()

    async def remove(self, request: pb.RemoveSnapshotRequest, call: CallContext) -> Empty:
        await self._snapshotter(request.snapshotter).remove(call.scope, request.key)
        self._collector.trigger()
        return Empty()

    async def stat(self, request: pb.StatSnapshotRequest, call: CallContext) -> pb.StatSnapshotResponse:
        info = await self._snapshotter(request.snapshotter).stat(call.scope, request.key)
        return pb.StatSnapshotResponse(info=_to_wire(info))

    async def update(self, request: pb.UpdateSnapshotRequest, call: CallContext) -> pb.UpdateSnapshotResponse:
        info = await self._snapshotter(request.snapshotter).update(
            call.scope, request.info.name, dict(request.info.labels), tuple(request.update_mask.paths)
        )
        return pb.UpdateSnapshotResponse(info=_to_wire(info))

    async def list(
        self, request: pb.ListSnapshotsRequest, call: CallContext
    ) -> AsyncIterator[pb.ListSnapshotsResponse]:
        page: list[pb.Info] = []
        async for info in self._snapshotter(request.snapshotter).walk(call.scope, tuple(request.filters)):
            page.append(_to_wire(info))
            if len(page) == _PAGE:
                yield pb.ListSnapshotsResponse(info=page)
                page = []
        if page:
            yield pb.ListSnapshotsResponse(info=page)

    async def usage(self, request: pb.UsageRequest, call: CallContext) -> pb.UsageResponse:
        usage = await self._snapshotter(request.snapshotter).usage(call.scope, request.key)
        return pb.UsageResponse(size=usage.size, inodes=usage.inodes)

    async def cleanup(self, request: pb.CleanupRequest, call: CallContext) -> Empty:
        await self._snapshotter(request.snapshotter).cleanup()
        return Empty()


def _to_wire(info: SnapshotInfo) -> pb.Info:
    return pb.Info(
        name=info.name,
        parent=info.parent,
        kind=_KINDS[info.kind],
        created_at=timestamp(info.created_at),
        updated_at=timestamp(info.updated_at),
        labels=dict(info.labels),
    )
