"""Namespaces share bytes as the policy allows, and nothing else."""

from __future__ import annotations

import re

import pytest
from tests.contract.content.world import World

from containerd_hybrid.content.api import IngestStatus
from containerd_hybrid.errors import (
    AlreadyExistsError,
    DigestMismatchError,
    NotFoundError,
    SizeMismatchError,
)
from containerd_hybrid.events.api import ContentCreate
from containerd_hybrid.model import Digest, Scope
from containerd_hybrid.model.labels import SHARED_NAMESPACE

ONE, TWO = Scope("one"), Scope("two")
DATA = b"the same bytes" * 1000
DIGEST = Digest.of(DATA)
SIZE = len(DATA)


async def _read(world: World, scope: Scope, digest: Digest) -> bytes:
    return await world.content.read_at(scope, digest, 0, 1 << 30)


async def test_a_blob_of_another_namespace_is_adopted_without_bytes(world: World) -> None:
    await world.put(ONE, DATA, {"of": "one"})
    ingest = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    status = ingest.status
    assert status == IngestStatus("x", SIZE, SIZE, DIGEST, status.started_at, status.started_at)
    assert await ingest.digest() == DIGEST
    assert await ingest.write(b"") == SIZE
    with pytest.raises(NotFoundError):
        await world.content.info(TWO, DIGEST)
    assert list(world.blobs.ingest_keys()) == []
    with pytest.raises(NotFoundError):
        await world.content.ingest_status(TWO, "x")
    assert await world.content.list_ingests(TWO) == []

    assert (await ingest.commit(SIZE, DIGEST, {"of": "two"})).labels == {"of": "two"}
    assert await _read(world, TWO, DIGEST) == DATA
    assert (await world.content.info(ONE, DIGEST)).labels == {"of": "one"}
    assert world.events[-1] == ("two", ContentCreate(str(DIGEST), SIZE))
    assert await world.rows("SELECT count(*) FROM ingests") == [(0,)]


async def test_an_adopted_blob_is_checked_at_the_commit(world: World) -> None:
    await world.put(ONE, DATA)
    ingest = await world.content.open_ingest(TWO, "x", 0, DIGEST)
    with pytest.raises(
        SizeMismatchError, match=f'"x" failed size validation: {SIZE} != 5: failed precondition'
    ):
        await ingest.commit(5)
    with pytest.raises(DigestMismatchError, match='"x" unexpected digest: failed precondition'):
        await ingest.commit(0, Digest.of(b"other"))
    assert (await ingest.commit()).digest == DIGEST


async def test_a_wrong_size_is_not_adopted(world: World) -> None:
    await world.put(ONE, DATA)
    ingest = await world.content.open_ingest(TWO, "x", SIZE + 1, DIGEST)
    assert ingest.status.offset == 0
    await ingest.close()


async def test_writing_on_gives_an_adopted_blob_bytes_of_its_own(world: World) -> None:
    await world.put(ONE, DATA)
    ingest = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    assert await ingest.write(b" and more", offset=SIZE) == SIZE + 9
    assert ingest.status.offset == SIZE + 9
    longer = Digest.of(DATA + b" and more")
    assert (await ingest.commit(SIZE + 9, longer)).digest == longer
    assert await _read(world, TWO, longer) == DATA + b" and more"
    assert await _read(world, ONE, DIGEST) == DATA
    with pytest.raises(NotFoundError):
        await world.content.info(TWO, DIGEST)


async def test_truncating_an_adopted_blob_begins_anew(world: World) -> None:
    await world.put(ONE, DATA)
    ingest = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    await ingest.truncate(SIZE)
    assert ingest.status.expected == DIGEST
    await ingest.truncate(0)
    assert (ingest.status.offset, ingest.status.expected) == (0, None)
    await ingest.write(b"other")
    assert (await ingest.commit()).digest == Digest.of(b"other")
    ingest = await world.content.open_ingest(TWO, "y", SIZE, DIGEST)
    assert await ingest.write(b"rewritten", offset=0) == 9
    assert (await ingest.commit()).digest == Digest.of(b"rewritten")


async def test_an_ingest_with_bytes_may_be_reopened_as_adopted(world: World) -> None:
    begun = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    await begun.write(DATA[:100])
    await begun.close()
    await world.put(ONE, DATA)
    ingest = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    assert ingest.status.offset == SIZE
    await ingest.write(b"!")
    assert await ingest.digest() == Digest.of(DATA + b"!")
    await ingest.close()
    await world.content.abort(TWO, "x")
    assert list(world.blobs.ingest_keys()) == []


async def test_adopted_bytes_outlive_the_namespace_they_came_from(world: World) -> None:
    await world.put(ONE, DATA)
    ingest = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    await world.content.delete(ONE, DIGEST)
    await world.collector.collect()
    await ingest.commit(SIZE, DIGEST)
    assert await _read(world, TWO, DIGEST) == DATA


async def test_aborting_an_adopted_ingest_leaves_the_blob(world: World) -> None:
    await world.put(ONE, DATA, {"containerd.io/gc.root": "yes"})
    ingest = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    await world.content.abort(TWO, "x")
    await ingest.close()
    await world.collector.collect()
    assert await _read(world, ONE, DIGEST) == DATA


async def test_isolated_namespaces_have_to_show_the_bytes(isolated: World) -> None:
    world = isolated
    await world.put(ONE, DATA)
    ingest = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    assert (ingest.status.offset, ingest.status.expected) == (0, None)
    assert await ingest.digest() == Digest.of(b"")
    await ingest.write(DATA)
    inode = world.blobs.path(DIGEST).stat().st_ino
    assert (await ingest.commit(SIZE, DIGEST)).digest == DIGEST
    assert world.blobs.path(DIGEST).stat().st_ino == inode
    assert await _read(world, TWO, DIGEST) == DATA


@pytest.mark.parametrize(("value", "shares"), [("true", True), ("false", False), ("yes", False)])
async def test_a_namespace_can_share_what_it_has(isolated: World, value: str, shares: bool) -> None:
    world = isolated
    await world.namespaces.create("one", {SHARED_NAMESPACE: value})
    await world.put(ONE, DATA)
    ingest = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    assert ingest.status.offset == (SIZE if shares else 0)
    await ingest.close()


async def test_bytes_go_with_the_last_namespace(world: World) -> None:
    kept = {"containerd.io/gc.root": "yes"}
    await world.put(ONE, DATA, kept)
    ingest = await world.content.open_ingest(TWO, "x", SIZE, DIGEST)
    await ingest.commit(SIZE, DIGEST, kept)
    await world.content.delete(ONE, DIGEST)
    await world.collector.collect()
    assert await _read(world, TWO, DIGEST) == DATA
    await world.content.delete(TWO, DIGEST)
    await world.collector.collect()
    assert list(world.blobs.walk()) == []


async def test_a_ref_belongs_to_its_namespace(world: World) -> None:
    one = await world.content.open_ingest(ONE, "x")
    two = await world.content.open_ingest(TWO, "x")
    await one.write(b"1")
    await two.write(b"2")
    assert (await one.commit()).digest == Digest.of(b"1")
    assert (await two.commit()).digest == Digest.of(b"2")


async def test_opening_for_what_the_namespace_has_already_exists(world: World) -> None:
    await world.put(ONE, DATA)
    with pytest.raises(AlreadyExistsError, match=re.escape(f"content {DIGEST}: already exists")):
        await world.content.open_ingest(ONE, "x", SIZE, DIGEST)
    assert await world.rows("SELECT count(*) FROM ingests") == [(0,)]
