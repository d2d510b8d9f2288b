"""Migrations: each with its record, in order, and never backwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from containerd_hybrid.errors import FailedPreconditionError, InternalError
from containerd_hybrid.metadata.migrate import Migration, bundled_migrations, migrate

FIRST = Migration(
    1, "first", "CREATE TABLE one (a TEXT); -- a comment; with a semicolon\nCREATE TABLE two (b);"
)
SECOND = Migration(
    2,
    "second",
    """
    CREATE TRIGGER keep AFTER INSERT ON one BEGIN
        INSERT INTO two VALUES (new.a);
        DELETE FROM one;
    END;
    INSERT INTO one VALUES ('x');
    -- the end
    """,
)
BROKEN = Migration(2, "broken", "CREATE TABLE three (c); CREATE TABLE one (a);")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    yield opened
    opened.close()


def tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_an_empty_file_gets_all_and_a_second_run_does_nothing(connection: sqlite3.Connection) -> None:
    assert migrate(connection, "meta.db", [FIRST, SECOND]) == ["0001_first", "0002_second"]
    assert migrate(connection, "meta.db", [FIRST, SECOND]) == []
    assert connection.execute("SELECT b FROM two").fetchall() == [("x",)]
    assert connection.execute("SELECT version, name FROM migrations").fetchall() == [
        (1, "first"),
        (2, "second"),
    ]


def test_a_file_of_an_older_release_gets_what_is_missing(connection: sqlite3.Connection) -> None:
    migrate(connection, "meta.db", [FIRST])
    assert migrate(connection, "meta.db", [FIRST, SECOND]) == ["0002_second"]


def test_a_migration_that_fails_leaves_nothing(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, "meta.db", [FIRST, BROKEN])
    assert tables(connection) == {"migrations", "one", "two"}
    assert migrate(connection, "meta.db", [FIRST, SECOND]) == ["0002_second"]


def test_a_file_of_a_newer_release_is_refused_and_not_touched(connection: sqlite3.Connection) -> None:
    migrate(connection, "meta.db", [FIRST, SECOND])
    with pytest.raises(FailedPreconditionError, match=r"meta\.db was written by a newer release \(schema 2"):
        migrate(connection, "meta.db", [FIRST])
    assert tables(connection) == {"migrations", "one", "two"}


def test_another_programs_database_is_refused(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(FailedPreconditionError, match="another program"):
        migrate(connection, "places.db", [FIRST])
    assert tables(connection) == {"bookmarks"}


def test_half_a_statement_is_refused(connection: sqlite3.Connection) -> None:
    with pytest.raises(InternalError, match="CREATE TABLE three"):
        migrate(connection, "meta.db", [Migration(1, "half", "CREATE TABLE three (c)\n")])


def test_the_bundled_ones_are_numbered_and_make_the_schema(connection: sqlite3.Connection) -> None:
    assert [migration.version for migration in bundled_migrations()] == list(
        range(1, len(bundled_migrations()) + 1)
    )
    migrate(connection, "meta.db")
    assert {"namespaces", "images", "containers", "content", "snapshots", "leases", "refs"} <= tables(
        connection
    )
