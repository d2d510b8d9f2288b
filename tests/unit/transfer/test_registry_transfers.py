"""Pull and push over real stores and a registry in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.unit.images.world import NS, ImageWorld, open_image_world
from tests.unit.transfer.registries import MemoryRegistry

from containerd_hybrid.errors import HybridError, InvalidArgumentError, NotFoundError, UnavailableError
from containerd_hybrid.images.api import ReferenceRule
from containerd_hybrid.model import Descriptor, Digest, Platform, Scope
from containerd_hybrid.model.labels import GC_BREF_IMAGE
from containerd_hybrid.registry.api import BodySink, RegistryOptions
from containerd_hybrid.transfer.api import Progress, RegistryPlace, StoreTarget, UnpackTarget
from containerd_hybrid.transfer.fetch import BlobFetches, FetchSettings
from containerd_hybrid.transfer.pull import RegistryPull
from containerd_hybrid.transfer.push import RegistryPush
from containerd_hybrid.transfer.registry import ImageTransfers
from containerd_hybrid.unpack.api import Arrivals, UnpackProgress

HOST = Platform.host()
AMD64 = Platform("linux", "amd64")
NAME = "r.example/team/app:1"
PLACE = RegistryPlace(NAME)


@dataclass
class FakeUnpacker:
    """Remembers what it was given; the pipeline has tests of its own."""

    given: list[tuple[Descriptor, Platform, str]] = field(default_factory=list)
    error: HybridError | None = None

    async def unpack(
        self,
        scope: Scope,
        target: Descriptor,
        platform: Platform,
        snapshotter: str = "",
        *,
        progress: object,
        arrivals: Arrivals,
    ) -> None:
        self.given.append((target, platform, snapshotter))
        if self.error is not None:
            raise self.error
        layer = Descriptor("application/vnd.oci.image.layer.v1.tar", Digest.of(b"layer one"), 9)
        await arrivals.whole(layer)
        assert callable(progress)
        progress(UnpackProgress(layer, "extracting", layer.digest))
        progress(UnpackProgress(layer, "done", layer.digest))


@dataclass
class Transfers:
    world: ImageWorld
    registry: MemoryRegistry
    unpacker: FakeUnpacker
    transfers: ImageTransfers
    told: list[Progress] = field(default_factory=list)

    async def pull(self, target: StoreTarget, *unpack: UnpackTarget, name: str = NAME) -> list[str]:
        images = await self.transfers.pull(NS, RegistryPlace(name), target, unpack, self.told.append)
        return [image.name for image in images]

    def events(self, name: str) -> list[str]:
        return [step.event for step in self.told if step.name == name]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Transfers]:
    async def at_once(seconds: float) -> None:
        await asyncio.sleep(0)

    async with open_image_world(tmp_path / "stores") as world:
        registry, unpacker = MemoryRegistry(), FakeUnpacker()
        content, images = world.stores.content, world.images
        fetches = BlobFetches(content, FetchSettings(sleep=at_once))
        transfers = ImageTransfers(
            RegistryPull(content, images, unpacker, world.stores.leases, registry, fetches),  # type: ignore[arg-type]
            RegistryPush(content, images, registry),  # type: ignore[arg-type]
        )
        yield Transfers(world, registry, unpacker, transfers)


async def test_an_image_and_all_it_needs_outlive_the_collector(here: Transfers) -> None:
    image = here.registry.tags["1"] = here.registry.image(b"layer one", b"layer two")
    assert await here.pull(StoreTarget("local/name:1", {"a": "b"})) == ["local/name:1"]
    await here.world.stores.collector.collect()
    assert len(await here.world.blobs()) == 4
    stored = await here.world.images.get(NS, "local/name:1")
    assert stored.target.digest == image.digest
    assert stored.labels == {"a": "b"}
    labels = await here.world.labels(str(image.digest))
    assert set(labels) == {
        "containerd.io/gc.ref.content.config",
        "containerd.io/gc.ref.content.l.0",
        "containerd.io/gc.ref.content.l.1",
        "containerd.io/distribution.source.r.example",
    }
    assert labels["containerd.io/distribution.source.r.example"] == "team/app"
    assert await here.world.stores.leases.list(NS) == []


async def test_progress_as_containerd_tells_it(here: Transfers) -> None:
    image = here.registry.tags["1"] = here.registry.image(b"layer one")
    await here.pull(StoreTarget(NAME), UnpackTarget(HOST, "overlayfs"))
    assert here.unpacker.given == [(image, HOST, "overlayfs")]
    layer = f"layer-{Digest.of(b'layer one')}"
    assert here.events(layer) == ["waiting", "downloading", "complete", "extracting", "extracted"]
    assert here.events(NAME) == ["fetching image content", "saved"]
    assert here.events("") == [
        f"Resolving from OCI Registry ({NAME})",
        f"Pulling from OCI Registry ({NAME})",
        f"Completed pull from OCI Registry ({NAME})",
    ]
    manifest = f"manifest-{image.digest}"
    parents = {step.name: step.parents for step in here.told if step.event == "waiting"}
    assert parents[manifest] == (NAME,)
    assert parents[layer] == (manifest,)
    last = [step for step in here.told if step.name == layer][-1]
    assert (last.progress, last.total) == (9, 9)


async def test_a_second_pull_fetches_nothing(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.image(b"layer one")
    await here.pull(StoreTarget(NAME))
    before = len(here.registry.fetched)
    here.told.clear()
    await here.pull(StoreTarget(NAME))
    assert len(here.registry.fetched) == before
    assert here.events(f"layer-{Digest.of(b'layer one')}") == ["waiting", "already exists"]


async def test_of_an_index_what_the_platform_needs(here: Transfers) -> None:
    ours = here.registry.image(b"ours")
    theirs = here.registry.image(b"theirs", platform="linux/s390x")
    index = here.registry.tags["1"] = here.registry.index(ours, theirs)
    await here.pull(StoreTarget(NAME, platforms=(AMD64,)))
    blobs = await here.world.blobs()
    assert str(Digest.of(b"ours")) in blobs
    assert str(theirs.digest) not in blobs
    labels = await here.world.labels(str(index.digest))
    assert labels["containerd.io/gc.ref.content.m.1"] == str(theirs.digest), "for when it comes later"


async def test_metadata_of_the_others_without_their_layers(here: Transfers) -> None:
    ours = here.registry.image(b"ours")
    theirs = here.registry.image(b"theirs", platform="linux/s390x")
    here.registry.tags["1"] = here.registry.index(ours, theirs)
    await here.pull(StoreTarget(NAME, platforms=(AMD64,), all_metadata=True))
    await here.world.stores.collector.collect()
    blobs = await here.world.blobs()
    assert str(theirs.digest) in blobs
    assert str(Digest.of(b"theirs")) not in blobs
    assert len(blobs) == 6, "index, 2 manifests, 2 configs, 1 layer"


async def test_all_platforms(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.index(
        here.registry.image(b"ours"), here.registry.image(b"theirs", platform="windows/amd64")
    )
    await here.pull(StoreTarget(NAME))
    assert str(Digest.of(b"theirs")) in await here.world.blobs()


async def test_a_platform_that_there_is_not(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.index(here.registry.image(b"x", platform="linux/s390x"))
    with pytest.raises(NotFoundError, match=r"linux/amd64.*it has: linux/s390x"):
        await here.pull(StoreTarget(NAME, platforms=(AMD64,)))
    assert await here.world.leftovers() == []


async def test_what_cannot_run_here_is_not_unpacked(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.image(b"x", platform="windows/amd64")
    await here.pull(StoreTarget(NAME), UnpackTarget(Platform("windows", "amd64")))
    assert here.unpacker.given == []


async def test_an_artifact_has_nothing_to_unpack(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.image(b"a chart", config_type="application/vnd.cncf.helm+json")
    here.registry.tags["2"] = here.registry.image()
    await here.pull(StoreTarget(NAME), UnpackTarget(HOST))
    await here.pull(StoreTarget(NAME), UnpackTarget(HOST), name="r.example/team/app:2")
    assert here.unpacker.given == []


async def test_one_layer_many_times_is_fetched_once(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.image(b"same", b"same", b"same")
    await here.pull(StoreTarget(NAME))
    assert [d for d, _ in here.registry.fetched].count(Digest.of(b"same")) == 1


async def test_names_beside_the_image_live_as_long_as_it(here: Transfers) -> None:
    image = here.registry.tags["1"] = here.registry.image(b"x")
    rules = (
        ReferenceRule("other/name"),
        ReferenceRule("by/digest", is_prefix=True, add_digest=True),
        ReferenceRule("prefix/only", is_prefix=True),
    )
    assert await here.pull(StoreTarget(NAME, references=rules)) == [
        NAME,
        "other/name",
        f"by/digest@{image.digest}",
    ]
    assert (await here.world.images.get(NS, "other/name")).labels[GC_BREF_IMAGE] == NAME
    await here.world.stores.collector.collect()
    assert len(await here.world.images.list(NS)) == 3
    await here.world.images.delete(NS, NAME)
    await here.world.stores.collector.collect()
    assert await here.world.leftovers() == []


async def test_an_image_needs_a_name(here: Transfers) -> None:
    with pytest.raises(NotFoundError, match="no image name"):
        await here.pull(StoreTarget())


async def test_the_first_error_ends_all_and_names_nothing(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.image(*(bytes([n]) * 9000 for n in range(3)))
    started: list[str] = []
    ended: list[str] = []

    async def hook(blob: Descriptor, offset: int, sink: BodySink) -> None:
        if blob.digest == Digest.of(bytes([1]) * 9000):
            while len(started) < 2:
                await asyncio.sleep(0)
            raise NotFoundError("gone")
        if blob.size == 9000:
            started.append(str(blob.digest))
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append(str(blob.digest))
                raise

    here.registry.hook = hook
    with pytest.raises(NotFoundError, match="gone"):
        await here.pull(StoreTarget(NAME))
    assert len(ended) == 2, "those that were on their way"
    assert here.registry.running == 0
    assert await here.world.leftovers() == []


async def test_a_cancelled_pull_is_over_at_once_and_goes_on_next_time(here: Transfers) -> None:
    layer = bytes(9000)
    here.registry.tags["1"] = here.registry.image(layer)
    half = asyncio.Event()

    async def hook(blob: Descriptor, offset: int, sink: BodySink) -> None:
        if blob.size == 9000 and not offset:
            await sink.write(layer[:4000])
            half.set()
            await asyncio.sleep(60)

    here.registry.hook = hook
    pull = asyncio.ensure_future(here.pull(StoreTarget(NAME)))
    await half.wait()
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    await here.world.stores.collector.collect()
    assert await here.world.images.list(NS) == []
    assert await here.world.stores.leases.list(NS) == []
    await here.pull(StoreTarget(NAME))
    assert (Digest.of(layer), 4000) in here.registry.fetched, "and not from its beginning"


async def test_a_failed_unpack_names_nothing(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.image(b"x")
    here.unpacker.error = UnavailableError("full")
    with pytest.raises(UnavailableError):
        await here.pull(StoreTarget(NAME), UnpackTarget(HOST))
    assert await here.world.leftovers() == []


async def test_a_layer_is_unpacked_while_the_next_one_is_on_its_way(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.image(b"layer one", b"layer two")
    name = f"layer-{Digest.of(b'layer one')}"

    async def hook(blob: Descriptor, offset: int, sink: BodySink) -> None:
        while blob.digest == Digest.of(b"layer two") and "extracted" not in here.events(name):
            await asyncio.sleep(0.001)

    here.registry.hook = hook
    await here.pull(StoreTarget(NAME), UnpackTarget(HOST))
    assert here.events(name)[-1] == "extracted"


async def test_to_unpack_what_was_not_fetched_does_not_wait_for_ever(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.index(
        here.registry.image(b"ours"), here.registry.image(b"layer one", platform="linux/s390x")
    )
    target = StoreTarget(NAME, platforms=(Platform("linux", "s390x"),))
    with pytest.raises(NotFoundError):
        await here.pull(target, UnpackTarget(AMD64))
    assert await here.world.leftovers() == []


async def test_options_reach_the_registry(here: Transfers) -> None:
    options = RegistryOptions("/hosts", "http", {"a": "b"})
    here.registry.tags["1"] = here.registry.image(b"x")
    await here.transfers.pull(NS, RegistryPlace(NAME, options), StoreTarget(NAME))
    assert here.registry.options == [options]


async def test_a_push_sends_blobs_then_manifests_then_indexes(here: Transfers) -> None:
    source = here.registry
    first, second = source.image(b"one"), source.image(b"two", platform="linux/s390x")
    inner = source.index(second)
    root = source.tags["1"] = source.index(first, inner)
    await here.pull(StoreTarget(NAME))
    source.blobs.clear()
    await here.transfers.push(NS, NAME, RegistryPlace("r.example/team/copy:2"), (), here.told.append)
    assert source.pushed[-1] == (root.digest, "2"), "the tag comes last"
    assert source.pushed[-2] == (inner.digest, "")
    assert len(source.pushed) == 8
    assert ["team/app"] in [list(paths) for paths in source.mounts], "the repository they came from"
    assert here.events(f"layer-{Digest.of(b'one')}")[-2:] == ["uploading", "complete"]
    assert here.events(NAME)[-2:] == ["pushing content", "pushed content"]


async def test_a_push_to_a_place_without_a_tag_gives_none(here: Transfers) -> None:
    root = here.registry.tags["1"] = here.registry.image(b"one")
    await here.pull(StoreTarget(NAME))
    for place in ("r.example/team/copy", f"r.example:5000/team/copy@{root.digest}"):
        here.registry.pushed.clear()
        await here.transfers.push(NS, NAME, RegistryPlace(place))
        assert [tag for _, tag in here.registry.pushed] == [""]


async def test_what_is_there_already(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.image(b"one")
    await here.pull(StoreTarget(NAME))
    await here.transfers.push(NS, NAME, PLACE, (), here.told.append)
    assert here.events(f"layer-{Digest.of(b'one')}")[-1] == "already exists"


async def test_a_part_that_is_not_here_cannot_be_pushed(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.index(
        here.registry.image(b"ours"), here.registry.image(b"theirs", platform="linux/s390x")
    )
    await here.pull(StoreTarget(NAME, platforms=(AMD64,), all_metadata=True))
    there = dict(here.registry.blobs)
    here.registry.blobs.clear()
    with pytest.raises(NotFoundError, match="neither here nor there"):
        await here.transfers.push(NS, NAME, PLACE)
    assert all(tag == "" for _, tag in here.registry.pushed), "the image is not there by name"
    here.registry.blobs |= {digest: data for digest, data in there.items() if data == b"theirs"}
    await here.transfers.push(NS, NAME, PLACE)
    assert here.registry.pushed[-1][1] == "1"


async def test_a_manifest_that_is_not_here_cannot_be_pushed(here: Transfers) -> None:
    here.registry.tags["1"] = here.registry.index(
        here.registry.image(b"ours"), here.registry.image(b"theirs", platform="linux/s390x")
    )
    await here.pull(StoreTarget(NAME, platforms=(AMD64,)))
    with pytest.raises(NotFoundError, match="neither here nor there"):
        await here.transfers.push(NS, NAME, PLACE)
    assert here.registry.pushed == []


async def test_pushing_needs_the_image_and_its_own_digest(here: Transfers) -> None:
    with pytest.raises(NotFoundError):
        await here.transfers.push(NS, "none", PLACE)
    here.registry.tags["1"] = here.registry.image(b"one")
    await here.pull(StoreTarget(NAME))
    with pytest.raises(InvalidArgumentError, match="its digest is"):
        await here.transfers.push(NS, NAME, RegistryPlace(f"r.example/x@{Digest.of(b'x')}"))
