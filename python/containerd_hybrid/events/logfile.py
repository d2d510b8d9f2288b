"""The file of the event log. Nothing here knows an event loop; one thread writes, any may read."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from containerd_hybrid.errors import DataLossError, FailedPreconditionError, UnavailableError, error_for_os
from containerd_hybrid.events.api import Envelope, LogStatus, Recorded
from containerd_hybrid.model.any import AnyValue

_VERSION = 1
_SCHEMA = """
CREATE TABLE log (id TEXT NOT NULL) STRICT;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    recorded INTEGER NOT NULL, -- Unix nanoseconds of this machine's clock
    timestamp INTEGER NOT NULL, -- the event's own
    namespace TEXT NOT NULL,
    topic TEXT NOT NULL,
    type TEXT NOT NULL,
    value BLOB NOT NULL,
    size INTEGER NOT NULL
) STRICT;
-- With the size, so that their sum is known at the start without reading the events.
CREATE INDEX events_recorded ON events (recorded, size);
"""
# A row's share of a page and of the index, beside its texts and bytes.
_OVERHEAD_BYTES = 64
_BUSY_SECONDS = 10
# Bounds are looked after when a file has outgrown its size, and once in this many seconds for its age.
_AGE_CHECK_SECONDS = 60.0
# Below the bound, so that not every group of events removes a few.
_SHRINK_TO = 0.9
_PRUNED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """An event on its way into the file."""

    sequence: int
    recorded: int
    envelope: Envelope
    size: int


def size_of(envelope: Envelope) -> int:
    """What an event counts for the bound, in bytes."""
    return (
        _OVERHEAD_BYTES
        + len(envelope.namespace)
        + len(envelope.topic)
        + len(envelope.event.type_url)
        + len(envelope.event.value)
    )


class LogFile:
    """``max_age`` is seconds; a bound of 0 is none."""

    def __init__(self, path: Path, *, max_bytes: int, max_age: float, sync: bool) -> None:
        self.path = path
        self.id = ""
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._sync = sync
        self._bytes = 0
        self._age_checked = 0.0
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._reading = threading.Lock()

    def open(self) -> int:
        """Open or make the file; the number of its newest event.

        Raises:
            DataLossError: it is damaged.
            FailedPreconditionError: a newer release wrote it.
            HybridError: it cannot be opened.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Labels are nobody else's business; SQLite gives its side files the same mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise error_for_os(error, f"open {self.path}") from error
        try:
            return self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError):
                raise UnavailableError(f"{self.path}: {error}") from error
            if isinstance(error, sqlite3.DatabaseError):
                raise DataLossError(
                    f"{self.path} is damaged ({error}): move it away, a new log is begun then"
                ) from error
            raise

    def _open(self) -> int:
        writer = self._writer = self._connect()
        (version,) = writer.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise FailedPreconditionError(
                f"{self.path} was written by a newer release (version {version}, this one knows {_VERSION})"
            )
        if version == 0:
            # Before the first table, or it does nothing.
            writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # First, because making the file would wait for the disk else.
        writer.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'NORMAL'}")
        writer.execute("PRAGMA journal_mode = WAL")
        if version == 0:
            writer.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
            writer.execute("INSERT INTO log (id) VALUES (?)", (str(uuid.uuid4()),))
        (self.id,) = writer.execute("SELECT id FROM log").fetchone()
        (self._bytes,) = writer.execute("SELECT coalesce(sum(size), 0) FROM events").fetchone()
        (last,) = writer.execute("SELECT coalesce(max(sequence), 0) FROM events").fetchone()
        self._prune()
        self._reader = self._connect()
        return int(last)

    def _connect(self) -> sqlite3.Connection:
        # Transactions are begun by hand; the reader is used by one thread at a time.
        return sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )

    def close(self) -> None:
        """Closing twice is harmless."""
        with self._reading:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._reader = self._writer = None

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows in one transaction, then remove what is beyond the bounds."""
        assert self._writer is not None
        values = [
            (
                row.sequence,
                row.recorded,
                row.envelope.timestamp,
                row.envelope.namespace,
                row.envelope.topic,
                row.envelope.event.type_url,
                row.envelope.event.value,
                row.size,
            )
            for row in rows
        ]
        with self._transaction():
            self._writer.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        self._bytes += sum(row.size for row in rows)
        # What was written is written, whatever becomes of this.
        with contextlib.suppress(sqlite3.Error):
            self._prune()

    def after(self, sequence: int, limit: int) -> tuple[list[Recorded], int]:
        """Events behind a number, oldest first; and the number of the oldest in the file (0: none)."""
        with self._reading:
            reader = self._open_reader()
            rows = reader.execute(
                "SELECT sequence, timestamp, namespace, topic, type, value FROM events"
                " WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (sequence, limit),
            ).fetchall()
            first = _first(reader)
        found = [Recorded(row[0], Envelope(row[1], row[2], row[3], AnyValue(row[4], row[5]))) for row in rows]
        return found, first

    def before(self, moment: int, last: int) -> int:
        """The number before the first event recorded at ``moment`` or later; ``last`` if none was."""
        with self._reading:
            (found,) = (
                self._open_reader()
                .execute("SELECT min(sequence) FROM events WHERE recorded >= ?", (moment,))
                .fetchone()
            )
        return last if found is None else int(found) - 1

    def status(self) -> LogStatus:
        """What there is now."""
        with self._reading:
            reader = self._open_reader()
            first = _first(reader)
            (last,) = reader.execute("SELECT coalesce(max(sequence), 0) FROM events").fetchone()
            row = reader.execute("SELECT recorded FROM events WHERE sequence = ?", (first,)).fetchone()
        return LogStatus(
            self.id,
            first,
            last,
            self._bytes,
            self._max_bytes,
            self._max_age,
            row[0] if row is not None else 0,
        )

    def _open_reader(self) -> sqlite3.Connection:
        if self._reader is None:
            raise UnavailableError(f"the event log {self.path} is closed")
        return self._reader

    def _prune(self) -> None:
        assert self._writer is not None
        pruned = False
        if self._max_age and time.monotonic() - self._age_checked > _AGE_CHECK_SECONDS:
            self._age_checked = time.monotonic()
            oldest = time.time_ns() - int(self._max_age * 1e9)
            pruned |= self._remove("recorded < ?", (oldest,))
        if self._max_bytes and self._bytes > self._max_bytes:
            while self._bytes > self._max_bytes * _SHRINK_TO and self._remove_oldest():
                pruned = True
        if pruned:
            self._give_back()

    def _remove_oldest(self) -> bool:
        """Remove some events, no more than are too many."""
        assert self._writer is not None
        too_many = self._bytes - int(self._max_bytes * _SHRINK_TO)
        last = None
        for sequence, size in self._writer.execute(
            "SELECT sequence, size FROM events ORDER BY sequence LIMIT ?", (_PRUNED_AT_ONCE,)
        ).fetchall():
            if too_many <= 0:
                break
            last, too_many = sequence, too_many - size
        return last is not None and self._remove("sequence <= ?", (last,))

    def _remove(self, condition: str, values: tuple[int, ...]) -> bool:
        assert self._writer is not None
        # The newest stays whatever its age and size: its number is where the next ones go on.
        where = f"{condition} AND sequence < (SELECT max(sequence) FROM events)"  # noqa: S608 - constants
        with self._transaction():
            (size,) = self._writer.execute(
                f"SELECT coalesce(sum(size), 0) FROM events WHERE {where}",  # noqa: S608 - constants
                values,
            ).fetchone()
            self._writer.execute(f"DELETE FROM events WHERE {where}", values)  # noqa: S608 - constants
        self._bytes -= size
        return bool(size)

    def _give_back(self) -> None:
        """Return pages to the file system when many are free; the rest is soon used again."""
        assert self._writer is not None
        (free,) = self._writer.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self._writer.execute("PRAGMA page_count").fetchone()
        if free > pages // 4:
            self._writer.execute("PRAGMA incremental_vacuum").fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        assert self._writer is not None
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise


def _first(connection: sqlite3.Connection) -> int:
    (first,) = connection.execute("SELECT coalesce(min(sequence), 0) FROM events").fetchone()
    return int(first)
