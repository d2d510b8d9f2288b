"""What a scope with a lease makes is held from the start; what nobody holds goes, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from tests.contract.content.world import World

from containerd_hybrid.errors import AbortedError, AlreadyExistsError, NotFoundError
from containerd_hybrid.model import Digest, Scope

NS = Scope("default")
DATA = b"data"
DIGEST = Digest.of(DATA)
DAY = 24 * 3600 * 1_000_000_000


async def _leased(world: World, id: str = "lease") -> Scope:
    await world.leases.create(NS, id)
    return Scope("default", id)


async def _held(world: World) -> list[tuple[object, ...]]:
    return await world.rows("SELECT lease, type, key FROM lease_resources ORDER BY lease, type, key")


async def test_an_ingest_and_then_its_blob_are_under_the_lease(world: World) -> None:
    scope = await _leased(world)
    ingest = await world.content.open_ingest(scope, "x")
    assert await _held(world) == [("lease", "ingests", "x")]
    assert await world.rows("SELECT expires_at FROM ingests") == [(None,)]
    await world.collector.collect()
    await ingest.write(DATA)
    await ingest.commit()
    assert await _held(world) == [("lease", "content", str(DIGEST))]
    await world.collector.collect()
    assert await world.content.read_at(NS, DIGEST, 0, 10) == DATA
    await world.leases.delete(NS, "lease")
    await world.collector.collect()
    assert list(world.blobs.walk()) == []


async def test_what_exists_already_comes_under_the_lease(world: World) -> None:
    await world.put(NS, DATA)
    scope = await _leased(world)
    with pytest.raises(AlreadyExistsError):
        await world.content.open_ingest(scope, "x", 0, DIGEST)
    other = await _leased(world, "other")
    ingest = await world.content.open_ingest(other, "y")
    await ingest.write(DATA)
    with pytest.raises(AlreadyExistsError):
        await ingest.commit()
    assert await _held(world) == [("lease", "content", str(DIGEST)), ("other", "content", str(DIGEST))]


async def test_deleting_and_aborting_take_it_from_the_lease(world: World) -> None:
    scope = await _leased(world)
    await world.put(scope, DATA)
    await (await world.content.open_ingest(scope, "x")).close()
    await world.content.abort(scope, "x")
    await world.content.delete(scope, DIGEST)
    assert await _held(world) == []


async def test_a_lease_that_is_not_there_is_refused_and_nothing_is_made(world: World) -> None:
    scope = Scope("default", "nope")
    with pytest.raises(NotFoundError, match="lease does not exist: not found"):
        await world.content.open_ingest(scope, "x")
    assert await world.rows("SELECT count(*) FROM ingests") == [(0,)]
    assert list(world.blobs.ingest_keys()) == []


async def test_an_ingest_without_a_lease_lives_a_day(world: World) -> None:
    ingest = await world.content.open_ingest(NS, "x")
    await ingest.write(DATA)
    await ingest.close()
    [(lifetime,)] = await world.rows("SELECT expires_at - started_at FROM ingests")
    assert lifetime == DAY
    await world.collector.collect()
    assert (await world.content.ingest_status(NS, "x")).offset == 4

    def age(transaction) -> None:  # type: ignore[no-untyped-def]
        transaction.connection.execute(f"UPDATE ingests SET expires_at = expires_at - {DAY + 1_000_000_000}")

    await world.database.write(age)
    await (await world.content.open_ingest(NS, "x")).close()
    await world.collector.collect()
    assert (await world.content.ingest_status(NS, "x")).offset == 4
    await world.database.write(age)
    await world.collector.collect()
    with pytest.raises(NotFoundError):
        await world.content.ingest_status(NS, "x")
    assert list(world.blobs.ingest_keys()) == []


async def test_an_ingest_collected_while_it_is_open_cannot_be_committed(world: World) -> None:
    scope = await _leased(world)
    ingest = await world.content.open_ingest(scope, "x")
    await ingest.write(DATA)
    await world.leases.delete(NS, "lease")
    await world.collector.collect()
    with pytest.raises(AbortedError):
        await ingest.commit()


async def test_collecting_never_takes_bytes_that_are_being_committed(world: World) -> None:
    """Blobs come, go and come again while the collector runs without a pause."""
    choice = random.Random(5)
    blobs = [bytes([number]) * 2000 for number in range(4)]
    finished = asyncio.Event()

    async def collect() -> None:
        while not finished.is_set():
            await world.collector.collect()

    async def work(number: int) -> None:
        for turn in range(40):
            data = choice.choice(blobs)
            digest = Digest.of(data)
            namespace = Scope(f"ns{number % 2}")
            try:
                ingest = await world.content.open_ingest(
                    namespace, f"{number}-{turn}", len(data), digest if turn % 2 else None
                )
                if ingest.status.offset == 0:
                    await ingest.write(data)
                await ingest.commit(len(data), digest, {"containerd.io/gc.root": "yes"} if turn % 3 else None)
            except (AlreadyExistsError, AbortedError):
                pass
            if turn % 4 == 0:
                with contextlib.suppress(NotFoundError):
                    await world.content.delete(namespace, digest)

    collector = asyncio.create_task(collect())
    await asyncio.gather(*(work(number) for number in range(6)))
    finished.set()
    await collector
    for namespace in ("ns0", "ns1"):
        async for info in world.content.walk(Scope(namespace)):
            assert (
                Digest.of(await world.content.read_at(Scope(namespace), info.digest, 0, 9999)) == info.digest
            )
    # The collector may have ended before what was committed last, some of which it is yet to take.
    await world.collector.collect()
    known = await world.rows("SELECT DISTINCT digest FROM content")
    assert {str(blob.digest) for blob in world.blobs.walk()} == {digest for (digest,) in known}
