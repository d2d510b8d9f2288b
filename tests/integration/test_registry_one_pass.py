"""From a registry that fails to an overlay: layers applied while they arrive, and seen when all is right."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contract.support import RecordingPublisher
from tests.integration.registry_world import Fault, RegistryWorld, registry_world
from tests.unit.images.world import NS, ImageWorld, open_image_world

from containerd_hybrid.diff.walking import WalkingDiffer
from containerd_hybrid.errors import HybridError, ResourceExhaustedError
from containerd_hybrid.metadata.snapshots import MetadataSnapshotter
from containerd_hybrid.model import Digest, Platform, chain_id
from containerd_hybrid.mounts.linux import LinuxMounter
from containerd_hybrid.registry.api import Credential, RegistryOptions
from containerd_hybrid.registry.client import HttpRegistryClient
from containerd_hybrid.registry.retry import RetryPolicy
from containerd_hybrid.registry.transport import TransportSettings
from containerd_hybrid.snapshots.api import Kind
from containerd_hybrid.snapshots.overlayfs import OverlaySnapshotDriver
from containerd_hybrid.testing.images import ImageArchive, add_file, add_folder, tar_of, write_archive
from containerd_hybrid.testing.waiting import until_async
from containerd_hybrid.transfer.api import Progress, RegistryPlace, StoreTarget, UnpackTarget
from containerd_hybrid.transfer.fetch import BlobFetches, FetchSettings
from containerd_hybrid.transfer.pull import RegistryPull
from containerd_hybrid.transfer.push import RegistryPush
from containerd_hybrid.transfer.registry import ImageTransfers
from containerd_hybrid.unpack.pipeline import LayerUnpacker

pytestmark = [pytest.mark.root]

BASE = tar_of(lambda tar: add_file(tar, "base", os.urandom(300_000)))
CONTENT = {f"d/file{n}": os.urandom(100_000) for n in range(30)}


def _fill(tar: object) -> None:
    add_folder(tar, "d")  # type: ignore[arg-type]
    for name, data in CONTENT.items():
        add_file(tar, name, data)  # type: ignore[arg-type]


LARGE = tar_of(_fill)
CHAIN = str(chain_id([Digest.of(BASE), Digest.of(LARGE)]))
PATH = f"/blobs/{Digest.of(LARGE)}"


class User:
    async def get(self, host: str, reference: str) -> Credential | None:
        return Credential("user", "secret-of-user")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryWorld]:
    with registry_world(tmp_path_factory.mktemp("registry") / "world") as world:
        image = ImageArchive("team/app:1", [BASE, LARGE], platform=Platform.host(), compress=False)
        archive = write_archive(world.folder / "image.tar", [image])
        target = f"docker://{world.registry.address}/team/app:1"
        world.skopeo("copy", "--preserve-digests", f"oci-archive:{archive}", target)
        yield world


@dataclass
class Here:
    stores: ImageWorld
    registry: RegistryWorld
    snapshotter: MetadataSnapshotter
    mounter: LinuxMounter
    transfers: ImageTransfers

    async def pull(self, told: list[Progress] | None = None) -> None:
        told = [] if told is None else told
        options = RegistryOptions(hosts_dir=self.registry.hosts_dir, credentials=User())
        place = RegistryPlace(f"{self.registry.proxy.address}/team/app:1", options)
        unpack = [UnpackTarget(Platform.host())]
        await self.transfers.pull(NS, place, StoreTarget("app"), unpack, told.append)

    async def snapshots(self) -> dict[str, Kind]:
        return {info.name: info.kind async for info in self.snapshotter.walk(NS)}

    async def content(self) -> dict[str, bytes]:
        mounts = await self.snapshotter.view(NS, "look", CHAIN)
        try:
            async with self.mounter.temporary(mounts, read_only=True) as folder:
                return {name: (folder / name).read_bytes() for name in CONTENT}
        finally:
            await self.snapshotter.remove(NS, "look")


@asynccontextmanager
async def opened(
    root: Path, registry: RegistryWorld, part_bytes: int = 0, idle_seconds: float = 60.0
) -> AsyncIterator[Here]:
    async def briefly(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))

    registry.proxy.faults.clear()
    registry.proxy.seen.clear()
    async with open_image_world(root) as stores:
        content, leases = stores.stores.content, stores.stores.leases
        mounter = LinuxMounter(root / "mounts")
        driver = OverlaySnapshotDriver(root / "overlay")
        snapshotter = MetadataSnapshotter(
            stores.stores.database, driver, RecordingPublisher(), sync_remove=True
        )
        snapshotters = {"overlayfs": snapshotter}
        applier = WalkingDiffer(content, mounter)
        unpacker = LayerUnpacker(content, snapshotters, applier, leases, default="overlayfs")
        client = HttpRegistryClient(
            transport=TransportSettings(idle_seconds=idle_seconds), retry=RetryPolicy(sleep=briefly)
        )
        fetches = BlobFetches(content, FetchSettings(sleep=briefly, part_bytes=part_bytes))
        transfers = ImageTransfers(
            RegistryPull(content, stores.images, unpacker, leases, client, fetches),
            RegistryPush(content, stores.images, client),
        )
        try:
            yield Here(stores, registry, snapshotter, mounter, transfers)
        finally:
            await client.close()
            await snapshotter.close()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(PATH, cut_after=0),
        Fault(PATH, cut_after=1_500_000, times=2),
        Fault(PATH, cut_after=len(LARGE) - 1),
        Fault(PATH, stall_after=2_000_000),
        Fault(PATH, status=503, times=3),
    ],
    ids=["cut at once", "cut midway", "cut before the end", "stalled", "not well"],
)
async def test_what_passes_is_survived(registry: RegistryWorld, tmp_path: Path, fault: Fault) -> None:
    idle = 60.0 if fault.stall_after is None else 2.0
    async with opened(tmp_path, registry, idle_seconds=idle) as here:
        registry.proxy.faults.append(fault)
        told: list[Progress] = []
        await here.pull(told)
        assert fault.seen
        assert await here.content() == CONTENT
        assert set((await here.snapshots()).values()) == {Kind.COMMITTED}
        events = [
            step.event for step in told if step.descriptor and step.descriptor.digest == Digest.of(LARGE)
        ]
        assert [event for event in events if event != "downloading"] == [
            "waiting",
            "complete",
            "extracting",
            "extracted",
        ]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(PATH, flip=600, times=9),
        Fault(PATH, flip=1_700_000, times=9),
        Fault(PATH, drop=512, times=9),
        Fault(PATH, cut_after=300_000, times=10**6),
    ],
    ids=["a wrong header", "a wrong byte", "too short", "always cut"],
)
async def test_what_does_not_pass_is_never_seen(
    registry: RegistryWorld, tmp_path: Path, fault: Fault
) -> None:
    async with opened(tmp_path, registry) as here:
        registry.proxy.faults.append(fault)
        with pytest.raises(HybridError):
            await here.pull()
        assert CHAIN not in await here.snapshots()
        assert Kind.ACTIVE not in (await here.snapshots()).values()
        assert str(Digest.of(LARGE)) not in await here.stores.blobs()
        assert not await here.stores.images.list(NS)
        registry.proxy.faults.clear()
        await here.pull()
        assert await here.content() == CONTENT


async def test_a_pull_that_is_cancelled_midway_leaves_no_snapshot(
    registry: RegistryWorld, tmp_path: Path
) -> None:
    async with opened(tmp_path, registry) as here:
        registry.proxy.faults.append(Fault(PATH, stall_after=1_000_000))
        pull = asyncio.ensure_future(here.pull())

        async def begun() -> bool:
            assert not pull.done(), pull.exception()
            return Kind.ACTIVE in (await here.snapshots()).values()

        await until_async(begun, "a layer that is being unpacked")
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        assert Kind.ACTIVE not in (await here.snapshots()).values()
        await here.pull()
        assert await here.content() == CONTENT


async def test_parts_of_a_large_layer_come_side_by_side(registry: RegistryWorld, tmp_path: Path) -> None:
    async with opened(tmp_path, registry, part_bytes=400_000) as here:
        registry.proxy.faults += [
            Fault(PATH, range=part, cut_after=300_000) for part in ("bytes=0-399999", "bytes=400000-799999")
        ]
        await here.pull()
        assert await here.content() == CONTENT
        ranges = [seen.headers.get("Range", "") for seen in registry.proxy.seen if PATH in seen.path]
        assert "bytes=400000-799999" in ranges
        assert len(ranges) == -(-len(LARGE) // 400_000) + 2, "two parts were continued"


async def test_a_full_disk_is_said_and_leaves_nothing(registry: RegistryWorld, tmp_path: Path) -> None:
    # Room for the blobs, and not for the files in them.
    disk, image = tmp_path / "disk", tmp_path / "image"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(12 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    try:
        filler = disk / "filler"
        async with opened(disk / "root", registry) as here:
            free = os.statvfs(disk)
            filler.write_bytes(bytes(free.f_bavail * free.f_bsize - (4 << 20)))
            with pytest.raises(ResourceExhaustedError):
                await here.pull()
            assert Kind.ACTIVE not in (await here.snapshots()).values()
            assert not await here.stores.images.list(NS)
            filler.unlink()
            await here.pull()
            assert await here.content() == CONTENT
    finally:
        subprocess.run(["umount", str(disk)], check=True)
