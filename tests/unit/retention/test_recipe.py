"""The policy ``recipe``: layers that are unpacked are on the disk once, and still there for everybody."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contract.support import RecordingPublisher
from tests.unit.images.archives import oci_layout, tar_bytes
from tests.unit.images.world import BytesSource

from containerd_hybrid.content.api import ContentStore
from containerd_hybrid.content.recipes import RecipeBlobStore
from containerd_hybrid.diff.walking import WalkingDiffer
from containerd_hybrid.errors import DataLossError, NotFoundError, ResourceExhaustedError
from containerd_hybrid.images.api import ImportOptions, ReferenceRule
from containerd_hybrid.images.exporter import ArchiveExporter
from containerd_hybrid.images.importer import ArchiveImporter
from containerd_hybrid.metadata.content import MetadataContentStore
from containerd_hybrid.metadata.content_recipes import MetadataRecipes
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.gc import MetadataCollector
from containerd_hybrid.metadata.images import MetadataImageStore
from containerd_hybrid.metadata.leases import MetadataLeaseManager
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.metadata.namespaces import MetadataNamespaceStore
from containerd_hybrid.metadata.snapshots import MetadataSnapshotter
from containerd_hybrid.model import Digest, Platform, Scope
from containerd_hybrid.mounts.linux import LinuxMounter
from containerd_hybrid.retention.api import POLICY_LABEL, Policy
from containerd_hybrid.retention.layers import LayerRetention
from containerd_hybrid.snapshots.native import NativeSnapshotDriver
from containerd_hybrid.transfer.api import UnpackTarget
from containerd_hybrid.transfer.local import LocalTransferrer
from containerd_hybrid.unpack.pipeline import LayerUnpacker

NS, OTHER = Scope("one"), Scope("two")
NAME = "a.b/c:1"
LAYERS = [tar_bytes({name: random.Random(name).randbytes(100_000)}) for name in ("one", "two")]
DIGESTS = [Digest.of(layer) for layer in LAYERS]


@dataclass
class Here:
    root: Path
    content: ContentStore
    blobs: RecipeBlobStore
    images: MetadataImageStore
    namespaces: MetadataNamespaceStore
    snapshotter: MetadataSnapshotter
    collector: MetadataCollector
    transferrer: LocalTransferrer

    async def bring(self, scope: Scope, *, policy: str = "recipe", unpack: bool = True) -> None:
        """Import the image; the collector has been there afterwards."""
        await self.namespaces.update(scope.namespace, {POLICY_LABEL: policy}, (f"labels.{POLICY_LABEL}",))
        archive = oci_layout(LAYERS, NAME, compressed=False).write(self.root / "a.tar").read_bytes()
        options = ImportOptions(references=(ReferenceRule("", is_prefix=True, allow_overwrite=True),))
        targets = (UnpackTarget(Platform.host(), "native"),) if unpack else ()
        await self.transferrer.import_images(scope, BytesSource(archive), options, (), targets)
        await self.collector.collect()

    async def exported(self, scope: Scope) -> bytes:
        """The archive of the image."""
        sink = _Sink()
        await self.transferrer.export_images(scope, [NAME], sink)
        return bytes(sink.data)

    def stored(self) -> list[str]:
        """How the layers are stored."""
        return [
            kind
            for digest in DIGESTS
            for kind in ("blobs", "recipes")
            if (self.root / "content" / kind / "sha256" / digest.hex).exists()
        ]

    async def read(self, scope: Scope) -> list[bytes]:
        return [await self.content.read_at(scope, digest, 0, 1 << 20) for digest in DIGESTS]

    async def forget(self, scope: Scope) -> None:
        """Remove the image and all it had."""
        await self.images.delete(scope, NAME)
        await self.collector.collect()


class _Sink:
    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> None:
        self.data += data

    async def close(self) -> None:
        pass


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    if os.geteuid() != 0:
        pytest.skip("unpacking needs root")
    publisher, locks = RecordingPublisher(), BlobLocks()
    blobs = RecipeBlobStore(tmp_path / "content", tmp_path, sync=False)
    async with SqliteDatabase(tmp_path / "meta.db", no_sync=True) as database:
        recipes = MetadataRecipes(database, blobs, locks)
        snapshotter = MetadataSnapshotter(
            database,
            NativeSnapshotDriver(tmp_path / "native"),
            publisher,
            sync_remove=True,
            part_with=recipes.part_with,
        )
        snapshotters = {"native": snapshotter}
        content = MetadataContentStore(database, blobs, locks, publisher)
        images, leases = MetadataImageStore(database, publisher), MetadataLeaseManager(database)
        namespaces = MetadataNamespaceStore(database, publisher)
        applier = WalkingDiffer(content, LinuxMounter(tmp_path / "mounts"))
        retention = LayerRetention(
            namespaces, content, leases, snapshotters, recipes, default=Policy.KEEP, snapshotter="native"
        )
        transferrer = LocalTransferrer(
            images,
            ArchiveImporter(content, images),
            ArchiveExporter(content, images),
            LayerUnpacker(content, snapshotters, applier, leases, default="native"),
            leases,
            retention=retention,
        )
        collector = MetadataCollector(database, publisher, blobs, locks, snapshotters)
        yield Here(tmp_path, content, blobs, images, namespaces, snapshotter, collector, transferrer)
        await snapshotter.close()
    blobs.close()


async def test_layers_are_stored_once_and_exported_as_ever(here: Here) -> None:
    await here.bring(NS, policy="keep")
    assert here.stored() == ["blobs", "blobs"]
    before = await here.exported(NS)
    await here.bring(NS)
    assert here.stored() == ["recipes", "recipes"]
    assert await here.exported(NS) == before
    assert await here.read(NS) == LAYERS
    assert await here.content.read_at(NS, DIGESTS[0], 5000, 10) == LAYERS[0][5000:5010]
    assert (await here.content.info(NS, DIGESTS[0])).size == len(LAYERS[0])


async def test_what_is_not_unpacked_is_kept(here: Here) -> None:
    await here.bring(NS, unpack=False)
    assert here.stored() == ["blobs", "blobs"]


async def test_they_go_with_the_image(here: Here) -> None:
    await here.bring(NS)
    await here.forget(NS)
    assert here.stored() == []
    assert list(here.blobs.walk()) == []


async def test_another_namespace_has_them_when_the_files_have_gone(here: Here) -> None:
    await here.bring(NS)
    await here.bring(OTHER, policy="keep", unpack=False)
    assert here.stored() == ["recipes", "recipes"]
    await here.forget(NS)
    assert here.stored() == ["blobs", "blobs"]
    assert await here.read(OTHER) == LAYERS
    with pytest.raises(NotFoundError):
        await here.read(NS)


async def test_a_snapshot_that_somebody_removes_leaves_the_blob(here: Here) -> None:
    await here.bring(NS)
    names = [info.name async for info in here.snapshotter.walk(NS) if info.parent]
    await here.snapshotter.remove(NS, names[0])
    assert here.stored() == ["recipes", "blobs"]
    assert await here.read(NS) == LAYERS


async def test_a_folder_stays_while_there_is_no_room_for_what_it_gives(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    await here.bring(NS)
    await here.bring(OTHER, policy="keep", unpack=False)

    def full(digest: Digest) -> None:
        raise ResourceExhaustedError("no space left on device")

    monkeypatch.setattr(here.blobs, "restore", full)
    await here.forget(NS)
    assert await here.read(OTHER) == LAYERS
    monkeypatch.undo()
    await here.snapshotter.cleanup()
    assert here.stored() == ["blobs", "blobs"]
    assert list((here.root / "native" / "snapshots").iterdir()) == []


async def test_a_namespace_that_takes_them_over_sends_no_bytes(here: Here) -> None:
    await here.bring(NS)
    ingest = await here.content.open_ingest(OTHER, "ref", len(LAYERS[0]), DIGESTS[0])
    assert ingest.status.offset == len(LAYERS[0])
    await ingest.commit(len(LAYERS[0]), DIGESTS[0])
    assert await here.content.read_at(OTHER, DIGESTS[0], 0, 1 << 20) == LAYERS[0]


async def test_changed_files_are_told_and_do_not_keep_a_snapshot(here: Here) -> None:
    await here.bring(NS)
    await here.bring(OTHER, policy="keep", unpack=False)
    for path in (here.root / "native" / "snapshots").glob("*/one"):
        path.write_bytes(b"changed")
    with pytest.raises(DataLossError, match="fetch it again"):
        await here.read(NS)
    await here.forget(NS)
    assert here.stored() == ["blobs"]  # that whose files were right
    with pytest.raises(DataLossError):
        await here.content.read_at(OTHER, DIGESTS[0], 0, 10)


async def test_nothing_is_made_of_a_snapshot_that_has_gone(here: Here) -> None:
    await here.bring(NS, policy="keep")
    names = [info.name async for info in here.snapshotter.walk(NS) if not info.parent]
    folder = await here.snapshotter.layer_folder(NS, names[0])
    assert folder is not None

    async def gone() -> bool:
        return False

    recipes = MetadataRecipes(here.snapshotter._database, here.blobs, BlobLocks())
    assert await recipes.convert(DIGESTS[0], folder, gone) == "its snapshot was removed"
    assert here.stored() == ["blobs", "blobs"]
    assert here.blobs.recipes_in(folder) == []
