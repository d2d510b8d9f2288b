"""Layers that are applied before those below them, or while they arrive, come out as if one by one."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.contract.support import RecordingPublisher
from tests.unit.images.archives import oci_layout
from tests.unit.images.world import NS, BytesSource, ImageWorld, open_image_world

from containerd_hybrid._native import Growing
from containerd_hybrid.content.api import Ingest
from containerd_hybrid.diff.api import AppliedLayer
from containerd_hybrid.diff.walking import WalkingDiffer
from containerd_hybrid.errors import HybridError, ResourceExhaustedError
from containerd_hybrid.metadata.snapshots import MetadataSnapshotter
from containerd_hybrid.model import Descriptor, Digest, Mount, Platform, Scope, chain_id
from containerd_hybrid.mounts.linux import LinuxMounter
from containerd_hybrid.snapshots.overlayfs import OverlaySnapshotDriver
from containerd_hybrid.unpack.pipeline import LayerUnpacker

HOST = Platform.host()


@dataclass
class WatchedApplier:
    """Notes how layers are applied; ``gates`` hold a layer back."""

    differ: WalkingDiffer
    calls: list[tuple[Digest, bool, bool]] = field(default_factory=list)
    gates: dict[Digest, asyncio.Event] = field(default_factory=dict)
    begun: dict[Digest, asyncio.Event] = field(default_factory=dict)
    error: HybridError | None = None

    async def apply(
        self,
        scope: Scope,
        layer: Descriptor,
        mounts: list[Mount],
        *,
        growing: Growing | None = None,
        blind: bool = False,
    ) -> AppliedLayer:
        self.calls.append((layer.digest, growing is not None, blind))
        self.begun.setdefault(layer.digest, asyncio.Event()).set()
        if layer.digest in self.gates:
            await self.gates[layer.digest].wait()
        if self.error is not None:
            raise self.error
        return await self.differ.apply(scope, layer, mounts, growing=growing, blind=blind)


@dataclass
class UnpackWorld:
    stores: ImageWorld
    snapshotter: MetadataSnapshotter
    mounter: LinuxMounter
    applier: WatchedApplier
    unpacker: LayerUnpacker

    async def imported(self, *layers: bytes) -> Descriptor:
        archive = oci_layout(layers, "a.b/c:1", compressed=False).bytes()
        imported = await self.stores.importer.read(NS, BytesSource(archive))
        return imported.manifests[0]

    async def tree(self, *layers: bytes) -> dict[str, tuple[int, bytes]]:
        """What a container would see: modes and contents by path."""
        top = str(chain_id([Digest.of(layer) for layer in layers]))
        mounts = await self.snapshotter.view(NS, "look", top)
        try:
            async with self.mounter.temporary(mounts, read_only=True) as folder:
                return {
                    str(path.relative_to(folder)): (
                        path.lstat().st_mode,
                        path.read_bytes() if path.is_file() else b"",
                    )
                    for path in sorted(folder.rglob("*"))
                }
        finally:
            await self.snapshotter.remove(NS, "look")

    async def begun(self, layer: bytes, unpacking: asyncio.Future[Any]) -> None:
        """Wait until the layer is being applied; an unpack that fails before says why."""
        begun = self.applier.begun.setdefault(Digest.of(layer), asyncio.Event())
        waiting = asyncio.ensure_future(begun.wait())
        await asyncio.wait({waiting, unpacking}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not begun.is_set():
            unpacking.result()
            raise AssertionError("it ended without the layer")

    async def snapshots(self) -> set[str]:
        return {info.name async for info in self.snapshotter.walk(NS)}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[UnpackWorld]:
    if os.geteuid() != 0:
        pytest.skip("unpacking needs root")
    async with open_image_world(tmp_path) as stores:
        mounter = LinuxMounter(tmp_path / "mounts")
        driver = OverlaySnapshotDriver(tmp_path / "overlay")
        snapshotter = MetadataSnapshotter(
            stores.stores.database, driver, RecordingPublisher(), sync_remove=True
        )
        applier = WatchedApplier(WalkingDiffer(stores.stores.content, mounter))
        unpacker = LayerUnpacker(
            stores.stores.content,
            {"overlayfs": snapshotter},
            applier,
            stores.stores.leases,
            default="overlayfs",
        )
        try:
            yield UnpackWorld(stores, snapshotter, mounter, applier, unpacker)
        finally:
            await snapshotter.close()


def layer(*entries: tuple[str, bytes | None], mode: int = 0o755) -> bytes:
    """A file for each entry with content, a folder for each without."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, mode
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


BASE = layer(("etc", None), ("etc/old", b"old"), ("data", None), ("data/x", b"1"), mode=0o700)
PLAIN = layer(("opt", None), ("opt/file", b"plain"))


