"""Leases in the database; implements :class:`containerd_hybrid.leases.api.LeaseManager`."""

from __future__ import annotations

import builtins
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial

from containerd_hybrid.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    InvalidDigestError,
    NotFoundError,
    UnimplementedError,
)
from containerd_hybrid.leases.api import Lease, LeaseResource
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.refs import CONTENT, IMAGES, INGESTS
from containerd_hybrid.metadata.rows import decode_map, encode_map, listed, now, select_listed
from containerd_hybrid.model import Digest, Scope
from containerd_hybrid.model.filters import map_value
from containerd_hybrid.model.identifiers import quoted
from containerd_hybrid.model.labels import GC_FLAT, expiry, require_key, stored_labels

_SELECT = "SELECT id, created_at, labels FROM leases WHERE namespace = ?"
_SECOND = 1_000_000_000


class MetadataLeaseManager:
    """Leases of a namespace. There are no events about them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, scope: Scope, id: str = "", labels: Mapping[str, str] | None = None) -> Lease:
        kept = stored_labels(labels or {})
        for key, value in kept.items():
            require_key(key, value, "lease.Labels")  # their size is not limited

        def work(tx: Transaction) -> Lease:
            lease = Lease(id or _fresh_id(), now(), kept)
            inserted = tx.connection.execute(
                "INSERT INTO leases (namespace, id, labels, created_at, expires_at, flat)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    scope.namespace,
                    lease.id,
                    encode_map(kept),
                    lease.created_at,
                    expiry(kept),
                    int(GC_FLAT in kept),
                ),
            )
            if inserted.rowcount == 0:
                raise AlreadyExistsError(f"lease {quoted(lease.id)}: already exists")
            return lease

        return await self._database.write(work)

    async def delete(self, scope: Scope, id: str) -> None:
        def work(tx: Transaction) -> None:
            deleted = tx.connection.execute(
                "DELETE FROM leases WHERE namespace = ? AND id = ?", (scope.namespace, id)
            )
            if deleted.rowcount == 0:
                raise _not_found(id)
            tx.mark_dirty()

        await self._database.write(work)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> builtins.list[Lease]:
        wanted = listed(filters)

        def work(connection: sqlite3.Connection) -> builtins.list[Lease]:
            rows = select_listed(connection, _SELECT, scope.namespace, "id", wanted.exact("id"))
            leases = (Lease(row[0], row[1], decode_map(row[2])) for row in rows)
            return [lease for lease in leases if wanted.match(partial(_field, lease))]

        return await self._database.read(work)

    async def add_resource(self, scope: Scope, id: str, resource: LeaseResource) -> None:
        def work(tx: Transaction) -> None:
            _require(tx.connection, scope, id)
            _validate(resource)
            tx.connection.execute(
                "INSERT INTO lease_resources (namespace, lease, type, key) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (scope.namespace, id, resource.type, resource.id),
            )

        await self._database.write(work)

    async def delete_resource(self, scope: Scope, id: str, resource: LeaseResource) -> None:
        """Removing what the lease does not have is no error."""

        def work(tx: Transaction) -> None:
            _require(tx.connection, scope, id)
            _validate(resource)
            tx.connection.execute(
                "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND key = ?",
                (scope.namespace, id, resource.type, resource.id),
            )
            tx.mark_dirty()

        await self._database.write(work)

    async def list_resources(self, scope: Scope, id: str) -> builtins.list[LeaseResource]:
        def work(connection: sqlite3.Connection) -> builtins.list[LeaseResource]:
            _require(connection, scope, id)
            rows = connection.execute(
                "SELECT type, key FROM lease_resources WHERE namespace = ? AND lease = ? ORDER BY type, key",
                (scope.namespace, id),
            )
            return [LeaseResource(*row) for row in rows]

        return await self._database.read(work)


def _fresh_id() -> str:
    # The shape containerd gives them: the nanoseconds within the second, and a little chance.
    return f"{now() % _SECOND}-{secrets.token_urlsafe(3)}"


def _not_found(id: str) -> NotFoundError:
    return NotFoundError(f"lease {quoted(id)}: not found")


def _require(connection: sqlite3.Connection, scope: Scope, id: str) -> None:
    row = connection.execute(
        "SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (scope.namespace, id)
    ).fetchone()
    if row is None:
        raise _not_found(id)


def _validate(resource: LeaseResource) -> None:
    """Check the type, and that content is named by a digest.

    Raises:
        InvalidArgumentError, UnimplementedError: the latter for a type leases know nothing about.
    """
    kind, *rest = resource.type.split("/")
    if kind in (CONTENT, INGESTS, IMAGES):
        if rest:
            raise InvalidArgumentError(f"invalid resource type {resource.type}: invalid argument")
        if kind == CONTENT:
            try:
                Digest.parse(resource.id)
            except InvalidDigestError as error:
                raise InvalidArgumentError(
                    f"invalid content resource id {resource.id}: {error.message}: invalid argument"
                ) from error
    elif kind == "snapshots":
        if len(rest) != 1:
            raise InvalidArgumentError(f"invalid snapshot resource type {resource.type}: invalid argument")
    else:
        raise UnimplementedError(f"resource type {resource.type} not supported yet: not implemented")


def _field(lease: Lease, path: tuple[str, ...]) -> str | None:
    match path:
        case ("id", *_):
            return lease.id
        case ("labels", *_):
            return map_value(path, lease.labels)
    return None
