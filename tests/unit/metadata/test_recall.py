"""What is remembered of the database is never older than the last write that was acknowledged."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from containerd_hybrid.errors import NotFoundError, UnavailableError
from containerd_hybrid.metadata.api import Transaction
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.recall import Recall


class Counted:
    """A read of the number of namespaces that knows how often it was made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, connection: sqlite3.Connection) -> int:
        self.made += 1
        number: int = connection.execute("SELECT count(*) FROM namespaces").fetchone()[0]
        return number


def add(name: str) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        tx.connection.execute(
            "INSERT INTO namespaces (name, created_at, updated_at) VALUES (?, 1, 1)", (name,)
        )

    return work


async def test_it_is_read_once_until_something_is_written(tmp_path: Path) -> None:
    read = Counted()
    async with SqliteDatabase(tmp_path / "meta.db") as database:
        await database.write(add("a"))
        assert [await database.recall("k", read) for _ in range(3)] == [1, 1, 1]
        assert read.made == 1
        await database.write(add("b"))
        assert [await database.recall("k", read) for _ in range(3)] == [2, 2, 2]
        assert read.made == 2


async def test_while_a_write_is_under_way_nothing_is_known_and_nothing_is_kept(tmp_path: Path) -> None:
    read, begun, gate = Counted(), threading.Event(), threading.Event()

    def held(tx: Transaction) -> None:
        add("b")(tx)
        begun.set()
        assert gate.wait(120)

    async with SqliteDatabase(tmp_path / "meta.db") as database:
        await database.write(add("a"))
        assert await database.recall("k", read) == 1
        writing = asyncio.create_task(database.write(held))
        assert await asyncio.to_thread(begun.wait, 120)
        try:
            assert [await database.recall("k", read) for _ in range(2)] == [1, 1]
            assert read.made == 3
        finally:
            gate.set()
        await writing
        assert await database.recall("k", read) == 2


async def test_a_write_that_failed_leaves_what_was_there(tmp_path: Path) -> None:
    read = Counted()

    def fails(tx: Transaction) -> None:
        add("b")(tx)
        raise NotFoundError("no")

    async with SqliteDatabase(tmp_path / "meta.db") as database:
        await database.write(add("a"))
        assert await database.recall("k", read) == 1
        with pytest.raises(NotFoundError):
            await database.write(fails)
        assert await database.recall("k", read) == 1


async def test_what_was_not_found_is_looked_for_again(tmp_path: Path) -> None:
    def missing(_: sqlite3.Connection) -> int:
        raise NotFoundError("no")

    async with SqliteDatabase(tmp_path / "meta.db") as database:
        with pytest.raises(NotFoundError):
            await database.recall("k", missing)
        assert await database.recall("k", Counted()) == 0


async def test_a_closed_database_knows_nothing(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "meta.db")
    await database.open()
    await database.write(add("a"))
    assert await database.recall("k", Counted()) == 1
    await database.close()
    with pytest.raises(UnavailableError):
        await database.recall("k", Counted())


def test_a_read_that_a_write_overtook_is_not_kept() -> None:
    recall = Recall()
    state = recall.state
    recall.begin_write()
    recall.end_write()
    recall.keep("k", "old", state)
    assert recall.get("k") is None
    recall.keep("k", "new", recall.state)
    assert recall.get("k") == "new"
    recall.begin_write()
    assert recall.get("k") is None
    recall.keep("k", "newer", recall.state)
    recall.end_write()
    assert recall.get("k") is None


def test_the_oldest_make_room() -> None:
    recall = Recall()
    for number in range(3000):
        recall.keep(number, str(number), recall.state)
    known = [number for number in range(3000) if recall.get(number) is not None]
    assert known == list(range(3000 - len(known), 3000))
    assert 0 < len(known) < 3000