async def test_layers_are_applied_before_those_below_them(world: UnpackWorld) -> None:
    layers = [BASE, PLAIN, layer(("opt", None), ("opt/file", b"newer"))]
    target = await world.imported(*layers)
    world.applier.gates[Digest.of(BASE)] = asyncio.Event()
    unpacking = asyncio.ensure_future(world.unpacker.unpack(NS, target, HOST))
    for data in layers[1:]:
        await world.begun(data, unpacking)
    assert (Digest.of(PLAIN), False, True) in world.applier.calls
    world.applier.gates[Digest.of(BASE)].set()
    await unpacking
    assert len(world.applier.calls) == 3, "none had to be applied twice"
    assert (await world.tree(*layers))["opt/file"][1] == b"newer"
    chains = [str(chain_id([Digest.of(one) for one in layers[: n + 1]])) for n in range(3)]
    parents = [(await world.snapshotter.stat(NS, chain)).parent for chain in chains]
    assert parents == ["", *chains[:2]]


@pytest.mark.parametrize(
    "upper",
    [
        layer(("etc", None), ("etc/.wh.old", b"")),
        layer(("etc/new", b"in a folder that only the base describes")),
        layer((".wh..wh..opq", b""), ("alone", b"")),
    ],
    ids=["a deletion", "a folder without an entry", "an opaque root"],
)
async def test_what_needs_the_layers_below_is_the_same_as_in_turn(world: UnpackWorld, upper: bytes) -> None:
    layers = [BASE, upper, PLAIN]
    target = await world.imported(*layers)
    world.applier.gates[Digest.of(BASE)] = asyncio.Event()
    unpacking = asyncio.ensure_future(world.unpacker.unpack(NS, target, HOST))
    await world.begun(upper, unpacking)
    world.applier.gates[Digest.of(BASE)].set()
    await unpacking
    side_by_side = await world.tree(*layers)
    assert (Digest.of(upper), False, True) in world.applier.calls
    assert (Digest.of(upper), False, False) in world.applier.calls, "applied once more, on its parent"
    assert len(await world.snapshots()) == 3

    for count in (3, 2, 1):
        name = str(chain_id([Digest.of(one) for one in layers[:count]]))
        await world.snapshotter.remove(NS, name)
    # One chain at a time: each finds its parent there.
    for count in (1, 2, 3):
        await world.unpacker.unpack(NS, await world.imported(*layers[:count]), HOST)
    assert side_by_side == await world.tree(*layers)


async def test_a_full_disk_ends_all_and_leaves_nothing(world: UnpackWorld) -> None:
    target = await world.imported(BASE, PLAIN)
    world.applier.error = ResourceExhaustedError("no space left on device")
    with pytest.raises(ResourceExhaustedError):
        await world.unpacker.unpack(NS, target, HOST)
    assert await world.snapshots() == set()
    assert len({call[0] for call in world.applier.calls}) == len(world.applier.calls), "not tried again"


@dataclass
class Arriving:
    """A layer that comes piece by piece into an ingest; others are here."""

    growing: dict[Digest, Growing] = field(default_factory=dict)
    here: dict[Digest, asyncio.Event] = field(default_factory=dict)

    async def begun(self, layer: Descriptor) -> Growing | None:
        return self.growing.get(layer.digest)

    async def whole(self, layer: Descriptor) -> None:
        if layer.digest in self.here:
            await self.here[layer.digest].wait()


async def arriving(world: UnpackWorld, data: bytes) -> tuple[Descriptor, Arriving, Ingest]:
    """An image of two layers, the upper one of which is not here any more."""
    target = await world.imported(BASE, data)
    digest = Digest.of(data)
    content = world.stores.stores.content
    await content.delete(NS, digest)
    ingest = await content.open_ingest(NS, "layer", len(data))
    growing = await ingest.growing(len(data))
    assert growing is not None
    return target, Arriving({digest: growing}, {digest: asyncio.Event()}), ingest


async def test_a_layer_is_applied_while_it_arrives_and_seen_when_it_is_verified(world: UnpackWorld) -> None:
    target, arrivals, ingest = await arriving(world, PLAIN)
    unpacking = asyncio.ensure_future(world.unpacker.unpack(NS, target, HOST, arrivals=arrivals))
    await world.begun(PLAIN, unpacking)
    for start in range(0, len(PLAIN), 1000):
        await ingest.write(PLAIN[start : start + 1000])
    chain = str(chain_id([Digest.of(BASE), Digest.of(PLAIN)]))
    assert chain not in await world.snapshots()
    await ingest.commit(len(PLAIN), Digest.of(PLAIN))
    arrivals.here[Digest.of(PLAIN)].set()
    await unpacking
    assert chain in await world.snapshots()
    assert [call[1] for call in world.applier.calls if call[0] == Digest.of(PLAIN)] == [True]


async def test_a_layer_whose_bytes_began_anew_is_applied_from_its_blob(world: UnpackWorld) -> None:
    target, arrivals, ingest = await arriving(world, PLAIN)
    unpacking = asyncio.ensure_future(world.unpacker.unpack(NS, target, HOST, arrivals=arrivals))
    await world.begun(PLAIN, unpacking)
    await ingest.write(b"\1" * 2000)
    await ingest.truncate(0)
    await ingest.write(PLAIN)
    await ingest.commit(len(PLAIN), Digest.of(PLAIN))
    arrivals.here[Digest.of(PLAIN)].set()
    await unpacking
    assert (await world.tree(BASE, PLAIN))["opt/file"][1] == b"plain"
    assert [call[1] for call in world.applier.calls if call[0] == Digest.of(PLAIN)] == [True, False]
