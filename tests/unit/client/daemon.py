"""The image half of a daemon in the test's own process: real stores, real services, no wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.contract.support import RecordingPublisher
from tests.unit.images.world import NS, ImageWorld, open_image_world

from containerd_hybrid.client.client import AsyncClient
from containerd_hybrid.diff.walking import WalkingDiffer
from containerd_hybrid.metadata.containers import MetadataContainerStore
from containerd_hybrid.metadata.snapshots import MetadataSnapshotter
from containerd_hybrid.mounts.linux import LinuxMounter
from containerd_hybrid.retention.api import Policy
from containerd_hybrid.retention.layers import LayerRetention
from containerd_hybrid.rpc.describe import service_from
from containerd_hybrid.rpc.inprocess import InProcessTransport
from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services
from containerd_hybrid.rpc.services.containers import ContainersService
from containerd_hybrid.rpc.services.content import ContentService
from containerd_hybrid.rpc.services.images import ImagesService
from containerd_hybrid.rpc.services.leases import LeasesService
from containerd_hybrid.rpc.services.snapshots import SnapshotsService
from containerd_hybrid.rpc.services.streaming import StreamingService
from containerd_hybrid.rpc.services.transfer import TransferService
from containerd_hybrid.rpc.services.version import VersionService
from containerd_hybrid.snapshots.native import NativeSnapshotDriver
from containerd_hybrid.streaming.manager import OpenStreams
from containerd_hybrid.transfer.local import LocalTransferrer
from containerd_hybrid.unpack.pipeline import LayerUnpacker


@dataclass
class TestDaemon:
    """``client`` talks to it in namespace ``images``, as ``world``'s helpers do."""

    world: ImageWorld
    transport: InProcessTransport
    client: AsyncClient
    streams: OpenStreams
    snapshotter: MetadataSnapshotter
    unpacker: LayerUnpacker
    retention: LayerRetention

    async def snapshots(self) -> list[str]:
        return [info.name async for info in self.snapshotter.walk(NS)]


TestDaemon.__test__ = False  # type: ignore[attr-defined]


@asynccontextmanager
async def open_test_daemon(root: Path) -> AsyncIterator[TestDaemon]:
    async with open_image_world(root) as world:
        stores, publisher = world.stores, RecordingPublisher()
        mounter = LinuxMounter(root / "mounts")
        snapshotter = MetadataSnapshotter(
            stores.database, NativeSnapshotDriver(root / "native"), publisher, sync_remove=True
        )
        snapshotters = {"native": snapshotter}
        unpacker = LayerUnpacker(
            stores.content,
            snapshotters,
            WalkingDiffer(stores.content, mounter),
            stores.leases,
            default="native",
        )
        retention = LayerRetention(
            stores.namespaces,
            stores.content,
            stores.leases,
            snapshotters,
            default=Policy.KEEP,
            snapshotter="native",
        )
        transferrer = LocalTransferrer(
            world.images, world.importer, world.exporter, unpacker, stores.leases, retention=retention
        )
        streams = OpenStreams()
        handlers = (
            VersionService("9.9", "test"),
            ImagesService(world.images, stores.collector),
            ContentService(stores.content, stores.collector),
            LeasesService(stores.leases, stores.collector),
            SnapshotsService(snapshotters, stores.collector),
            ContainersService(MetadataContainerStore(stores.database, publisher), stores.collector),
            TransferService(transferrer, streams),
            StreamingService(streams),
        )
        services = [service_from(type(handler).descriptor, handler) for handler in handlers]
        transport = InProcessTransport(wrap_services(services, standard_interceptors(CallMetrics())))
        try:
            async with AsyncClient(transport, mounter, "images") as client:
                yield TestDaemon(world, transport, client, streams, snapshotter, unpacker, retention)
        finally:
            await snapshotter.close()
