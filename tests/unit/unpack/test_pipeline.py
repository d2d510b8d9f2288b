"""Layers become snapshots once, in order, and only what is whole is seen."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.client.daemon import TestDaemon, open_test_daemon
from tests.unit.images.archives import Layout, descriptor, finish_layout, index, oci_layout, tar_bytes
from tests.unit.images.test_importer import AMD, ARM, NAME, S390, several
from tests.unit.images.world import NS

from containerd_hybrid.diff.api import AppliedLayer
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from containerd_hybrid.model import Descriptor, Digest, Mount, Platform, Scope, chain_id
from containerd_hybrid.model.descriptor import OCI_INDEX
from containerd_hybrid.unpack.api import UnpackProgress

LAYERS = [tar_bytes({name: name.encode() * 1000}) for name in ("one", "two", "three")]
CHAINS = [str(chain_id([Digest.of(layer) for layer in LAYERS[: count + 1]])) for count in range(3)]
HOST = Platform.host()


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[TestDaemon]:
    if os.geteuid() != 0:
        pytest.skip("unpacking needs root")
    async with open_test_daemon(tmp_path / "daemon") as opened:
        yield opened


async def imported(daemon: TestDaemon, tmp_path: Path, layers: Sequence[bytes] = LAYERS) -> Descriptor:
    path = oci_layout(layers, "a.b/c:1").write(tmp_path / "a.tar")
    (image,) = await daemon.client.images.import_archive(path, unpack=False)
    return image.target


async def test_each_layer_is_a_snapshot_on_the_one_below(daemon: TestDaemon, tmp_path: Path) -> None:
    target = await imported(daemon, tmp_path)
    steps: list[UnpackProgress] = []
    unpacked = await daemon.unpacker.unpack(NS, target, HOST, progress=steps.append)
    assert str(unpacked.chain_id) == CHAINS[-1]
    assert unpacked.manifest == target
    assert [(step.state, str(step.chain_id)) for step in steps] == [
        (state, chain) for chain in CHAINS for state in ("extracting", "done")
    ]
    parents = [(await daemon.snapshotter.stat(NS, chain)).parent for chain in CHAINS]
    assert parents == ["", CHAINS[0], CHAINS[1]]


async def test_the_labels_that_other_clients_look_for(daemon: TestDaemon, tmp_path: Path) -> None:
    target = await imported(daemon, tmp_path)
    unpacked = await daemon.unpacker.unpack(NS, target, HOST)
    config = await daemon.world.labels(str(unpacked.config.digest))
    assert config["containerd.io/gc.ref.snapshot.native"] == CHAINS[-1]
    manifest, _ = await daemon.client.images.config(await daemon.client.images.get("a.b/c:1"))
    for layer, plain in zip(manifest.layers, LAYERS, strict=True):
        labels = await daemon.world.labels(str(layer.digest))
        assert labels["containerd.io/uncompressed"] == str(Digest.of(plain))


async def test_what_is_there_is_not_unpacked_again(daemon: TestDaemon, tmp_path: Path) -> None:
    await daemon.unpacker.unpack(NS, await imported(daemon, tmp_path, LAYERS[:2]), HOST)
    target = await imported(daemon, tmp_path)
    states: list[str] = []
    await daemon.unpacker.unpack(NS, target, HOST, progress=lambda step: states.append(step.state))
    assert states == ["exists", "exists", "extracting", "done"]


async def test_twice_at_once_unpacks_each_layer_once(
    daemon: TestDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await imported(daemon, tmp_path)
    applied: list[Digest] = []
    apply = daemon.unpacker._applier.apply

    async def counting(scope: Scope, layer: Descriptor, mounts: Sequence[Mount], **how: Any) -> AppliedLayer:
        applied.append(layer.digest)
        return await apply(scope, layer, mounts, **how)

    monkeypatch.setattr(daemon.unpacker._applier, "apply", counting)
    await asyncio.gather(*(daemon.unpacker.unpack(NS, target, HOST) for _ in range(8)))
    assert len(applied) == len(LAYERS)
    assert sorted(await daemon.snapshots()) == sorted(CHAINS)
    assert not daemon.unpacker._locks._locks


@pytest.mark.parametrize("failing", [0, 2])
async def test_a_layer_that_fails_leaves_those_below_and_no_half_one(
    daemon: TestDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    target = await imported(daemon, tmp_path)
    apply = daemon.unpacker._applier.apply
    count = 0

    async def failing_apply(*args: Any, **how: Any) -> AppliedLayer:
        nonlocal count
        count += 1
        result = await apply(*args, **how)
        if count == failing + 1:
            raise ResourceExhaustedError("no space left on device")
        return result

    monkeypatch.setattr(daemon.unpacker._applier, "apply", failing_apply)
    with pytest.raises(ResourceExhaustedError, match="no space left"):
        await daemon.unpacker.unpack(NS, target, HOST)
    assert sorted(await daemon.snapshots()) == sorted(CHAINS[:failing])
    monkeypatch.undo()
    await daemon.unpacker.unpack(NS, target, HOST)
    assert sorted(await daemon.snapshots()) == sorted(CHAINS)


async def test_a_cancelled_unpack_leaves_no_half_snapshot(
    daemon: TestDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await imported(daemon, tmp_path)
    reached = asyncio.Event()

    async def stuck(*args: Any, **how: Any) -> AppliedLayer:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(daemon.unpacker._applier, "apply", stuck)
    unpacking = asyncio.ensure_future(daemon.unpacker.unpack(NS, target, HOST))
    await reached.wait()
    unpacking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unpacking
    assert await daemon.snapshots() == []
    assert await daemon.world.stores.leases.list(NS) == []


async def test_an_index_is_followed_to_the_platform(daemon: TestDaemon, tmp_path: Path) -> None:
    layout = Layout()
    manifests = several(layout, ARM, AMD)
    inner = layout.add_blob(index(manifests))
    finish_layout(layout, [descriptor(inner, OCI_INDEX, annotations={NAME: "a.b/c:1"})])
    (image,) = await daemon.client.images.import_archive(layout.write(tmp_path / "a.tar"), unpack=False)
    unpacked = await daemon.unpacker.unpack(NS, image.target, AMD)
    assert str(unpacked.manifest.digest) == manifests[1]["digest"]
    with pytest.raises(NotFoundError, match=r"no manifest for platform linux/s390x in .*arm64, linux/amd64"):
        await daemon.unpacker.unpack(NS, image.target, S390)


async def test_layers_and_diff_ids_have_to_be_as_many(daemon: TestDaemon, tmp_path: Path) -> None:
    target = await imported(daemon, tmp_path, [])
    with pytest.raises(InvalidArgumentError, match="the manifest has 0 layers"):
        await daemon.unpacker.unpack(NS, target, HOST)
