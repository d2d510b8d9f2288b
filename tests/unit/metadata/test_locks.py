"""Blob locks: one holder for each digest, and nothing kept afterwards."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.metadata.support import digest_of

from containerd_hybrid.metadata.locks import BlobLocks

ONE, TWO = digest_of("one"), digest_of("two")


async def test_one_holder_at_a_time_in_the_order_of_arrival() -> None:
    locks, order = BlobLocks(), []

    async def hold(number: int) -> None:
        async with locks.hold(ONE):
            order.append(number)
            await asyncio.sleep(0.001)
            order.append(number)

    await asyncio.gather(*(hold(number) for number in range(5)))
    assert order == [number for number in range(5) for _ in range(2)]


async def test_other_digests_do_not_wait() -> None:
    locks = BlobLocks()
    async with locks.hold(ONE), locks.hold(TWO):
        assert len(locks._locks) == 2


async def test_nothing_is_kept_also_after_errors_and_cancelled_waits() -> None:
    locks = BlobLocks()

    async def wait() -> None:
        async with locks.hold(ONE):
            raise AssertionError("it was cancelled")

    async def fail() -> None:
        async with locks.hold(ONE):
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        await fail()
    assert locks._locks == {}


async def test_many_are_held_at_once_and_given_back_also_when_one_has_to_be_waited_for() -> None:
    locks = BlobLocks()

    async def all_of_them() -> None:
        async with locks.hold_all((ONE, TWO)):
            raise AssertionError("it was cancelled")

    async with locks.hold(TWO):
        waiting = asyncio.create_task(all_of_them())
        await asyncio.sleep(0)
        assert locks._locks[ONE][0].locked()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert list(locks._locks) == [TWO]
    async with locks.hold_all((ONE, TWO)):
        assert all(lock.locked() for lock, _ in locks._locks.values())
    assert locks._locks == {}
