"""What is mounted by name; implements :class:`containerd_hybrid.mounts.api.ActivationStore`."""

from __future__ import annotations

import builtins
import json
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from containerd_hybrid.errors import AlreadyExistsError, NotFoundError
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.refs import MOUNTS, write_graph
from containerd_hybrid.metadata.rows import decode_map, encode_map, now, select_listed
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.model.filters import Filters, map_value
from containerd_hybrid.model.identifiers import quoted
from containerd_hybrid.model.labels import stored_labels
from containerd_hybrid.mounts.api import Activation, ActiveMount, StoredActivation

_SELECT = "SELECT id, namespace, lease, name, labels, active, system FROM mounts"


class MetadataActivationStore:
    """Records of activations. There are no events about them, and they make no namespace exist."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, scope: Scope, name: str, labels: Mapping[str, str]) -> int:
        """Take the name. A record that was never completed is replaced: nobody works on it any more."""
        kept = stored_labels(labels)

        def work(tx: Transaction) -> int:
            connection = tx.connection
            connection.execute(
                "DELETE FROM mounts WHERE namespace = ? AND name = ? AND active IS NULL",
                (scope.namespace, name),
            )
            moment = now()
            inserted = connection.execute(
                "INSERT INTO mounts (namespace, name, lease, labels, created_at, updated_at)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
                (scope.namespace, name, scope.lease, encode_map(kept), moment, moment),
            ).fetchone()
            if inserted is None:
                raise AlreadyExistsError(f"mount {quoted(name)}: already exists")
            write_graph(connection, scope.namespace, MOUNTS, name, kept, fresh=True)
            return int(inserted[0])

        return await self._database.write(work)

    async def complete(self, id: int, active: Sequence[ActiveMount], system: Sequence[Mount]) -> None:
        columns = (
            json.dumps([_encode_active(one) for one in active], separators=(",", ":")),
            json.dumps([_encode(mount) for mount in system], separators=(",", ":")),
        )

        def work(tx: Transaction) -> None:
            updated = tx.connection.execute(
                "UPDATE mounts SET active = ?, system = ?, updated_at = ? WHERE id = ?", (*columns, now(), id)
            )
            if updated.rowcount == 0:
                raise NotFoundError(f"mount {id}: not found")

        await self._database.write(work)

    async def forget(self, id: int) -> None:
        await self._database.write(
            lambda tx: tx.connection.execute("DELETE FROM mounts WHERE id = ?", (id,)).rowcount
        )

    async def remove(self, scope: Scope, name: str) -> StoredActivation:
        """Looks before it writes, because most tasks that are deleted have no activation."""
        await self._database.read(lambda connection: _read(connection, scope, name))

        def work(tx: Transaction) -> StoredActivation:
            found = _read(tx.connection, scope, name)
            tx.connection.execute("DELETE FROM mounts WHERE id = ?", (found.id,))
            return found

        return await self._database.write(work)

    async def get(self, scope: Scope, name: str) -> Activation:
        found = await self._database.read(lambda connection: _read(connection, scope, name))
        return found.activation or Activation(name)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> builtins.list[Activation]:
        wanted = Filters.parse(filters)

        def work(connection: sqlite3.Connection) -> builtins.list[Activation]:
            rows = select_listed(
                connection, f"{_SELECT} WHERE namespace = ?", scope.namespace, "name", wanted.exact("name")
            )
            found = (_stored(row) for row in rows)
            activations = (one.activation or Activation(one.name) for one in found)
            return [one for one in activations if wanted.match(partial(_field, one))]

        return await self._database.read(work)

    async def everything(self) -> builtins.list[StoredActivation]:
        return await self._database.read(
            lambda connection: [_stored(row) for row in connection.execute(f"{_SELECT} ORDER BY id")]
        )


def _read(connection: sqlite3.Connection, scope: Scope, name: str) -> StoredActivation:
    row = connection.execute(
        f"{_SELECT} WHERE namespace = ? AND name = ?", (scope.namespace, name)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"mount {quoted(name)}: not found")
    return _stored(row)


def _stored(row: tuple[Any, ...]) -> StoredActivation:
    number, namespace, lease, name, labels, active, system = row
    activation = None
    if active is not None:
        activation = Activation(
            name,
            tuple(_decode_active(one) for one in json.loads(active)),
            tuple(_decode(one) for one in json.loads(system)),
            decode_map(labels),
        )
    return StoredActivation(number, Scope(namespace, lease), name, activation)


def _encode(mount: Mount) -> list[Any]:
    return [mount.type, mount.source, mount.target, list(mount.options)]


def _decode(value: list[Any]) -> Mount:
    kind, source, target, options = value
    return Mount(kind, source, tuple(options), target)


def _encode_active(active: ActiveMount) -> list[Any]:
    return [_encode(active.mount), active.mount_point, active.mounted_at, dict(active.data)]


def _decode_active(value: list[Any]) -> ActiveMount:
    mount, mount_point, mounted_at, data = value
    return ActiveMount(_decode(mount), mount_point, mounted_at, data)


def _field(activation: Activation, path: tuple[str, ...]) -> str | None:
    match path:
        case ("name", *_):
            return activation.name
        case ("labels", *_):
            return map_value(path, activation.labels)
    return None
