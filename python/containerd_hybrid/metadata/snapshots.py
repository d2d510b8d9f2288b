"""Snapshots as clients see them: names, parents and labels of the numbered folders a driver keeps.

Source: containerd's ``core/metadata/snapshot.go``. Other than there, names and driver state change in
one transaction; the folders' life beside it is in ``snapshot_folders``.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
)
from containerd_hybrid.events.api import (
    Event,
    EventPublisher,
    SnapshotCommit,
    SnapshotPrepare,
    SnapshotRemove,
)
from containerd_hybrid.metadata import refs
from containerd_hybrid.metadata import snapshot_rows as rows
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.rows import add_to_lease, remove_from_lease
from containerd_hybrid.metadata.snapshot_folders import SnapshotFolderKeeper
from containerd_hybrid.metadata.snapshot_rows import Place, SnapshotRow
from containerd_hybrid.metadata.threads import settled
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.model.fieldpaths import updated_labels
from containerd_hybrid.model.filters import FieldLookup, Filters, map_value
from containerd_hybrid.model.identifiers import quoted
from containerd_hybrid.model.labels import stored_labels, validate_labels
from containerd_hybrid.snapshots.api import (
    REBASE,
    REF_LABEL,
    DriverSnapshot,
    FolderDriver,
    Kind,
    RemoteDriver,
    SettlingDriver,
    SnapshotDriver,
    SnapshotInfo,
    Usage,
)
from containerd_hybrid.workers import in_own_thread

_INHERITED = "containerd.io/snapshot/"
_PAGE = 100

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    """A snapshot that is to come into being under ``key``; ``parent`` is "" for none."""

    scope: Scope
    place: Place
    kind: Kind
    key: str
    parent: str
    labels: Mapping[str, str]


class MetadataSnapshotter:
    """Implements :class:`containerd_hybrid.snapshots.api.Snapshotter` for one driver.

    With ``sync_remove`` a removed snapshot's folder is gone when ``remove`` returns; without, it goes
    in the background, and ``close`` waits for it. ``part_with`` is called before a folder of layers goes.
    """

    def __init__(
        self,
        database: Database,
        driver: SnapshotDriver,
        publisher: EventPublisher,
        *,
        sync_remove: bool = False,
        part_with: Callable[[Path], Awaitable[None]] | None = None,
    ) -> None:
        self.name = driver.name
        self.capabilities = driver.capabilities
        self._database = database
        self._driver = driver
        self._publisher = publisher
        self._sync_remove = sync_remove
        self._type = refs.snapshots(driver.name)
        self._folders = SnapshotFolderKeeper(database, driver, part_with)
        self._settled = False

    async def cleanup(self) -> None:
        """Raises the first error when not every folder could be removed."""
        await self._folders.cleanup()
        if not self._settled:
            self._settled = True
            committed = partial(rows.select_committed_ids, snapshotter=self.name)
            for number in await self._database.read(committed):
                await self._settle(number)
        driver = self._driver
        if isinstance(driver, RemoteDriver):
            await self._drive(driver.cleanup)

    async def close(self) -> None:
        """Wait for the folders that are being removed."""
        await self._folders.close()

    async def _drive(self, work: Callable[[], T]) -> T:
        """Have the driver do something. What waits for another process has a thread of its own for it."""
        if isinstance(self._driver, RemoteDriver):
            return await in_own_thread(work, lambda: None)
        return await settled(work)

    # --- looking

    async def stat(self, scope: Scope, key: str) -> SnapshotInfo:
        place = self._place(scope)
        row = await self._database.recall(
            ("snapshot", place, key), lambda c: rows.select_snapshot(c, place, key)
        )
        return self._shown(row)

    async def usage(self, scope: Scope, key: str) -> Usage:
        """Counted now for an active snapshot, when it was committed for a committed one, 0 for a view."""
        row, snapshot = await self._look(scope, key)
        if row.info.kind is not Kind.ACTIVE:
            return row.usage
        return await self._drive(lambda: self._driver.usage(snapshot))

    async def mounts(self, scope: Scope, key: str) -> list[Mount]:
        row, snapshot = await self._look(scope, key)
        if row.info.kind is Kind.COMMITTED:
            raise FailedPreconditionError(
                f"failed to get active mount: requested snapshot {key} not active or view: "
                "failed precondition"
            )
        return await self._drive(lambda: self._driver.mounts(snapshot))

    def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        """In order of names. Fields: ``kind``, ``name``, ``parent``, ``labels.…``."""
        return self._walk(self._place(scope), Filters.parse(filters))

    async def _walk(self, place: Place, filters: Filters) -> AsyncIterator[SnapshotInfo]:
        async for row in self._candidates(place, filters.exact("name")):
            info = self._shown(row)
            if filters.match(_fields(info)):
                yield info

    async def _candidates(self, place: Place, named: frozenset[str] | None) -> AsyncIterator[SnapshotRow]:
        """Page by page, or only those that the filters name."""
        if named is not None:
            for name in sorted(named):
                row = await self._database.read(partial(rows.find_snapshot, place=place, key=name))
                if row is not None:
                    yield row
            return
        after = ""
        while True:
            select = partial(rows.select_snapshots, place=place, after=after, limit=_PAGE)
            page = await self._database.read(select)
            for row in page:
                yield row
            if len(page) < _PAGE:
                return
            after = page[-1].info.name

    async def _look(self, scope: Scope, key: str) -> tuple[SnapshotRow, DriverSnapshot]:
        place = self._place(scope)

        def work(connection: sqlite3.Connection) -> tuple[SnapshotRow, DriverSnapshot]:
            row = rows.select_snapshot(connection, place, key)
            return row, _driver_snapshot(connection, place, row)

        return await self._database.recall(("snapshot with parents", place, key), work)

    async def layer_folder(self, scope: Scope, key: str) -> Path | None:
        """See :class:`containerd_hybrid.snapshots.api.LayerFolders`."""
        driver, place = self._driver, self._place(scope)
        if not isinstance(driver, FolderDriver):
            return None
        row = await self._database.read(lambda c: rows.select_snapshot(c, place, key))
        return driver.layer_folder(row.id) if row.info.kind is Kind.COMMITTED else None

    # --- making

    async def prepare(
        self, scope: Scope, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        request = _Request(scope, self._place(scope), Kind.ACTIVE, key, parent, labels or {})
        return await self._create(request, SnapshotPrepare(key, parent, self.name))

    async def view(
        self, scope: Scope, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        request = _Request(scope, self._place(scope), Kind.VIEW, key, parent, labels or {})
        return await self._create(request, None)

    async def _create(self, request: _Request, event: Event | None) -> list[Mount]:
        _check(request)

        # Whatever cannot be made is refused before any work is done for it.
        def look(connection: sqlite3.Connection) -> tuple[int, ...]:
            parent = _parent_id(connection, request.place, request.parent)
            return () if parent is None else (parent, *rows.select_parents(connection, parent))

        parents = await self._unless_taken(request, look)
        async with self._folders.fresh() as number:
            labels = _inherited(request.labels)
            snapshot = DriverSnapshot(number, request.kind, parents, labels, request.scope.namespace)
            recorded: list[bool] = []
            try:
                try:
                    await self._drive(lambda: self._driver.create(snapshot))
                except AlreadyExistsError:
                    await self._adopt(request, snapshot, recorded)
                    raise
                mounts = await self._drive(lambda: self._driver.mounts(snapshot))

                def record(transaction: Transaction) -> None:
                    self._insert(transaction, request, number)
                    transaction.after_commit(lambda: recorded.append(True))
                    if event is not None:
                        self._publish(transaction, request.scope, event)

                await self._write_unless_taken(request, record)
                return mounts
            finally:
                if not recorded:
                    await asyncio.shield(self._folders.remove(number))

    async def _adopt(self, request: _Request, snapshot: DriverSnapshot, recorded: list[bool]) -> None:
        """Record what a remote driver says it has already, if it has.

        Raises:
            AlreadyExistsError: it has, and the target is there now.
        """
        driver, target = self._driver, request.labels.get(REF_LABEL, "")
        if not target or not isinstance(driver, RemoteDriver):
            return
        usage = await self._drive(lambda: driver.adopt(snapshot))
        if usage is None:
            return

        def record(transaction: Transaction) -> None:
            connection, place = transaction.connection, request.place
            parent = _parent_id(connection, place, request.parent)
            rows.insert_snapshot(connection, place, snapshot.id, Kind.ACTIVE, target, parent, request.labels)
            rows.commit_snapshot(connection, place, snapshot.id, target, parent, usage, request.labels)
            add_to_lease(connection, request.scope, self._type, target)
            transaction.after_commit(lambda: recorded.append(True))

        await self._write_unless_taken(request, record)
        raise AlreadyExistsError(f"target snapshot {quoted(target)}: already exists")

    def _insert(self, transaction: Transaction, request: _Request, id: int) -> None:
        connection = transaction.connection
        parent = _parent_id(connection, request.place, request.parent)
        rows.insert_snapshot(connection, request.place, id, request.kind, request.key, parent, request.labels)
        add_to_lease(connection, request.scope, self._type, request.key)

    async def commit(
        self, scope: Scope, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = ""
    ) -> None:
        request = _Request(scope, self._place(scope), Kind.COMMITTED, name, parent, labels or {})
        _check(request)
        snapshot = await self._unless_taken(request, lambda c: self._committable(c, request, key)[0])
        usage = await self._drive(lambda: self._driver.commit(snapshot))

        def record(transaction: Transaction) -> None:
            connection = transaction.connection
            now, above = self._committable(connection, request, key)
            if now.id != snapshot.id:
                raise NotFoundError(f"snapshot {key} does not exist: not found")
            rows.commit_snapshot(connection, request.place, now.id, name, above, usage, request.labels)
            add_to_lease(connection, scope, self._type, name)
            remove_from_lease(connection, scope, self._type, key)
            self._publish(transaction, scope, SnapshotCommit(key, name, self.name))

        await self._write_unless_taken(request, record)
        await self._settle(snapshot.id)

    async def _settle(self, id: int) -> None:
        """The commit is on record and stays, whatever comes of this; a restart tries it again."""
        driver = self._driver
        if not isinstance(driver, SettlingDriver):
            return
        try:
            await self._drive(lambda: driver.settle(id))
        except HybridError as error:
            log.warning("snapshotter %s: %s; the next start tries again", self.name, error)

    def _committable(
        self, connection: sqlite3.Connection, request: _Request, key: str
    ) -> tuple[DriverSnapshot, int | None]:
        """The active snapshot ``key`` and the number of the parent it is to have."""
        row = rows.select_snapshot(connection, request.place, key)
        if row.info.kind is not Kind.ACTIVE:
            raise FailedPreconditionError(f"snapshot {quoted(key)} is not active: failed precondition")
        parent = row.info.parent
        if request.parent and request.parent != parent:
            if parent:
                raise InvalidArgumentError(
                    f"cannot change parent of active snapshot {quoted(key)} on commit: invalid argument"
                )
            if REBASE not in self.capabilities:
                raise FailedPreconditionError(
                    f"snapshotter {self.name} cannot give snapshot {quoted(key)} a parent on commit: "
                    "prepare it on that parent: failed precondition"
                )
            parent = request.parent
        above = _parent_id(connection, request.place, parent)
        snapshot = _driver_snapshot(connection, request.place, row)
        if above is not None and not snapshot.parents:
            snapshot = replace(snapshot, parents=(above, *rows.select_parents(connection, above)))
        return snapshot, above

    async def _unless_taken(self, request: _Request, look: Callable[[sqlite3.Connection], T]) -> T:
        """What ``look`` finds.

        Raises:
            AlreadyExistsError: what is to be made is there; the lease now holds it.
        """

        def work(connection: sqlite3.Connection) -> T | None:
            return None if _existing(connection, request) else look(connection)

        while True:
            found = await self._database.read(work)
            if found is not None:
                return found
            await self._write_unless_taken(request, lambda _: None)

    async def _write_unless_taken(self, request: _Request, record: Callable[[Transaction], None]) -> None:
        """Write; raises AlreadyExistsError after a write that only puts what exists under the lease."""

        def work(transaction: Transaction) -> AlreadyExistsError | None:
            found = _existing(transaction.connection, request)
            if found is None:
                record(transaction)
                return None
            key, error = found
            add_to_lease(transaction.connection, request.scope, self._type, key)
            return error

        error = await self._database.write(work)
        if error is not None:
            raise error

    # --- changing

    async def update(
        self, scope: Scope, key: str, labels: Mapping[str, str], fieldpaths: Sequence[str] = ()
    ) -> SnapshotInfo:
        place = self._place(scope)

        def work(transaction: Transaction) -> SnapshotRow:
            row = rows.select_snapshot(transaction.connection, place, key)
            changed = updated_labels(row.info.labels, labels, fieldpaths, f"snapshot {quoted(key)}")
            validate_labels(changed, "info.Labels")
            info = rows.update_snapshot(transaction.connection, place, row, changed)
            return SnapshotRow(row.id, info, row.usage)

        return self._shown(await self._database.write(work))

    async def remove(self, scope: Scope, key: str) -> None:
        place = self._place(scope)

        def work(transaction: Transaction) -> int:
            connection = transaction.connection
            row = rows.select_snapshot(connection, place, key)
            if rows.has_children(connection, row.id):
                raise FailedPreconditionError("cannot remove snapshot with child: failed precondition")
            rows.delete_snapshot(connection, row.id)
            remove_from_lease(connection, scope, self._type, key)
            transaction.mark_dirty()
            self._publish(transaction, scope, SnapshotRemove(key, self.name))
            return row.id

        removal = self._folders.remove(await self._database.write(work))
        if self._sync_remove:
            await asyncio.shield(removal)

    # --- helpers

    def _place(self, scope: Scope) -> Place:
        return Place(scope.namespace, self.name)

    def _publish(self, transaction: Transaction, scope: Scope, event: Event) -> None:
        transaction.after_commit(lambda: self._publisher.publish(scope.namespace, event))

    def _shown(self, row: SnapshotRow) -> SnapshotInfo:
        added = self._driver.labels(row.id)
        return replace(row.info, labels={**added, **row.info.labels}) if added else row.info


def _check(request: _Request) -> None:
    if not request.key:
        raise InvalidArgumentError("a snapshot's name must not be empty: invalid argument")
    validate_labels(request.labels, "info.Labels")


def _existing(connection: sqlite3.Connection, request: _Request) -> tuple[str, AlreadyExistsError] | None:
    """What stands in the way of a new snapshot, and how to say so."""
    target = request.labels.get(REF_LABEL, "") if request.kind is not Kind.COMMITTED else ""
    if target and rows.find_snapshot(connection, request.place, target):
        return target, AlreadyExistsError(f"target snapshot {quoted(target)}: already exists")
    if rows.find_snapshot(connection, request.place, request.key):
        return request.key, AlreadyExistsError(f"snapshot {quoted(request.key)}: already exists")
    return None


def _parent_id(connection: sqlite3.Connection, place: Place, parent: str) -> int | None:
    if not parent:
        return None
    row = rows.find_snapshot(connection, place, parent)
    if row is None:
        raise NotFoundError(f"parent snapshot {parent} does not exist: not found")
    if row.info.kind is not Kind.COMMITTED:
        raise InvalidArgumentError(f"parent {quoted(parent)} is not committed snapshot: invalid argument")
    return row.id


def _driver_snapshot(connection: sqlite3.Connection, place: Place, row: SnapshotRow) -> DriverSnapshot:
    parents = rows.select_parents(connection, row.id)
    return DriverSnapshot(row.id, row.info.kind, parents, _inherited(row.info.labels), place.namespace)


def _inherited(labels: Mapping[str, str]) -> dict[str, str]:
    """Those labels that are meant for the driver."""
    return {
        key: value
        for key, value in stored_labels(labels).items()
        if key == REF_LABEL or key.startswith(_INHERITED)
    }


def _fields(info: SnapshotInfo) -> FieldLookup:
    def lookup(path: tuple[str, ...]) -> str | None:
        match path[0]:
            case "kind":
                return info.kind.value
            case "name":
                return info.name
            case "parent":
                return info.parent
            case "labels":
                return map_value(path, info.labels)
            case _:
                return None

    return lookup
