"""Namespaces in the database; implements :class:`containerd_hybrid.metadata.api.NamespaceStore`.

A namespace exists once something was written in it, whether or not it was created first, as in
containerd; the schema's triggers see to that.
"""

from __future__ import annotations

import builtins
import sqlite3
from collections.abc import Mapping, Sequence

from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from containerd_hybrid.events.api import EventPublisher, NamespaceCreate, NamespaceDelete, NamespaceUpdate
from containerd_hybrid.metadata.api import Database, Namespace, Transaction
from containerd_hybrid.metadata.rows import decode_map, encode_map, now
from containerd_hybrid.model.fieldpaths import map_key, with_key
from containerd_hybrid.model.identifiers import quoted, validate_identifier
from containerd_hybrid.model.labels import stored_labels, validate_labels


class MetadataNamespaceStore:
    """Namespaces; events ``/namespaces/*`` follow each durable change, in the namespace itself."""

    def __init__(self, database: Database, events: EventPublisher) -> None:
        self._database = database
        self._events = events

    async def get(self, name: str) -> Namespace:
        """A namespace that does not exist has no labels; asking for it is no error, as in containerd."""
        return await self._database.recall(
            ("namespaces", name), lambda connection: Namespace(name, _labels(connection, name) or {})
        )

    async def list(self) -> builtins.list[Namespace]:
        def work(connection: sqlite3.Connection) -> builtins.list[Namespace]:
            rows = connection.execute("SELECT name, labels FROM namespaces ORDER BY name")
            return [Namespace(name, decode_map(labels)) for name, labels in rows]

        return await self._database.read(work)

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> Namespace:
        _validate(name, labels or {})
        kept = stored_labels(labels or {})

        def work(tx: Transaction) -> Namespace:
            moment = now()
            inserted = tx.connection.execute(
                "INSERT INTO namespaces (name, labels, created_at, updated_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (name, encode_map(kept), moment, moment),
            )
            if inserted.rowcount == 0:
                raise AlreadyExistsError(f"namespace {quoted(name)}: already exists")
            tx.after_commit(lambda: self._events.publish(name, NamespaceCreate(name, kept)))
            return Namespace(name, kept)

        return await self._database.write(work)

    async def update(self, name: str, labels: Mapping[str, str], fieldpaths: Sequence[str] = ()) -> Namespace:
        """Replace all labels, or those of the paths ``labels.KEY``; the namespace is made if need be.

        Raises:
            InvalidArgumentError: another path, even ``labels``.
        """
        _validate(name, {})

        def work(tx: Transaction) -> Namespace:
            kept = dict(labels)
            if fieldpaths:
                kept = _labels(tx.connection, name) or {}
                for path in fieldpaths:
                    key = map_key(path, "labels")
                    if key is None:
                        raise InvalidArgumentError(f"cannot update {quoted(path)} field")
                    kept = with_key(kept, labels, key)
            validate_labels(kept, "namespace.Labels")
            kept = stored_labels(kept)
            moment = now()
            tx.connection.execute(
                "INSERT INTO namespaces (name, labels, created_at, updated_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET labels = excluded.labels, updated_at = excluded.updated_at",
                (name, encode_map(kept), moment, moment),
            )
            event = NamespaceUpdate(name, dict(labels))
            tx.after_commit(lambda: self._events.publish(name, event))
            return Namespace(name, kept)

        return await self._database.write(work)

    async def delete(self, name: str) -> None:
        """Leases, ingests and sandboxes do not keep a namespace; they go with it.

        Raises:
            FailedPreconditionError: names the kinds of things that are still in it.
        """

        def work(tx: Transaction) -> None:
            if holding := _holding(tx.connection, name):
                raise FailedPreconditionError(
                    f"namespace {quoted(name)} must be empty, but it still has {', '.join(holding)}:"
                    " failed precondition"
                )
            deleted = tx.connection.execute("DELETE FROM namespaces WHERE name = ?", (name,))
            if deleted.rowcount == 0:
                raise NotFoundError(f"namespace {quoted(name)}: not found")
            tx.connection.execute("DELETE FROM leases WHERE namespace = ?", (name,))
            tx.connection.execute("DELETE FROM sandboxes WHERE namespace = ?", (name,))
            # Left to the collector, which removes their bytes too.
            tx.connection.execute("UPDATE ingests SET expires_at = 0 WHERE namespace = ?", (name,))
            tx.mark_dirty()
            tx.after_commit(lambda: self._events.publish(name, NamespaceDelete(name)))

        await self._database.write(work)


def _validate(name: str, labels: Mapping[str, str]) -> None:
    try:
        validate_identifier(name)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{error.message}: invalid argument") from error
    validate_labels(labels, "namespace.Labels")


def _labels(connection: sqlite3.Connection, name: str) -> dict[str, str] | None:
    row = connection.execute("SELECT labels FROM namespaces WHERE name = ?", (name,)).fetchone()
    return None if row is None else decode_map(row[0])


_KINDS = (("images", "images"), ("content", "blobs"), ("containers", "containers"))


def _holding(connection: sqlite3.Connection, name: str) -> builtins.list[str]:
    holding = [
        shown
        for table, shown in _KINDS
        if connection.execute(f"SELECT 1 FROM {table} WHERE namespace = ? LIMIT 1", (name,)).fetchone()  # noqa: S608
    ]
    snapshotters = connection.execute(
        "SELECT DISTINCT snapshotter FROM snapshots WHERE namespace = ? ORDER BY snapshotter", (name,)
    )
    return holding + [f"snapshots on {quoted(snapshotter)} snapshotter" for (snapshotter,) in snapshotters]
