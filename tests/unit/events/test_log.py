"""The log of events: numbers without gaps, bounds, readers that miss nothing or are told."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from containerd_hybrid.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidFilterError,
    NotFoundError,
    OutOfRangeError,
    ResourceExhaustedError,
)
from containerd_hybrid.events.api import CaughtUp, Envelope, From, ImageCreate, Recorded
from containerd_hybrid.events.encode import encode
from containerd_hybrid.events.exchange import Exchange
from containerd_hybrid.events.log import SqliteEventLog


def envelope(number: int, namespace: str = "n") -> Envelope:
    return Envelope(number, namespace, "/images/create", encode(ImageCreate(f"image-{number}")))


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    log = SqliteEventLog(tmp_path / "events.db")
    await log.open()
    yield log
    await log.close()


async def replayed(log: SqliteEventLog, start: From = From(), *filters: str) -> list[int]:  # noqa: B008
    """The numbers of what is kept."""
    async with aclosing(log.replay(start, filters)) as items:
        return [item.sequence async for item in items if isinstance(item, Recorded)]


async def following(log: SqliteEventLog, start: From, until: int) -> list[int]:
    """The numbers that a follower is told, up to one."""
    numbers = []
    async with aclosing(log.replay(start, follow=True)) as items:
        async for item in items:
            if isinstance(item, Recorded):
                numbers.append(item.sequence)
                if item.sequence == until:
                    break
    return numbers


async def test_what_was_appended_comes_back_as_it_was(log: SqliteEventLog) -> None:
    sent = [envelope(number) for number in range(1, 6)]
    assert [log.append(one) for one in sent] == [1, 2, 3, 4, 5]
    async with aclosing(log.replay(From())) as items:
        found = [item async for item in items]
    assert found == [*(Recorded(i + 1, one) for i, one in enumerate(sent)), CaughtUp(5)]


async def test_settled_means_written(log: SqliteEventLog) -> None:
    log.append(envelope(1))
    await log.settled()
    assert log.written == log.last == 1


async def test_numbers_go_on_in_the_next_process(tmp_path: Path) -> None:
    for first in (1, 11):
        log = SqliteEventLog(tmp_path / "events.db")
        await log.open()
        assert log.last == first - 1
        assert [log.append(envelope(n)) for n in range(10)] == list(range(first, first + 10))
        await log.close()
    log = SqliteEventLog(tmp_path / "events.db")
    await log.open()
    assert await replayed(log, From(after=7)) == list(range(8, 21))
    await log.close()


async def test_a_follower_goes_from_the_past_to_the_present_without_gap_or_doubling(
    log: SqliteEventLog,
) -> None:
    for number in range(1, 601):
        log.append(envelope(number))
    followers = [asyncio.create_task(following(log, From(after=after), 1200)) for after in (0, 250, 599, 600)]
    for number in range(601, 1201):
        log.append(envelope(number))
        if number % 7 == 0:
            await asyncio.sleep(0)
        if number % 200 == 0:
            await log.settled()
    results = await asyncio.gather(*followers)
    assert results == [list(range(after + 1, 1201)) for after in (0, 250, 599, 600)]


async def test_a_reader_that_does_not_read_costs_no_memory_and_misses_nothing(tmp_path: Path) -> None:
    """It begins before far more than is kept in memory, and reads only afterwards."""
    log = SqliteEventLog(tmp_path / "events.db")
    await log.open()
    slow = log.replay(From(), follow=True)
    assert await anext(slow) == CaughtUp(0)
    for number in range(1, 10_001):
        log.append(envelope(number))
        if number % 1000 == 0:
            await log.settled()
    assert len(log._recent) < 10_000
    found = [await anext(slow) for _ in range(10_000)]
    assert [item.sequence for item in found] == list(range(1, 10_001))
    await slow.aclose()
    await log.close()


async def test_filters_choose_and_a_wrong_one_is_refused_at_once(log: SqliteEventLog) -> None:
    for number in range(1, 5):
        log.append(envelope(number, "even" if number % 2 == 0 else "odd"))
    assert await replayed(log, From(), "namespace==even") == [2, 4]
    assert await replayed(log, From(), "event.name==image-3", "namespace==even") == [2, 3, 4]
    with pytest.raises(InvalidFilterError):
        log.replay(From(), ["namespace=="])


async def test_from_a_time(tmp_path: Path) -> None:
    clock = iter(range(1000, 2000, 100))
    log = SqliteEventLog(tmp_path / "events.db", max_age=0, clock=lambda: next(clock))
    await log.open()
    for number in range(1, 6):
        log.append(envelope(number))
    assert await replayed(log, From(since=1200)) == [3, 4, 5]
    assert await replayed(log, From(since=1201)) == [4, 5]
    assert await replayed(log, From(since=9999)) == []
    await log.close()


async def test_too_large_a_log_loses_its_oldest_events_and_readers_are_told(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = SqliteEventLog(path, max_bytes=50_000)
    await log.open()
    slow = log.replay(From(), follow=True)
    await anext(slow)
    for number in range(1, 5001):
        log.append(envelope(number))
        if number % 100 == 0:
            await log.settled()
    log._recent.clear()  # as if it had been longer ago
    status = await log.status()
    assert (status.last, status.max_bytes) == (5000, 50_000)
    assert 0 < status.bytes <= 50_000
    assert status.first > 1
    assert await replayed(log) == list(range(status.first, 5001))
    with pytest.raises(OutOfRangeError, match=rf"events 1 to {status.first - 1} are no longer kept"):
        await anext(slow)
    with pytest.raises(OutOfRangeError, match="events 3 to"):
        await replayed(log, From(after=2))
    assert (await replayed(log, From(after=status.first - 1)))[0] == status.first
    await log.close()
    assert path.stat().st_size < 1 << 20


async def test_old_events_go_but_the_newest_keeps_its_number(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = SqliteEventLog(path, max_age=0, clock=lambda: time.time_ns() - 3600 * 10**9)
    await log.open()
    for number in range(5):
        log.append(envelope(number))
    await log.close()
    log = SqliteEventLog(path, max_age=60)
    await log.open()
    assert await replayed(log) == [5]
    assert log.append(envelope(6)) == 6
    await log.close()


async def test_a_number_of_the_future_or_of_another_log_is_refused(log: SqliteEventLog) -> None:
    log.append(envelope(1))
    with pytest.raises(OutOfRangeError, match="no event has number 2 yet: the newest is 1"):
        await replayed(log, From(after=2))
    with pytest.raises(NotFoundError, match="event log other is not here"):
        await replayed(log, From(after=1, log="other"))
    assert await replayed(log, From(log=(await log.status()).id)) == [1]


async def test_a_disk_that_takes_nothing_for_a_while_loses_nothing(
    log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, full = log._file.write, True

    def fails(rows: object) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        write(rows)

    monkeypatch.setattr(log._file, "write", fails)
    log.append(envelope(1))
    await log.settled()
    assert (log.written, log.last) == (0, 1)
    assert "disk is full" in str([vars(record).get("error") for record in caplog.records])
    full = False
    log.append(envelope(2))
    assert await following(log, From(), 2) == [1, 2]


async def test_whatever_goes_wrong_in_writing_nobody_waits_for_ever(
    log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, broken = log._file.write, True

    def fails(rows: object) -> None:
        if broken:
            raise MemoryError
        write(rows)

    monkeypatch.setattr(log._file, "write", fails)
    log.append(envelope(1))
    await log.settled()
    broken = False
    log.append(envelope(2))
    assert await following(log, From(), 2) == [1, 2]


async def test_events_that_had_to_be_given_up_are_told_of(
    log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = log._file.write, True

    def fails(rows: object) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        write(rows)

    log.append(envelope(1))
    await log.settled()
    monkeypatch.setattr(log._file, "write", fails)
    monkeypatch.setattr("containerd_hybrid.events.log._PENDING_BYTES", 200)
    for number in range(2, 6):
        log.append(envelope(number))
        await log.settled()
    full = False
    log.append(envelope(6))
    while log.written < 6:
        await asyncio.sleep(0.01)
    log._recent.clear()
    reader = log.replay(From())
    assert (await anext(reader)).sequence == 1
    with pytest.raises(DataLossError, match="events after 1 could not be written"):
        await anext(reader)


async def test_closing_ends_followers_and_writes_what_is_pending(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "events.db")
    await log.open()
    follower = asyncio.create_task(following(log, From(), 10))
    while not log._news._waiters:
        await asyncio.sleep(0)
    log.append(envelope(1))
    await log.close()
    assert set(await follower) <= {1}
    log = SqliteEventLog(tmp_path / "events.db")
    await log.open()
    assert await replayed(log) == [1]
    await log.close()


async def test_the_file_is_for_its_owner_only(log: SqliteEventLog, tmp_path: Path) -> None:
    log.append(envelope(1))
    await log.settled()
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_damaged_file_and_one_of_a_newer_release_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(b"this is no database, however long one looks at it" * 100)
    with pytest.raises(DataLossError, match="move it away"):
        await SqliteEventLog(path).open()
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(FailedPreconditionError, match="newer release"):
        await SqliteEventLog(path).open()


async def test_the_exchange_records_everything_and_names_the_place_to_go_on_from(log: SqliteEventLog) -> None:
    exchange = Exchange(log, queue_bytes=1000)
    exchange.publish("n", ImageCreate("first"))  # nobody listens
    async with exchange.subscribe() as events:
        for _ in range(20):
            exchange.publish("n", ImageCreate("x"))
        seen = 0
        with pytest.raises(ResourceExhaustedError, match="replay the event log") as told:  # noqa: PT012
            while await anext(events):
                seen += 1
    after = int(str(told.value).rpartition(" ")[2])
    assert after == 1 + seen
    assert await replayed(log, From(after=after)) == list(range(after + 1, 22))
