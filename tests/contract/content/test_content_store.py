"""What every ContentStore does within one namespace."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time

import pytest
from tests.contract.content.world import World

from containerd_hybrid.content.api import ContentInfo, Ingest, IngestStatus
from containerd_hybrid.errors import (
    AbortedError,
    AlreadyExistsError,
    DataLossError,
    DigestMismatchError,
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidFilterError,
    NotFoundError,
    OutOfRangeError,
    SizeMismatchError,
    UnavailableError,
)
from containerd_hybrid.events.api import ContentCreate, ContentDelete
from containerd_hybrid.model import Digest, Scope

NS = Scope("default")
DATA = random.Random(3).randbytes(5000)
DIGEST = Digest.of(DATA)


async def _read(world: World, scope: Scope, digest: Digest) -> bytes:
    fd = await world.content.open_blob(scope, digest)
    with os.fdopen(fd, "rb") as file:
        return await asyncio.to_thread(file.read)


async def _walk(world: World, *filters: str, scope: Scope = NS) -> list[ContentInfo]:
    return [info async for info in world.content.walk(scope, filters)]


async def test_what_is_committed_is_there(world: World) -> None:
    before = time.time_ns()
    ingest = await world.content.open_ingest(NS, "layer", total=5000, expected=DIGEST)
    assert await ingest.write(DATA[:100]) == 100
    assert await ingest.digest() == Digest.of(DATA[:100])
    assert await ingest.write(DATA[100:], offset=100) == 5000
    info = await ingest.commit(5000, DIGEST, {"a": "1", "empty": ""})
    assert before <= info.created_at == info.updated_at <= time.time_ns()
    assert info == ContentInfo(DIGEST, 5000, info.created_at, info.created_at, {"a": "1"})
    assert await world.content.info(NS, DIGEST) == info
    assert await _walk(world) == [info]
    assert await _read(world, NS, DIGEST) == DATA
    assert world.events == [("default", ContentCreate(str(DIGEST), 5000))]
    assert await world.content.list_ingests(NS) == []
    assert await world.rows("SELECT name FROM namespaces") == [("default",)]
    await ingest.close()


async def test_what_a_namespace_has_not_is_not_found(world: World) -> None:
    await world.put(Scope("other"), DATA)
    missing = re.escape(f"content digest {DIGEST}: not found")
    with pytest.raises(NotFoundError, match=missing):
        await world.content.info(NS, DIGEST)
    with pytest.raises(NotFoundError, match=missing):
        await world.content.open_blob(NS, DIGEST)
    with pytest.raises(NotFoundError, match=missing):
        await world.content.read_at(NS, DIGEST, 0, 1)
    with pytest.raises(NotFoundError, match=missing):
        await world.content.update(NS, DIGEST, {})
    with pytest.raises(NotFoundError, match=missing):
        await world.content.delete(NS, DIGEST)
    with pytest.raises(NotFoundError, match="reference x: not found"):
        await world.content.ingest_status(NS, "x")
    with pytest.raises(NotFoundError, match="reference x: not found"):
        await world.content.abort(NS, "x")
    assert await _walk(world) == []


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 5000, DATA),
        (0, 10**12, DATA),
        (4990, 100, DATA[4990:]),
        (5000, 5, b""),
        (7, 0, b""),
        (1, 2, DATA[1:3]),
    ],
)
async def test_ranges(world: World, offset: int, length: int, expected: bytes) -> None:
    await world.put(NS, DATA)
    assert await world.content.read_at(NS, DIGEST, offset, length) == expected


async def test_ranges_outside_are_refused(world: World) -> None:
    await world.put(NS, DATA)
    with pytest.raises(OutOfRangeError, match="read past object length 5000 bytes"):
        await world.content.read_at(NS, DIGEST, 5001, 1)
    for offset, length in ((-1, 1), (0, -1)):
        with pytest.raises(InvalidArgumentError):
            await world.content.read_at(NS, DIGEST, offset, length)


async def test_a_commit_of_what_is_there_already_exists(world: World) -> None:
    await world.put(NS, DATA, {"first": "yes"})
    world.events.clear()
    for expected in (DIGEST, None):
        ingest = await world.content.open_ingest(NS, "again")
        await ingest.write(DATA)
        with pytest.raises(AlreadyExistsError, match=f"content {DIGEST}: already exists"):
            await ingest.commit(5000, expected, {"second": "yes"})
        assert await world.content.list_ingests(NS) == []
    with pytest.raises(AlreadyExistsError, match=f"content {DIGEST}: already exists"):
        await world.content.open_ingest(NS, "again", 5000, DIGEST)
    assert (await world.content.info(NS, DIGEST)).labels == {"first": "yes"}
    assert world.events == []
    assert await world.rows("SELECT count(*) FROM ingests") == [(0,)]


async def test_a_failed_commit_keeps_the_bytes_for_another_try(world: World) -> None:
    async def opened() -> Ingest:
        ingest = await world.content.open_ingest(NS, "x")
        with pytest.raises(UnavailableError, match="locked for"):
            await world.content.open_ingest(NS, "x")
        return ingest

    ingest = await opened()
    await ingest.write(DATA)
    with pytest.raises(
        SizeMismatchError, match='"x" failed size validation: 5000 != 5001: failed precondition'
    ):
        await ingest.commit(5001)
    ingest = await opened()
    assert ingest.status.offset == 5000
    with pytest.raises(DigestMismatchError, match=f"unexpected commit digest {DIGEST}, expected sha256:"):
        await ingest.commit(0, Digest.of(b"other"))
    ingest = await opened()
    with pytest.raises(InvalidArgumentError, match=r"info\.Labels: label key and value length"):
        await ingest.commit(0, None, {"k": "v" * 5000})
    assert await _walk(world) == []
    assert world.events == []
    ingest = await opened()
    assert (await ingest.commit(5000, DIGEST)).size == 5000
    with pytest.raises(FailedPreconditionError, match="closed ingest"):
        await ingest.commit()


async def test_offsets_are_as_in_containerds_write(world: World) -> None:
    ingest = await world.content.open_ingest(NS, "x")
    assert await ingest.write(b"abc", offset=0) == 3
    with pytest.raises(OutOfRangeError, match="write @2 must occur at current offset 3"):
        await ingest.write(b"x", offset=2)
    with pytest.raises(OutOfRangeError, match="write @4 must occur at current offset 3"):
        await ingest.write(b"x", offset=4)
    assert await ingest.write(b"d") == 4
    assert await ingest.write(b"new", offset=0) == 3
    assert await ingest.digest() == Digest.of(b"new")
    with pytest.raises(InvalidArgumentError, match='cannot truncate ingest "x" to 2'):
        await ingest.truncate(2)
    await ingest.truncate(3)
    assert await ingest.digest() == Digest.of(b"new")
    await ingest.truncate(0)
    assert (ingest.status.offset, await ingest.digest()) == (0, Digest.of(b""))
    assert (await ingest.commit()).digest == Digest.of(b"")


async def test_an_ingest_is_resumed_by_its_ref(world: World) -> None:
    ingest = await world.content.open_ingest(NS, "x", total=5000, expected=DIGEST)
    await ingest.write(DATA[:3000])
    status = ingest.status
    assert status == IngestStatus("x", 3000, 5000, None, status.started_at, status.updated_at)
    while_open = await world.content.ingest_status(NS, "x")
    assert (while_open.offset, while_open.started_at) == (3000, status.started_at)
    await ingest.close()
    await ingest.close()
    assert await world.content.ingest_status(NS, "x") == status
    ingest = await world.content.open_ingest(NS, "x", total=5000, expected=DIGEST)
    assert ingest.status == status
    await ingest.write(DATA[3000:])
    await ingest.commit(5000, DIGEST)
    assert await _read(world, NS, DIGEST) == DATA


async def test_ingests_are_listed(world: World) -> None:
    opened = [await world.content.open_ingest(NS, ref) for ref in ("layer-b", "config", "layer-a")]
    await world.content.open_ingest(Scope("other"), "layer-a")
    assert [i.ref for i in await world.content.list_ingests(NS)] == ["config", "layer-a", "layer-b"]
    assert [i.ref for i in await world.content.list_ingests(NS, ["ref~=^layer-"])] == ["layer-a", "layer-b"]
    assert [i.ref for i in await world.content.list_ingests(NS, ["ref==config", "ref==x"])] == ["config"]
    with pytest.raises(InvalidFilterError):
        await world.content.list_ingests(NS, ["ref=="])
    for ingest in opened:
        await ingest.close()


async def test_aborting_removes_the_bytes_even_while_it_is_open(world: World) -> None:
    ingest = await world.content.open_ingest(NS, "x")
    await ingest.write(DATA)
    await world.content.abort(NS, "x")
    assert list(world.blobs.ingest_keys()) == []
    with pytest.raises(NotFoundError):
        await world.content.ingest_status(NS, "x")
    with pytest.raises(AbortedError, match="was removed before it was committed"):
        await ingest.commit()
    assert await _walk(world) == []
    ingest = await world.content.open_ingest(NS, "x")
    assert ingest.status.offset == 0
    await ingest.close()


async def test_an_aborted_ref_can_be_used_again_at_once(world: World) -> None:
    old = await world.content.open_ingest(NS, "x")
    await old.write(b"old")
    await world.content.abort(NS, "x")
    new = await world.content.open_ingest(NS, "x")
    await new.write(b"new")
    await old.close()
    assert (await new.commit()).digest == Digest.of(b"new")


async def test_no_ref_is_refused(world: World) -> None:
    with pytest.raises(InvalidArgumentError, match="ref must not be empty"):
        await world.content.open_ingest(NS, "")


async def test_deleting_makes_the_namespace_forget(world: World) -> None:
    await world.put(NS, DATA)
    await world.content.delete(NS, DIGEST)
    with pytest.raises(NotFoundError):
        await world.content.info(NS, DIGEST)
    assert world.events[-1] == ("default", ContentDelete(str(DIGEST)))
    assert world.blobs.stat(DIGEST).size == 5000
    await world.collector.collect()
    with pytest.raises(NotFoundError):
        world.blobs.stat(DIGEST)


async def test_labels_are_replaced_one_by_one_or_all(world: World) -> None:
    await world.put(NS, DATA, {"k1": "v1", "k2": "v2"})
    created = (await world.content.info(NS, DIGEST)).created_at
    before = time.time_ns()
    info = await world.content.update(NS, DIGEST, {"k1": "new", "k3": "v3", "gone": ""})
    assert (info.labels, info.created_at) == ({"k1": "new", "k3": "v3"}, created)
    assert before <= info.updated_at <= time.time_ns()
    info = await world.content.update(NS, DIGEST, {"k1": "v1"}, ["labels.k3", "labels.k1"])
    assert info.labels == {"k1": "v1"}
    info = await world.content.update(
        NS, DIGEST, {"dots.and/slashes": "1", "x": "y"}, ["labels.dots.and/slashes"]
    )
    assert info.labels == {"k1": "v1", "dots.and/slashes": "1"}
    info = await world.content.update(NS, DIGEST, {"only": "this"}, ["labels"])
    assert info.labels == {"only": "this"}
    assert await world.content.info(NS, DIGEST) == info


async def test_what_cannot_be_updated_is_refused(world: World) -> None:
    await world.put(NS, DATA, {"a": "b"})
    with pytest.raises(
        InvalidArgumentError, match=f'cannot update "size" field on content info "{DIGEST}": invalid argument'
    ):
        await world.content.update(NS, DIGEST, {"c": "d"}, ["labels", "size"])
    with pytest.raises(InvalidArgumentError, match=r"info\.Labels: label key and value length"):
        await world.content.update(NS, DIGEST, {"c": "d" * 5000})
    assert (await world.content.info(NS, DIGEST)).labels == {"a": "b"}


async def test_filters(world: World) -> None:
    one = await world.put(NS, b"1", {"kind": "config", "containerd.io/distribution.source": "x"})
    two = await world.put(NS, b"22", {"kind": "layer"})
    three = await world.put(NS, b"333")
    await world.put(Scope("other"), b"4444", {"kind": "layer"})

    async def found(*filters: str) -> set[Digest]:
        return {info.digest for info in await _walk(world, *filters)}

    assert await found() == {one, two, three}
    assert await found(f"digest=={one}") == {one}
    assert await found(f"digest=={one}", f"digest=={three}", "digest==nonsense") == {one, three}
    assert await found(f"digest=={one},labels.kind==layer") == set()
    assert await found("size==2") == {two}
    assert await found("labels.kind") == {one, two}
    assert await found("labels.kind!=layer") == {one, three}
    assert await found('labels."containerd.io/distribution.source"==x') == {one}
    assert await found("labels.kind~=^lay", "size==3") == {two, three}
    assert await found("nothing") == set()
    with pytest.raises(InvalidFilterError):
        world.content.walk(NS, ["digest=="])


async def test_walking_is_in_digest_order_whatever_the_number(world: World) -> None:
    def work(transaction) -> None:  # type: ignore[no-untyped-def]
        transaction.connection.executemany(
            "INSERT INTO content VALUES ('default', ?, 1, '{}', 1, 1)",
            [(str(Digest.of(str(number).encode())),) for number in range(10_000)],
        )

    await world.database.write(work)
    digests = [info.digest async for info in world.content.walk(NS)]
    assert len(digests) == 10_000
    assert digests == sorted(digests)


async def test_walking_goes_on_while_things_change(world: World) -> None:
    digests = sorted([await world.put(NS, str(number).encode()) for number in range(10)])
    seen = []
    async for info in world.content.walk(NS):
        seen.append(info.digest)
        assert (await world.content.info(NS, info.digest)) == info
        await world.content.delete(NS, info.digest)
    assert seen == digests
    assert await _walk(world) == []


async def test_lost_bytes_are_data_loss_and_can_be_written_again(world: World) -> None:
    await world.put(NS, DATA, {"keep": "me"})
    os.truncate(world.blobs.path(DIGEST), 10)
    for action in (world.content.open_blob(NS, DIGEST), world.content.read_at(NS, DIGEST, 0, 1)):
        with pytest.raises(DataLossError, match=f"content {DIGEST} is damaged: 10 of its 5000 bytes"):
            await action
    world.blobs.path(DIGEST).unlink()
    with pytest.raises(DataLossError, match="0 of its 5000 bytes are there; fetch it again"):
        await world.content.open_blob(NS, DIGEST)

    ingest = await world.content.open_ingest(NS, "again", 5000, DIGEST)
    assert ingest.status.offset == 0
    await ingest.write(DATA)
    with pytest.raises(AlreadyExistsError):
        await ingest.commit(5000, DIGEST)
    assert await _read(world, NS, DIGEST) == DATA
    assert (await world.content.info(NS, DIGEST)).labels == {"keep": "me"}


async def test_one_ref_has_one_writer(world: World) -> None:
    async def contend() -> Ingest | None:
        try:
            return await world.content.open_ingest(NS, "x")
        except UnavailableError:
            return None

    winners = [ingest for ingest in await asyncio.gather(*(contend() for _ in range(10))) if ingest]
    assert len(winners) == 1
    await winners[0].close()


async def test_of_many_that_commit_one_blob_one_makes_it(world: World) -> None:
    async def write(number: int) -> bool:
        ingest = await world.content.open_ingest(NS, f"x{number}")
        await ingest.write(DATA)
        try:
            await ingest.commit(5000, DIGEST)
        except AlreadyExistsError:
            return False
        return True

    assert sum(await asyncio.gather(*(write(number) for number in range(10)))) == 1
    assert await _read(world, NS, DIGEST) == DATA
    assert [event for _, event in world.events] == [ContentCreate(str(DIGEST), 5000)]


async def test_a_cancelled_caller_leaves_the_ref_free(world: World) -> None:
    for delay in range(8):
        task = asyncio.create_task(world.content.open_ingest(NS, "x"))
        for _ in range(delay):
            await asyncio.sleep(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(outcome, BaseException):
            await outcome.close()
        ingest = await world.content.open_ingest(NS, "x")
        await ingest.close()


async def test_sha512(world: World) -> None:
    digest = Digest.of(DATA, "sha512")
    ingest = await world.content.open_ingest(NS, "x", 5000, digest)
    await ingest.write(DATA)
    assert (await ingest.commit(5000, digest)).digest == digest
    late = Digest.of(b"late", "sha512")
    ingest = await world.content.open_ingest(NS, "x")
    await ingest.write(b"late")
    assert (await ingest.commit(4, late)).digest == late
    assert await _read(world, NS, late) == b"late"
