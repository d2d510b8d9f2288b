"""The policy ``drop``: layers that are unpacked lose their blobs, and whoever misses one is told why."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.client.daemon import TestDaemon, open_test_daemon
from tests.unit.images.archives import oci_layout, tar_bytes
from tests.unit.images.world import NS
from tests.unit.transfer.registries import MemoryRegistry

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.model import Digest, Platform
from containerd_hybrid.model.labels import GC_REF_CONTENT, LAYERS_DROPPED
from containerd_hybrid.retention.api import POLICY_LABEL
from containerd_hybrid.transfer.api import Progress, RegistryPlace, StoreTarget, UnpackTarget
from containerd_hybrid.transfer.fetch import BlobFetches
from containerd_hybrid.transfer.pull import RegistryPull
from containerd_hybrid.transfer.push import RegistryPush
from containerd_hybrid.transfer.registry import ImageTransfers

LAYERS = [tar_bytes({name: name.encode() * 1000}) for name in ("one", "two")]
NAME = "r.example/team/app:1"
HOST = Platform.host()


@dataclass
class Here:
    daemon: TestDaemon
    registry: MemoryRegistry
    transfers: ImageTransfers

    async def policy(self, value: str) -> None:
        path = f"labels.{POLICY_LABEL}"
        await self.daemon.world.stores.namespaces.update(NS.namespace, {POLICY_LABEL: value}, (path,))

    async def pull(self, *unpack: UnpackTarget) -> list[Progress]:
        """What was told; the collector has been there afterwards."""
        told: list[Progress] = []
        await self.transfers.pull(NS, RegistryPlace(NAME), StoreTarget(NAME), unpack, told.append)
        await self.daemon.world.stores.collector.collect()
        return told

    async def layers(self) -> int:
        """How many of the layers' blobs are here."""
        blobs = await self.daemon.world.blobs()
        return sum(str(Digest.of(layer)) in blobs for layer in LAYERS)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    if os.geteuid() != 0:
        pytest.skip("unpacking needs root")
    async with open_test_daemon(tmp_path / "daemon") as daemon:
        stores, registry = daemon.world.stores, MemoryRegistry()
        pull = RegistryPull(
            stores.content,
            daemon.world.images,
            daemon.unpacker,
            stores.leases,
            registry,  # type: ignore[arg-type]
            BlobFetches(stores.content),
            daemon.retention,
        )
        push = RegistryPush(stores.content, daemon.world.images, registry)  # type: ignore[arg-type]
        yield Here(daemon, registry, ImageTransfers(pull, push))


UNPACK = UnpackTarget(HOST, "native")


async def test_layers_are_kept_if_nothing_is_said(here: Here) -> None:
    here.registry.tags["1"] = here.registry.image(*LAYERS, platform=str(HOST))
    await here.pull(UNPACK)
    assert await here.layers() == 2


async def test_unpacked_layers_are_dropped_and_a_second_pull_fetches_nothing(here: Here) -> None:
    await here.policy("drop")
    image = here.registry.tags["1"] = here.registry.image(*LAYERS, platform=str(HOST))
    await here.pull(UNPACK)
    assert await here.layers() == 0
    assert len(await here.daemon.world.blobs()) == 2  # manifest and config
    assert len(await here.daemon.snapshots()) == 2
    labels = await here.daemon.world.labels(str(image.digest))
    assert labels[LAYERS_DROPPED] == "native"
    assert [key for key in labels if key.startswith(GC_REF_CONTENT)] == [f"{GC_REF_CONTENT}.config"]
    before = list(here.registry.fetched)
    told = await here.pull(UNPACK)
    assert here.registry.fetched == before
    name = f"layer-{Digest.of(LAYERS[0])}"
    assert [step.event for step in told if step.name == name] == ["waiting", "already exists"]
    assert await here.daemon.world.stores.leases.list(NS) == []


async def test_what_only_another_image_has_unpacked_is_not_fetched_either(here: Here) -> None:
    await here.policy("drop")
    here.registry.tags["1"] = here.registry.image(LAYERS[0], platform=str(HOST))
    await here.pull(UNPACK)
    here.registry.fetched.clear()
    here.registry.tags["1"] = here.registry.image(*LAYERS, platform=str(HOST))
    await here.pull(UNPACK)
    fetched = {digest for digest, _ in here.registry.fetched}
    assert Digest.of(LAYERS[1]) in fetched
    assert Digest.of(LAYERS[0]) not in fetched
    assert len(await here.daemon.snapshots()) == 2


