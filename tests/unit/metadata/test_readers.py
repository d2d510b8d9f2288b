"""The threads that read: results and errors find their callers, whatever else goes on."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator

import pytest

from containerd_hybrid.errors import InternalError, NotFoundError
from containerd_hybrid.metadata.readers import Readers


@pytest.fixture
def readers() -> Iterator[Readers]:
    made = Readers(lambda: sqlite3.connect(":memory:", isolation_level=None), 3, lambda error: error)
    yield made
    made.close()


async def test_each_caller_gets_what_it_asked_for(readers: Readers) -> None:
    reads = [readers.submit(lambda c, n=n: c.execute("SELECT ?", (n,)).fetchone()[0]) for n in range(500)]
    assert await asyncio.gather(*reads) == list(range(500))


async def test_an_error_is_its_callers_alone(readers: Readers) -> None:
    def failing(_: sqlite3.Connection) -> None:
        raise NotFoundError("no such thing")

    def stopping(_: sqlite3.Connection) -> None:
        raise StopIteration

    reads = [readers.submit(work) for work in (failing, lambda _: "fine", stopping, lambda c: c.execute("x"))]
    failed, fine, stopped, wrong = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(failed, NotFoundError)
    assert fine == "fine"
    assert isinstance(stopped, InternalError)
    assert isinstance(wrong, sqlite3.OperationalError)


async def test_a_read_is_one_transaction(readers: Readers) -> None:
    assert await readers.submit(lambda c: c.in_transaction)


async def test_a_long_read_holds_no_other_up(readers: Readers) -> None:
    release = threading.Event()
    long = readers.submit(lambda _: release.wait())
    try:
        for number in range(100):
            assert await readers.submit(lambda _, n=number: n) == number
    finally:
        release.set()
    await long


async def test_no_more_threads_than_allowed(readers: Readers) -> None:
    release = threading.Event()
    names: set[str] = set()

    def note(_: sqlite3.Connection) -> None:
        names.add(threading.current_thread().name)
        release.wait()

    reads = [readers.submit(note) for _ in range(20)]
    while len(names) < 3:
        await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*reads)
    assert len(names) == 3


async def test_a_caller_that_is_cancelled_takes_nobody_with_it(readers: Readers) -> None:
    release = threading.Event()
    given_up = readers.submit(lambda _: release.wait())
    given_up.cancel()
    other = readers.submit(lambda _: "other")
    release.set()
    assert await other == "other"
    with pytest.raises(asyncio.CancelledError):
        await given_up


async def test_what_is_queued_is_finished_by_close(readers: Readers) -> None:
    reads = [readers.submit(lambda _, n=n: n) for n in range(50)]
    await asyncio.to_thread(readers.close)
    assert await asyncio.gather(*reads) == list(range(50))
