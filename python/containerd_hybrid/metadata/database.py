"""The SQLite file behind all metadata: one writer thread, a few readers, group commit.

Invariants:

* A ``write()`` that returned is durable (unless ``no_sync``): it survives SIGKILL, and power loss.
* Writes are serial and in the order of their ``write()`` calls; a read that starts after a write
  returned sees it.
* One process has the file: a lock on ``<file>.lock`` is held from ``open()`` to ``close()``.
* What frees room can be written on a full disk: the log keeps room of its own from ``open()`` on.

Why threads of our own: SQLite syncs the disk in COMMIT, for milliseconds. While one commit syncs, the
writes that arrive queue up and become the next transaction, so throughput grows with load instead of
falling behind; ``asyncio.to_thread`` for each write would queue them on SQLite's lock instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from containerd_hybrid.errors import (
    DataLossError,
    FailedPreconditionError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
    error_for_os,
)
from containerd_hybrid.metadata.api import CommitListener
from containerd_hybrid.metadata.failures import FOREIGN, damaged, translated
from containerd_hybrid.metadata.filelock import FileLock
from containerd_hybrid.metadata.migrate import migrate
from containerd_hybrid.metadata.readers import Readers
from containerd_hybrid.metadata.recall import Recall

T = TypeVar("T")

log = logging.getLogger(__name__)

# STRICT tables.
_MINIMUM_SQLITE = (3, 37, 0)
# Bounds how long the first write of a burst waits for the last one.
_MAX_GROUP = 256
_BUSY_SECONDS = 10
_IDLE_SECONDS = 0.05
_IDLE_CHECKPOINT_GROUPS = 16
_LONGEST_LOG_PAGES = 4000
# Bytes. Enough for thousands of removals, which take a few pages each until the log is copied again.
_LOG_ROOM = 4 << 20


class _Write:
    """A queued write, and the Transaction its work sees. ``outcome`` is set by the writer thread."""

    __slots__ = ("actions", "connection", "dirty", "error", "future", "loop", "outcome", "work")

    def __init__(self, work: Callable[[_Write], Any], connection: sqlite3.Connection) -> None:
        self.work = work
        self.connection = connection
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.actions: list[Callable[[], None]] = []
        self.dirty = False
        self.outcome: Any = None
        self.error: BaseException | None = None

    def after_commit(self, action: Callable[[], None]) -> None:
        self.actions.append(action)

    def mark_dirty(self) -> None:
        self.dirty = True


class SqliteDatabase:
    """Implements :class:`containerd_hybrid.metadata.api.Database` on one file.

    ``no_sync`` gives up durability on power loss (not on SIGKILL) for speed, as containerd's option of
    that name does; the file stays consistent either way.
    """

    def __init__(self, path: str | Path, *, no_sync: bool = False, readers: int = 4) -> None:
        self.path = Path(path)
        self._no_sync = no_sync
        self._reader_count = readers
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writer_connection: sqlite3.Connection | None = None
        self._accepting = False
        self._gate = threading.Lock()  # nothing is queued behind the end; held for no longer than that
        self._uncopied = 0  # transactions that are only in the log; the writer thread's
        self._writer_thread: threading.Thread | None = None
        self._readers: Readers | None = None
        self._recall = Recall()
        self._lock = FileLock(self.path)
        self._listeners: list[CommitListener] = []

    async def open(self) -> None:
        """Lock, open and migrate the file; create it when it is not there.

        Raises:
            FailedPreconditionError: another process has it, or a newer release wrote it.
            DataLossError: the file is damaged; the message says what to do.
            HybridError: it cannot be opened, as :func:`~containerd_hybrid.errors.error_for_os` says.
        """
        try:
            await asyncio.to_thread(self._open)
        except OSError as error:
            raise error_for_os(error, f"open {self.path}") from error

    async def close(self) -> None:
        """Finish the writes that were queued, then release the file. Closing twice is harmless."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in a reader thread, in one read transaction: all its SELECTs see one state."""
        with self._gate:
            if not self._accepting:
                raise self._not_open()
            reading = cast("Readers", self._readers).submit(work)
        return cast("T", await reading)

    async def recall(self, key: Hashable, work: Callable[[sqlite3.Connection], T]) -> T:
        """As :meth:`read`, and from memory if nothing was written since it was last asked for."""
        state = self._recall.state
        known = self._recall.get(key)
        if known is not None and self._accepting:
            return cast("T", known)
        found = await self.read(work)
        self._recall.keep(key, found, state)
        return found

    async def write(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` in the writer thread and return its result once it is durable.

        ``work`` gets a :class:`~containerd_hybrid.metadata.api.Transaction`. It must touch nothing but
        the transaction's connection and must not end the transaction. When it raises, it alone is undone.

        Cancelling the caller does not take the write back: the call then waits (milliseconds) until the
        write has happened or failed, runs its ``after_commit`` actions, and only then raises
        ``CancelledError``. So whoever cleans up after a cancellation finds the database settled, but
        must look whether the write is there.
        """
        with self._gate:
            if not self._accepting:
                raise self._not_open()
            write = _Write(work, cast("sqlite3.Connection", self._writer_connection))
            self._queue.put(write)
        try:
            return cast("T", await asyncio.shield(write.future))
        except asyncio.CancelledError:
            while not write.future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([write.future])
            # Looked at, so that asyncio does not complain about an error nobody retrieved.
            write.future.exception()
            raise

    def _not_open(self) -> UnavailableError:
        return UnavailableError(f"{self.path} is not open")

    def on_commit(self, listener: CommitListener) -> None:
        """Call ``listener(writes, deletions)`` on the event loop after each durable transaction."""
        self._listeners.append(listener)

    async def check(self, *, quick: bool = False) -> list[str]:
        """What SQLite finds wrong with the file; empty when it is sound.

        Looks at every page and index (``quick`` leaves out the comparison of indexes with tables) and
        at foreign keys.
        """

        def work(connection: sqlite3.Connection) -> list[str]:
            pragma = "quick_check" if quick else "integrity_check"
            problems = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}") if row[0] != "ok"]
            problems += [
                f"row {rowid} of {table} refers to a missing row of {parent}"
                for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check")
            ]
            return problems

        try:
            return await self.read(work)
        except DataLossError as error:
            return [error.message]

    # --- threads -------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._accepting:
            raise FailedPreconditionError(f"{self.path} is open already")
        if sqlite3.sqlite_version_info < _MINIMUM_SQLITE:
            needed = ".".join(map(str, _MINIMUM_SQLITE))
            raise FailedPreconditionError(
                f"SQLite {sqlite3.sqlite_version} is too old: use a Python with SQLite {needed} or newer"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        connection = None
        try:
            # Labels and specs are nobody else's business; SQLite gives its side files the same mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = self._connect()
            self._prepare(connection)
        except BaseException as error:
            if connection is not None:
                connection.close()
            self._lock.release()
            if isinstance(error, FOREIGN):
                raise translated(self.path, error) from error
            raise
        self._writer_connection = connection
        self._writer_thread = threading.Thread(target=self._run_writer, name="metadata-writer", daemon=True)
        self._writer_thread.start()
        self._recall = Recall()
        self._readers = Readers(self._connect_reader, self._reader_count, self._told)
        self._accepting = True

    def _prepare(self, connection: sqlite3.Connection) -> None:
        wal = self.path.with_name(self.path.name + "-wal")
        # A log that is still there means the last run did not end well, so the disk is not to be trusted.
        unclean = wal.exists() and wal.stat().st_size > 0
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise UnavailableError(f"{self.path}: its file system cannot hold a write-ahead log")
        if unclean:
            problems = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
            if problems != ["ok"]:
                raise damaged(self.path, "; ".join(problems))
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if self._no_sync else 'FULL'}")
        for name in migrate(connection, str(self.path)):
            log.info("metadata: applied migration %s to %s", name, self.path)
        self._reserve_log(wal)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _reserve_log(self, wal: Path) -> None:
        """Make the log as long as a burst of removals needs; SQLite writes it from its start again.

        Zeros behind the last frame are no frames: every frame has a checksum and the header's salt.
        """
        try:
            descriptor = os.open(wal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _LOG_ROOM)
            finally:
                os.close(descriptor)
        except OSError as error:
            log.warning("no room could be reserved in %s for a full disk: %s", wal, error.strerror)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=_BUSY_SECONDS,
            isolation_level=None,  # transactions are ours alone
            check_same_thread=False,  # opened and closed by other threads than the one that uses it
            cached_statements=512,
        )
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA recursive_triggers = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LONGEST_LOG_PAGES}")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _told(self, error: BaseException) -> BaseException:
        """What a caller is told of an error of SQLite's; any other is told as it is."""
        if not isinstance(error, FOREIGN):
            return error
        told = translated(self.path, error)
        told.__cause__ = error
        return told

    def _run_writer(self) -> None:
        stopping = False
        while not stopping:
            group: deque[_Write] = deque()
            item = self._next()
            while item is not None:
                group.append(item)
                if len(group) >= _MAX_GROUP:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            stopping = item is None
            while group:
                self._commit_group(group)

    def _next(self) -> _Write | None:
        """The next write, None to stop. Copies the log into the file when nobody asks for anything.

        SQLite would do that within some unlucky commit; it still does when a burst is long.
        """
        if self._uncopied >= _IDLE_CHECKPOINT_GROUPS:
            try:
                return self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                self._uncopied = 0
                with contextlib.suppress(sqlite3.Error):
                    cast("sqlite3.Connection", self._writer_connection).execute(
                        "PRAGMA wal_checkpoint(PASSIVE)"
                    )
        return self._queue.get()

    def _commit_group(self, group: deque[_Write]) -> None:
        """Take writes from ``group`` into one transaction, commit it, and settle them."""
        connection = cast("sqlite3.Connection", self._writer_connection)
        done: list[_Write] = []
        self._recall.begin_write()
        try:
            self._transact(connection, group, done)
        except BaseException as error:
            if not done:  # it did not even begin, and would not for the others
                done.extend(group)
                group.clear()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            failure = self._told(error)
            for write in done:
                write.error = write.error or failure
        finally:
            self._recall.end_write()
        by_loop: dict[asyncio.AbstractEventLoop, list[_Write]] = {}
        for write in done:
            by_loop.setdefault(write.loop, []).append(write)
        for loop, writes in by_loop.items():
            # The loop may have been closed under its callers; then nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._settle, writes)

    def _transact(self, connection: sqlite3.Connection, group: deque[_Write], done: list[_Write]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        while group:
            write = group.popleft()
            done.append(write)
            self._attempt(connection, write)
            if not connection.in_transaction:
                # A full disk or an I/O error makes SQLite give up the whole transaction.
                if isinstance(write.error, ResourceExhaustedError | UnavailableError | DataLossError):
                    raise write.error
                raise InternalError(f"a write ended the transaction it shares: {write.error}")
        connection.execute("COMMIT")
        self._uncopied += 1

    def _attempt(self, connection: sqlite3.Connection, write: _Write) -> None:
        connection.execute("SAVEPOINT one")
        try:
            write.outcome = write.work(write)
            connection.execute("RELEASE one")
        except BaseException as error:
            if isinstance(error, FOREIGN):
                write.error = translated(self.path, error)
            elif isinstance(error, StopIteration):  # which a future refuses to carry
                write.error = InternalError("a write raised StopIteration")
            else:
                write.error = error
            if connection.in_transaction:
                connection.execute("ROLLBACK TO one")
                connection.execute("RELEASE one")

    def _settle(self, writes: list[_Write]) -> None:
        """On the event loop: actions first, then results, in the order of the writes."""
        kept = deletions = 0
        for write in writes:
            if write.error is not None:
                write.future.set_exception(write.error)
                continue
            kept += 1
            deletions += write.dirty
            for action in write.actions:
                try:
                    action()
                except Exception:
                    log.exception("an action after a metadata commit failed")
            write.future.set_result(write.outcome)
        if kept:
            for listener in self._listeners:
                listener(kept, deletions)

    def _close(self) -> None:
        with self._gate:
            if not self._accepting:
                return
            self._accepting = False
            self._queue.put(None)
        readers, self._readers = self._readers, None
        thread = cast("threading.Thread", self._writer_thread)
        connection = cast("sqlite3.Connection", self._writer_connection)
        thread.join()
        if readers is not None:
            readers.close()
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA optimize")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        self._writer_connection = None
        self._lock.release()
