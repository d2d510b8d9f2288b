"""The database: what a write promises, who may have the file, what happens to a damaged one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.errors import (
    DataLossError,
    FailedPreconditionError,
    HybridError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from containerd_hybrid.metadata.api import Transaction
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.testing.waiting import until_async


def insert(name: str, then: Callable[[Transaction], Any] = lambda tx: None) -> Callable[[Transaction], str]:
    """A write that makes a namespace; the least there is."""

    def work(tx: Transaction) -> str:
        tx.connection.execute(
            "INSERT INTO namespaces (name, created_at, updated_at) VALUES (?, 1, 1)", (name,)
        )
        then(tx)
        return name

    return work


async def under_way(database: SqliteDatabase, name: str, gate: threading.Event) -> asyncio.Task[str]:
    """A write that has begun, and ends when ``gate`` is set."""
    begun = threading.Event()

    def hold(tx: Transaction) -> None:
        begun.set()
        gate.wait(60)

    task = asyncio.create_task(database.write(insert(name, hold)))
    await asyncio.to_thread(begun.wait, 60)
    return task


async def names(database: SqliteDatabase) -> list[str]:
    return await database.read(
        lambda connection: [row[0] for row in connection.execute("SELECT name FROM namespaces ORDER BY name")]
    )


async def test_a_write_returns_its_result_and_a_read_sees_it(database: SqliteDatabase) -> None:
    assert await database.write(insert("a")) == "a"
    assert await names(database) == ["a"]


async def test_only_the_write_that_raises_is_undone(database: SqliteDatabase) -> None:
    def fail(tx: Transaction) -> None:
        raise NotFoundError("no")

    results = await asyncio.gather(
        *(database.write(insert(f"n{i}", fail if i % 3 == 0 else lambda tx: None)) for i in range(30)),
        return_exceptions=True,
    )
    failed = [i for i, result in enumerate(results) if isinstance(result, NotFoundError)]
    assert failed == list(range(0, 30, 3))
    assert await names(database) == sorted(f"n{i}" for i in range(30) if i % 3)


async def test_writes_that_wait_share_a_transaction_and_keep_their_order(database: SqliteDatabase) -> None:
    gate = threading.Event()
    transactions: list[int] = []
    database.on_commit(lambda writes, deletions: transactions.append(writes))
    first = await under_way(database, "first", gate)
    order: list[int] = []

    def note(number: int) -> Callable[[Transaction], None]:
        return lambda tx: tx.after_commit(lambda: order.append(number))

    others = [asyncio.create_task(database.write(insert(f"n{i}", note(i)))) for i in range(20)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *others)
    assert transactions == [1, 20]
    assert order == list(range(20))


async def test_actions_run_on_the_loop_when_the_write_is_durable_and_before_it_returns(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []

    def look() -> None:
        # Another connection sees committed rows only.
        with contextlib.closing(sqlite3.connect(tmp_path / "meta.db")) as other:
            (count,) = other.execute("SELECT count(*) FROM namespaces").fetchone()
        seen.append((threading.get_ident(), count))

    await database.write(insert("a", lambda tx: tx.after_commit(look)))
    assert seen == [(threading.get_ident(), 1)]


async def test_actions_of_a_failed_write_do_not_run(database: SqliteDatabase) -> None:
    ran: list[str] = []

    def work(tx: Transaction) -> None:
        tx.after_commit(lambda: ran.append("ran"))
        raise NotFoundError("no")

    with pytest.raises(NotFoundError):
        await database.write(work)
    assert ran == []


async def test_an_action_that_fails_spoils_neither_the_write_nor_the_next_action(
    database: SqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    def actions(tx: Transaction) -> None:
        tx.after_commit(lambda: 1 // 0)  # type: ignore[arg-type]
        tx.after_commit(lambda: ran.append("second"))

    assert await database.write(insert("a", actions)) == "a"
    assert ran == ["second"]
    assert "ZeroDivisionError" in caplog.text


async def test_listeners_hear_of_writes_and_deletions(database: SqliteDatabase) -> None:
    heard: list[tuple[int, int]] = []
    database.on_commit(lambda writes, deletions: heard.append((writes, deletions)))
    await database.write(insert("a"))
    await database.write(lambda tx: tx.mark_dirty())
    with pytest.raises(InternalError):
        await database.write(lambda tx: tx.connection.execute("nonsense"))
    assert heard == [(1, 0), (1, 1)]


async def test_cancelling_waits_until_the_write_is_settled(database: SqliteDatabase) -> None:
    gate = threading.Event()
    published: list[str] = []

    def slow(tx: Transaction) -> None:
        gate.wait(60)
        tx.after_commit(lambda: published.append("event"))

    task = asyncio.create_task(database.write(insert("a", slow)))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()  # a second time, as an impatient shutdown does
    await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(database) == ["a"]
    assert published == ["event"]


async def test_a_read_sees_one_state(database: SqliteDatabase) -> None:
    between, resume = threading.Event(), threading.Event()

    def twice(connection: sqlite3.Connection) -> tuple[int, int]:
        (before,) = connection.execute("SELECT count(*) FROM namespaces").fetchone()
        between.set()
        resume.wait(60)
        (after,) = connection.execute("SELECT count(*) FROM namespaces").fetchone()
        return before, after

    reading = asyncio.create_task(database.read(twice))
    await asyncio.to_thread(between.wait, 60)
    await database.write(insert("a"))
    resume.set()
    assert await reading == (0, 0)
    assert await names(database) == ["a"]


async def test_a_read_cannot_write(database: SqliteDatabase) -> None:
    with pytest.raises(UnavailableError, match="readonly"):
        await database.read(lambda connection: connection.execute("DELETE FROM namespaces"))


async def test_reads_do_not_wait_for_a_write(database: SqliteDatabase) -> None:
    gate = threading.Event()
    writing = await under_way(database, "a", gate)
    assert await names(database) == []
    gate.set()
    await writing


async def test_work_that_ends_its_transaction_is_a_bug_and_harms_no_later_write(
    database: SqliteDatabase,
) -> None:
    gate = threading.Event()
    first = await under_way(database, "first", gate)
    results = [
        asyncio.create_task(database.write(work))
        for work in (insert("lost"), insert("rogue", lambda tx: tx.connection.rollback()), insert("kept"))
    ]
    await asyncio.sleep(0)
    gate.set()
    await first
    lost, rogue, kept = await asyncio.gather(*results, return_exceptions=True)
    # What shared the transaction is not acknowledged, because it is gone.
    assert isinstance(lost, InternalError)
    assert isinstance(rogue, InternalError)
    assert kept == "kept"
    assert await names(database) == ["first", "kept"]


async def test_stop_iteration_reaches_the_caller_as_a_bug(database: SqliteDatabase) -> None:
    with pytest.raises(InternalError, match="StopIteration"):
        await database.write(lambda tx: next(iter(())))


async def test_a_full_disk_is_told_and_the_next_write_works(database: SqliteDatabase) -> None:
    def limit(pages: int) -> Callable[[Transaction], None]:
        return lambda tx: tx.connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await database.write(limit(1))  # SQLite takes the present size as the least
    with pytest.raises(ResourceExhaustedError, match="no space left"):
        await database.write(
            lambda tx: tx.connection.execute(
                "INSERT INTO namespaces VALUES ('big', ?, 1, 1)", ("x" * 1_000_000,)
            )
        )
    await database.write(limit(1_000_000))
    await database.write(insert("a"))
    assert await names(database) == ["a"]


async def test_closing_finishes_queued_writes_and_refuses_later_ones(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "meta.db")
    await database.open()
    queued = [asyncio.create_task(database.write(insert(f"n{i}"))) for i in range(50)]
    await asyncio.sleep(0)
    await database.close()
    assert len(await asyncio.gather(*queued)) == 50
    with pytest.raises(UnavailableError, match="not open"):
        await database.write(insert("late"))
    with pytest.raises(UnavailableError, match="not open"):
        await names(database)
    await database.close()
    async with SqliteDatabase(tmp_path / "meta.db") as again:
        assert len(await names(again)) == 50
    assert not (tmp_path / "meta.db-wal").exists()


async def test_it_can_be_opened_again(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "meta.db")
    for count in range(3):
        async with database:
            await database.write(insert(f"n{count}"))
            assert len(await names(database)) == count + 1


async def test_a_second_process_is_refused_with_the_first_ones_pid(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    script = (
        "import asyncio, sys\n"
        "from containerd_hybrid.errors import FailedPreconditionError\n"
        "from containerd_hybrid.metadata.database import SqliteDatabase\n"
        "try:\n    asyncio.run(SqliteDatabase(sys.argv[1]).open())\n"
        "except FailedPreconditionError as error:\n    print(error.message)\n"
    )
    other = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, str(tmp_path / "meta.db")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"in use by another process (pid {os.getpid()})" in other.stdout
    assert str(tmp_path / "meta.db") in other.stdout


async def test_one_process_cannot_open_it_twice_and_a_failed_open_frees_it(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "meta.db")
    async with database:
        with pytest.raises(FailedPreconditionError, match="open already"):
            await database.open()
        with pytest.raises(FailedPreconditionError, match="in use"):
            await SqliteDatabase(tmp_path / "meta.db").open()
    (tmp_path / "meta.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DataLossError):
        await database.open()
    (tmp_path / "meta.db").unlink()
    async with database:
        assert await names(database) == []


async def test_only_the_owner_may_read_the_file(database: SqliteDatabase, tmp_path: Path) -> None:
    await database.write(insert("a"))
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


async def test_the_log_is_copied_into_the_file_when_nobody_writes(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    def in_the_file() -> int:
        # Immutable: the log is not looked at. Until the first copy the file is empty, in the middle of
        # one it makes no sense.
        with (
            contextlib.closing(sqlite3.connect(f"file:{tmp_path / 'meta.db'}?immutable=1", uri=True)) as file,
            contextlib.suppress(sqlite3.DatabaseError),
        ):
            return int(file.execute("SELECT count(*) FROM namespaces").fetchone()[0])
        return 0

    for number in range(20):
        await database.write(insert(f"n{number}"))
    await until_async(lambda: in_the_file() == 20)


@pytest.mark.parametrize("damage", ["header", "schema"])
async def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "meta.db"
    async with SqliteDatabase(path) as database:
        await database.write(insert("a"))
    content = bytearray(path.read_bytes())
    start, end = (0, 16) if damage == "header" else (100, 4096)
    content[start:end] = random.Random(7).randbytes(end - start)
    path.write_bytes(content)
    with pytest.raises(DataLossError, match="restore the file from a backup") as raised:
        await SqliteDatabase(path).open()
    assert str(path) in raised.value.message


async def test_damage_deep_in_the_file_is_found_by_the_check(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    async with SqliteDatabase(path) as database:
        await database.write(
            lambda tx: tx.connection.executemany(
                "INSERT INTO namespaces VALUES (?, ?, 1, 1)",
                [(f"n{number}", "x" * 3000) for number in range(50)],
            )
        )
        assert await database.check() == []
        assert await database.check(quick=True) == []
    content = bytearray(path.read_bytes())
    for page in range(len(content) // 4096 - 20, len(content) // 4096):
        content[page * 4096 : page * 4096 + 200] = bytes(200)
    path.write_bytes(content)
    async with SqliteDatabase(path) as database:
        assert await database.check() != []
        with pytest.raises(DataLossError):
            await database.read(
                lambda connection: connection.execute("SELECT sum(length(labels)) FROM namespaces").fetchall()
            )


async def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "meta.db").mkdir()
    with pytest.raises(HybridError, match=r"cannot open .*/meta\.db: Is a directory"):
        await SqliteDatabase(tmp_path / "meta.db").open()