async def test_of_an_index_only_what_is_unpacked_loses_its_layers(here: Here) -> None:
    await here.policy("drop")
    other = here.registry.image(tar_bytes({"other": b"x"}), platform="linux/s390x")
    mine = here.registry.image(*LAYERS, platform=str(HOST))
    here.registry.tags["1"] = here.registry.index(other, mine)
    await here.pull(UNPACK)
    assert await here.layers() == 0
    assert str(Digest.of(tar_bytes({"other": b"x"}))) in await here.daemon.world.blobs()
    await here.pull(UNPACK)
    assert await here.layers() == 0


async def test_a_pull_that_does_not_unpack_keeps_them(here: Here) -> None:
    await here.policy("drop")
    here.registry.tags["1"] = here.registry.image(*LAYERS, platform=str(HOST))
    await here.pull()
    assert await here.layers() == 2
    await here.daemon.client.images.unpack(NAME)
    await here.daemon.world.stores.collector.collect()
    assert await here.layers() == 0


async def test_a_pull_brings_them_back_where_they_are_to_be_kept(here: Here) -> None:
    await here.policy("drop")
    image = here.registry.tags["1"] = here.registry.image(*LAYERS, platform=str(HOST))
    await here.pull(UNPACK)
    await here.policy("keep")
    await here.daemon.client.images.unpack(NAME)
    labels = await here.daemon.world.labels(str(image.digest))
    assert LAYERS_DROPPED in labels  # for they are still not here
    await here.pull(UNPACK)
    assert await here.layers() == 2
    assert LAYERS_DROPPED not in await here.daemon.world.labels(str(image.digest))


async def test_layers_of_an_archive_are_dropped_and_come_with_it_again(here: Here, tmp_path: Path) -> None:
    await here.policy("drop")
    archive = oci_layout(LAYERS, "a.b/c:1").write(tmp_path / "a.tar")
    client, world = here.daemon.client, here.daemon.world
    for _ in range(2):
        await client.images.import_archive(archive)
        await world.stores.collector.collect()
        assert len(await world.blobs()) == 2  # manifest and config; the archive's index has no name
    with pytest.raises(
        NotFoundError, match=r"layer.* was dropped after .* unpacked with native: let .*=keep"
    ):
        await client.images.export_archive(["a.b/c:1"], tmp_path / "b.tar")


async def test_a_push_says_what_is_missing_unless_the_registry_has_it(here: Here) -> None:
    await here.policy("drop")
    here.registry.tags["1"] = here.registry.image(*LAYERS, platform=str(HOST))
    await here.pull(UNPACK)
    await here.transfers.push(NS, NAME, RegistryPlace(NAME))
    del here.registry.blobs[Digest.of(LAYERS[1])]
    with pytest.raises(NotFoundError, match=rf"cannot push .*{Digest.of(LAYERS[1])}.* was dropped after"):
        await here.transfers.push(NS, NAME, RegistryPlace(NAME))


async def test_what_somebody_holds_stays(here: Here) -> None:
    await here.policy("drop")
    leases, content = here.daemon.world.stores.leases, here.daemon.world.stores.content
    here.registry.tags["1"] = here.registry.image(*LAYERS, platform=str(HOST))
    await here.pull()
    await content.update(NS, Digest.of(LAYERS[1]), {"containerd.io/gc.root": "yes"})
    await here.daemon.client.images.unpack(NAME)
    await here.daemon.world.stores.collector.collect()
    assert await here.layers() == 1
    assert await leases.list(NS) == []


async def test_layers_that_are_gone_cannot_be_unpacked_otherwise(here: Here) -> None:
    await here.policy("drop")
    here.registry.tags["1"] = here.registry.image(*LAYERS, platform=str(HOST))
    await here.pull(UNPACK)
    for chain in reversed(await _by_height(here)):
        await here.daemon.snapshotter.remove(NS, chain)
    with pytest.raises(NotFoundError, match="neither here nor unpacked with native: pull or import"):
        await here.daemon.client.images.unpack(NAME)
    await here.pull(UNPACK)
    assert len(await here.daemon.snapshots()) == 2


async def _by_height(here: Here) -> list[str]:
    infos = [info async for info in here.daemon.snapshotter.walk(NS)]
    return [info.name for info in sorted(infos, key=lambda info: bool(info.parent))]


async def test_a_policy_that_is_none_is_named_before_anything_is_fetched(here: Here) -> None:
    await here.policy("dorp")
    here.registry.tags["1"] = here.registry.image(*LAYERS, platform=str(HOST))
    with pytest.raises(InvalidArgumentError, match="'dorp': use one of keep, drop"):
        await here.pull(UNPACK)
    assert here.registry.fetched == []
    assert await here.daemon.world.images.list(NS) == []
