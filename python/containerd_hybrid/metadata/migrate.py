"""Bringing a database to this release's schema: files ``migrations/NNNN_name.sql``, in order.

A migration and its record share one transaction, so a crash leaves either both or neither.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from containerd_hybrid.errors import FailedPreconditionError, InternalError

# "chyb": lets `file` and a person tell our database from another program's.
APPLICATION_ID = 0x63687962

_RECORD = """
CREATE TABLE IF NOT EXISTS migrations (
    version     INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    applied_at  INTEGER NOT NULL
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """``version`` counts from 1 without gaps; ``script`` is SQL without BEGIN and COMMIT."""

    version: int
    name: str
    script: str


def bundled_migrations() -> tuple[Migration, ...]:
    """The migrations this release knows, lowest first."""
    found = []
    # Beside this file, which is no place in an archive: importlib.resources would cost every start more.
    for file in (Path(__file__).parent / "migrations").iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    versions = [migration.version for migration in found]
    if versions != list(range(1, len(found) + 1)):
        raise InternalError(f"migrations are not numbered 1 … n: {versions}")
    return tuple(found)


def migrate(
    connection: sqlite3.Connection, path: str, migrations: Sequence[Migration] | None = None
) -> list[str]:
    """Apply what is missing and return the names of what was applied.

    ``connection`` must be in autocommit mode; ``path`` is for messages.

    Raises:
        FailedPreconditionError: the file belongs to a newer release or to another program.
    """
    known = bundled_migrations() if migrations is None else tuple(migrations)
    _refuse_foreign(connection, path)
    applied = []
    with _transaction(connection):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(_RECORD)
    (present,) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
    newest = known[-1].version if known else 0
    if present > newest:
        raise FailedPreconditionError(
            f"{path} was written by a newer release (schema {present}, this release knows up to {newest}): "
            "install that release again, or start with another root"
        )
    for migration in known[present:]:
        with _transaction(connection):
            for statement in _statements(migration.script):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations (version, name, applied_at) VALUES (?, ?, ?)",
                (migration.version, migration.name, time.time_ns()),
            )
        applied.append(f"{migration.version:04}_{migration.name}")
    return applied


def _refuse_foreign(connection: sqlite3.Connection, path: str) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application != 0 or tables):
        raise FailedPreconditionError(
            f"{path} is a SQLite database of another program: move it away, or start with another root"
        )


class _transaction:  # noqa: N801 - reads as a statement
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK when the body raises."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._connection.execute("ROLLBACK" if kind else "COMMIT")


def _statements(script: str) -> Iterator[str]:
    # sqlite3's executescript would commit the transaction the record must share.
    start = 0
    for semicolon in re.finditer(";", script):
        statement = script[start : semicolon.end()]
        # Not within a comment, a string, or a trigger's body.
        if sqlite3.complete_statement(statement):
            yield statement
            start = semicolon.end()
    rest = [
        line for line in script[start:].splitlines() if line.strip() and not line.lstrip().startswith("--")
    ]
    if rest:
        raise InternalError(f"a migration ends within a statement: {rest[0]!r}")
