"""Blobs into the store: once, whole, and from where the last try ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.images.world import NS, ImageWorld, open_image_world
from tests.unit.transfer.registries import Hook, MemoryRegistry

from containerd_hybrid.errors import (
    DigestMismatchError,
    NotFoundError,
    ResourceExhaustedError,
    SizeMismatchError,
    UnavailableError,
)
from containerd_hybrid.model import Descriptor, Scope
from containerd_hybrid.model.descriptor import OCI_LAYER
from containerd_hybrid.registry.api import BodySink
from containerd_hybrid.transfer.fetch import BlobFetches, FetchSettings
from containerd_hybrid.transfer.progress import ref_key

DATA = bytes(range(256)) * 100


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ImageWorld]:
    async with open_image_world(tmp_path / "stores") as opened:
        yield opened


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def fetches(world: ImageWorld) -> BlobFetches:
    async def at_once(seconds: float) -> None:
        await asyncio.sleep(0)

    return BlobFetches(world.stores.content, FetchSettings(sleep=at_once))


async def offset_of(world: ImageWorld, blob: Descriptor) -> int:
    return (await world.stores.content.ingest_status(NS, ref_key(blob))).offset


async def test_a_blob_is_fetched_once(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")
    async with world.leased() as scope:
        told: list[int] = []
        assert await fetches.fetch(scope, registry, blob, told.append)
        assert not await fetches.fetch(scope, registry, blob)
    assert registry.fetched == [(blob.digest, 0)]
    assert told[-1] == len(DATA)


async def test_however_many_want_it(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")
    async with world.leased() as scope:
        told: list[int] = []
        done = await asyncio.gather(*(fetches.fetch(scope, registry, blob, told.append) for _ in range(8)))
    assert sorted(done) == [False] * 7 + [True]
    assert told.count(len(DATA)) == 8, "all are told"
    assert len(registry.fetched) == 1


async def test_another_namespace_gets_the_bytes_that_are_here(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")
    await asyncio.gather(fetches.fetch(NS, registry, blob), fetches.fetch(Scope("other"), registry, blob))
    assert len(registry.fetched) == 1
    assert (await world.stores.content.info(Scope("other"), blob.digest)).size == len(DATA)


async def test_a_broken_body_is_continued(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")

    async def breaks(_: Descriptor, offset: int, sink: BodySink) -> None:
        if offset < 3000:
            await sink.write(DATA[offset : offset + 1000])
            raise UnavailableError("cut")

    registry.hook = breaks
    await fetches.fetch(NS, registry, blob)
    assert [offset for _, offset in registry.fetched] == [0, 1000, 2000, 3000]
    assert await world.stores.content.read_at(NS, blob.digest, 0, len(DATA)) == DATA


async def test_after_too_many_failures_what_came_is_kept_for_a_day(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")

    async def breaks(_: Descriptor, offset: int, sink: BodySink) -> None:
        await sink.write(DATA[offset : offset + 100])
        raise UnavailableError("cut")

    registry.hook = breaks
    with pytest.raises(UnavailableError, match="cut"):
        async with world.leased() as scope:
            await fetches.fetch(scope, registry, blob)
    await world.stores.collector.collect()
    assert await offset_of(world, blob) == 500
    registry.hook = None
    await fetches.fetch(NS, registry, blob)
    assert registry.fetched[-1] == (blob.digest, 500)


async def test_a_cancelled_fetch_is_continued_by_who_waits(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")
    started = asyncio.Event()

    async def hangs(_: Descriptor, offset: int, sink: BodySink) -> None:
        if not started.is_set():
            await sink.write(DATA[:700])
            started.set()
            await asyncio.sleep(60)

    registry.hook = hangs
    first = asyncio.ensure_future(fetches.fetch(NS, registry, blob))
    await started.wait()
    second = asyncio.ensure_future(fetches.fetch(NS, registry, blob))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second
    assert registry.fetched == [(blob.digest, 0), (blob.digest, 700)]


async def test_wrong_bytes_never_become_a_blob_and_are_removed(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")
    registry.blobs[blob.digest] = bytes(len(DATA))
    with pytest.raises(DigestMismatchError):
        async with world.leased() as scope:
            await fetches.fetch(scope, registry, blob)
    assert await world.leftovers() == []
    registry.blobs[blob.digest] = DATA
    await fetches.fetch(NS, registry, blob)
    assert await world.blobs() == {str(blob.digest)}


async def test_a_bad_beginning_of_last_time_is_fetched_anew(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")
    ingest = await world.stores.content.open_ingest(NS, ref_key(blob), blob.size, blob.digest)
    await ingest.write(b"wrong" * 100)
    await ingest.close()
    await fetches.fetch(NS, registry, blob)
    assert [offset for _, offset in registry.fetched] == [500, 0]
    assert await world.blobs() == {str(blob.digest)}


async def test_an_ingest_that_is_too_long_begins_anew(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")
    ingest = await world.stores.content.open_ingest(NS, ref_key(blob), blob.size, blob.digest)
    await ingest.write(DATA + b"more")
    await ingest.close()
    await fetches.fetch(NS, registry, blob)
    assert [offset for _, offset in registry.fetched] == [0]


@pytest.mark.parametrize("error", [SizeMismatchError, NotFoundError, ResourceExhaustedError])
async def test_what_the_next_try_cannot_use_is_removed(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches, error: type[Exception]
) -> None:
    blob = registry.add(DATA, "x")

    async def fails(_: Descriptor, offset: int, sink: BodySink) -> None:
        await sink.write(DATA[:100])
        raise error("no")

    registry.hook = fails
    with pytest.raises(error):
        async with world.leased() as scope:
            await fetches.fetch(scope, registry, blob)
    assert await world.leftovers() == []


def until_as_many_run(registry: MemoryRegistry, count: int) -> Hook:
    """Bodies wait until so many have been under way at once."""

    async def wait(_: Descriptor, offset: int, sink: BodySink) -> None:
        while registry.most_running < count:
            await asyncio.sleep(0)

    return wait


async def test_no_more_bodies_at_once_than_allowed(world: ImageWorld, registry: MemoryRegistry) -> None:
    fetches = BlobFetches(world.stores.content, FetchSettings(downloads=2))
    registry.hook = until_as_many_run(registry, 2)
    blobs = [registry.add(bytes([n]) * 20_000, "x") for n in range(6)]
    await asyncio.gather(*(fetches.fetch(NS, registry, blob) for blob in blobs))
    assert registry.most_running == 2


async def test_a_client_that_writes_the_same_blob_is_waited_for(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(DATA, "x")
    theirs = await world.stores.content.open_ingest(NS, ref_key(blob), blob.size, blob.digest)
    ours = asyncio.ensure_future(fetches.fetch(NS, registry, blob))
    await asyncio.sleep(0.05)
    assert not ours.done()
    await theirs.write(DATA)
    await theirs.commit(len(DATA), blob.digest)
    assert not await ours
    assert registry.fetched == []


async def test_an_empty_blob_needs_no_body(
    world: ImageWorld, registry: MemoryRegistry, fetches: BlobFetches
) -> None:
    blob = registry.add(b"", "x")
    assert await fetches.fetch(NS, registry, blob)
    assert registry.fetched == []


def in_parts(world: ImageWorld, **settings: Any) -> BlobFetches:
    async def at_once(seconds: float) -> None:
        await asyncio.sleep(0)

    settings = {"part_bytes": 10_000, "downloads": 3, "sleep": at_once, **settings}
    return BlobFetches(world.stores.content, FetchSettings(**settings))


async def test_a_large_blob_comes_in_parts_from_several_connections(
    world: ImageWorld, registry: MemoryRegistry
) -> None:
    blob = registry.add(os.urandom(95_000), OCI_LAYER)
    registry.hook = until_as_many_run(registry, 3)
    told: list[int] = []
    assert await in_parts(world).fetch(NS, registry, blob, told.append)
    assert sorted(offset for _, offset in registry.fetched) == list(range(0, 95_000, 10_000))
    assert registry.most_running == 3
    assert told == sorted(told)
    assert told[-1] == blob.size
    await asyncio.to_thread(world.stores.blobs.verify, blob.digest)


async def test_a_part_that_is_late_holds_up_no_connection(
    world: ImageWorld, registry: MemoryRegistry
) -> None:
    blob = registry.add(os.urandom(95_000), OCI_LAYER)
    others = asyncio.Event()

    async def first_is_late(blob: Descriptor, offset: int, sink: object) -> None:
        if offset == 0:
            await others.wait()
        elif len(registry.fetched) == 6:  # as many as may be begun before the first is appended
            others.set()

    registry.hook = first_is_late
    assert await in_parts(world).fetch(NS, registry, blob)
    await asyncio.to_thread(world.stores.blobs.verify, blob.digest)


async def test_a_part_that_breaks_off_is_continued(world: ImageWorld, registry: MemoryRegistry) -> None:
    blob = registry.add(os.urandom(35_000), OCI_LAYER)
    broken: list[int] = []

    async def breaks(blob: Descriptor, offset: int, sink: Any) -> None:
        if offset == 20_000 and not broken:
            broken.append(offset)
            await sink.write(registry.blobs[blob.digest][offset : offset + 3000])
            raise UnavailableError("the host broke off the connection")

    registry.hook = breaks
    assert await in_parts(world).fetch(NS, registry, blob)
    assert sorted(offset for _, offset in registry.fetched) == [0, 10_000, 20_000, 23_000, 30_000]
    await asyncio.to_thread(world.stores.blobs.verify, blob.digest)


async def test_a_host_without_parts_sends_all_of_it(world: ImageWorld, registry: MemoryRegistry) -> None:
    registry.gives_parts = False
    blob = registry.add(os.urandom(95_000), OCI_LAYER)
    assert await in_parts(world).fetch(NS, registry, blob)
    assert registry.fetched[-1] == (blob.digest, 0)
    await asyncio.to_thread(world.stores.blobs.verify, blob.digest)


async def test_what_is_here_is_not_asked_for_in_parts_either(
    world: ImageWorld, registry: MemoryRegistry
) -> None:
    data = os.urandom(95_000)
    blob = registry.add(data, OCI_LAYER)
    ingest = await world.stores.content.open_ingest(NS, ref_key(blob), blob.size, blob.digest)
    await ingest.write(data[:42_000])
    await ingest.close()
    assert await in_parts(world).fetch(NS, registry, blob)
    assert min(offset for _, offset in registry.fetched) == 42_000
    await asyncio.to_thread(world.stores.blobs.verify, blob.digest)
