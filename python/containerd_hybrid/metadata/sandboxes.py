"""Sandbox records in the database; implements :class:`containerd_hybrid.sandbox.api.SandboxStore`."""

from __future__ import annotations

import builtins
import dataclasses
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any

from containerd_hybrid.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.refs import SANDBOXES, write_graph
from containerd_hybrid.metadata.rows import (
    decode_any,
    decode_extensions,
    decode_map,
    encode_any,
    encode_extensions,
    encode_map,
    listed,
    now,
    select_listed,
)
from containerd_hybrid.model import Scope
from containerd_hybrid.model.fieldpaths import map_key, unknown_path, with_key
from containerd_hybrid.model.filters import map_value
from containerd_hybrid.model.identifiers import quoted, validate_identifier
from containerd_hybrid.model.labels import stored_labels
from containerd_hybrid.sandbox.api import Sandbox

_COLUMNS = (
    "id, runtime_name, runtime_options_type, runtime_options_value, spec_type, spec_value, sandboxer,"
    " labels, extensions, created_at, updated_at"
)
_SELECT = f"SELECT {_COLUMNS} FROM sandboxes WHERE namespace = ?"  # noqa: S608 - constants
_REPLACED = ("labels", "extensions", "spec", "runtime")


class MetadataSandboxStore:
    """Sandboxes of a namespace. Their events come from who runs them, not from here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, scope: Scope, id: str) -> Sandbox:
        return await self._database.read(lambda connection: _read(connection, scope, id))

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> builtins.list[Sandbox]:
        wanted = listed(filters)

        def work(connection: sqlite3.Connection) -> builtins.list[Sandbox]:
            rows = select_listed(connection, _SELECT, scope.namespace, "id", wanted.exact("id"))
            sandboxes = (_sandbox(row) for row in rows)
            return [sandbox for sandbox in sandboxes if wanted.match(partial(_field, sandbox))]

        return await self._database.read(work)

    async def create(self, scope: Scope, sandbox: Sandbox) -> Sandbox:
        _validate(sandbox)

        def work(tx: Transaction) -> Sandbox:
            moment = now()
            created = dataclasses.replace(
                sandbox, labels=stored_labels(sandbox.labels), created_at=moment, updated_at=moment
            )
            inserted = tx.connection.execute(
                f"INSERT INTO sandboxes (namespace, {_COLUMNS})"  # noqa: S608 - constants
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (scope.namespace, created.id, *_mutable(created), moment, moment),
            )
            if inserted.rowcount == 0:
                raise AlreadyExistsError(f"sandbox {quoted(sandbox.id)}: already exists")
            write_graph(tx.connection, scope.namespace, SANDBOXES, created.id, created.labels, fresh=True)
            return created

        return await self._database.write(work)

    async def update(self, scope: Scope, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        def work(tx: Transaction) -> Sandbox:
            before = _read(tx.connection, scope, sandbox.id)
            updated = _merge(before, sandbox, fieldpaths)
            _validate(updated)
            updated = dataclasses.replace(updated, labels=stored_labels(updated.labels), updated_at=now())
            tx.connection.execute(
                "UPDATE sandboxes SET runtime_name = ?, runtime_options_type = ?, runtime_options_value = ?,"
                " spec_type = ?, spec_value = ?, sandboxer = ?, labels = ?, extensions = ?, updated_at = ?"
                " WHERE namespace = ? AND id = ?",
                (*_mutable(updated), updated.updated_at, scope.namespace, updated.id),
            )
            if updated.labels != before.labels:
                write_graph(tx.connection, scope.namespace, SANDBOXES, updated.id, updated.labels)
            return updated

        return await self._database.write(work)

    async def delete(self, scope: Scope, id: str) -> None:
        def work(tx: Transaction) -> None:
            deleted = tx.connection.execute(
                "DELETE FROM sandboxes WHERE namespace = ? AND id = ?", (scope.namespace, id)
            )
            if deleted.rowcount == 0:
                raise _not_found(id)
            # What its labels held may be garbage now.
            tx.mark_dirty()

        await self._database.write(work)


def _not_found(id: str) -> NotFoundError:
    return NotFoundError(f"sandbox {quoted(id)}: not found")


def _read(connection: sqlite3.Connection, scope: Scope, id: str) -> Sandbox:
    row = connection.execute(f"{_SELECT} AND id = ?", (scope.namespace, id)).fetchone()
    if row is None:
        raise _not_found(id)
    return _sandbox(row)


def _sandbox(row: tuple[Any, ...]) -> Sandbox:
    return Sandbox(
        id=row[0],
        runtime_name=row[1],
        runtime_options=decode_any(row[2], row[3]),
        spec=decode_any(row[4], row[5]),
        sandboxer=row[6],
        labels=decode_map(row[7]),
        extensions=decode_extensions(row[8]),
        created_at=row[9],
        updated_at=row[10],
    )


def _mutable(sandbox: Sandbox) -> tuple[str | bytes | None, ...]:
    return (
        sandbox.runtime_name,
        *encode_any(sandbox.runtime_options),
        *encode_any(sandbox.spec),
        sandbox.sandboxer,
        encode_map(sandbox.labels),
        encode_extensions(sandbox.extensions),
    )


def _merge(before: Sandbox, given: Sandbox, fieldpaths: Sequence[str]) -> Sandbox:
    if not fieldpaths and before.runtime_name != given.runtime_name:
        raise InvalidArgumentError("sandbox.Runtime.Name field is immutable: invalid argument")
    result = before
    for path in fieldpaths or _REPLACED:
        label, extension = map_key(path, "labels"), map_key(path, "extensions")
        if label is not None:
            result = dataclasses.replace(result, labels=with_key(result.labels, given.labels, label))
        elif extension is not None:
            extensions = with_key(result.extensions, given.extensions, extension)
            result = dataclasses.replace(result, extensions=extensions)
        elif path == "labels":
            result = dataclasses.replace(result, labels=given.labels)
        elif path == "extensions":
            result = dataclasses.replace(result, extensions={**result.extensions, **given.extensions})
        elif path == "runtime":
            result = dataclasses.replace(
                result,
                runtime_name=given.runtime_name,
                runtime_options=given.runtime_options or result.runtime_options,
            )
        elif path == "spec":
            result = dataclasses.replace(result, spec=given.spec or result.spec)
        else:
            raise unknown_path(path, f"sandbox {quoted(given.id)}")
    return result


def _validate(sandbox: Sandbox) -> None:
    try:
        validate_identifier(sandbox.id)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f"failed to validate sandbox: invalid sandbox ID: {error.message}: invalid argument"
        ) from error
    if "" in sandbox.extensions:
        raise InvalidArgumentError("sandbox.Extension keys must not be zero-length: invalid argument")


def _field(sandbox: Sandbox, path: tuple[str, ...]) -> str | None:
    match path:
        case ("id", *_):
            return sandbox.id
        case ("labels", *_):
            return map_value(path, sandbox.labels)
    return None
