"""Container records in the database; implements :class:`containerd_hybrid.containers.api.ContainerStore`."""

from __future__ import annotations

import builtins
import dataclasses
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any

from containerd_hybrid.containers.api import Container
from containerd_hybrid.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from containerd_hybrid.events.api import (
    ContainerCreate,
    ContainerCreateRuntime,
    ContainerDelete,
    ContainerUpdate,
    EventPublisher,
)
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.refs import CONTAINERS, write_graph
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
from containerd_hybrid.model.labels import stored_labels, validate_labels

_COLUMNS = (
    "id, image, runtime_name, runtime_options_type, runtime_options_value, spec_type, spec_value,"
    " snapshotter, snapshot_key, sandbox, labels, extensions, created_at, updated_at"
)
_SELECT = f"SELECT {_COLUMNS} FROM containers WHERE namespace = ?"  # noqa: S608 - constants
# Without field paths these are replaced and the rest must be as it was.
_REPLACED = ("labels", "spec", "extensions", "image", "snapshotkey")


class MetadataContainerStore:
    """What is to run; events ``/containers/*`` follow each durable change."""

    def __init__(self, database: Database, events: EventPublisher) -> None:
        self._database = database
        self._events = events

    async def get(self, scope: Scope, id: str) -> Container:
        def work(connection: sqlite3.Connection) -> Container:
            container = _read(connection, scope, id)
            if container is None:
                raise NotFoundError(
                    f"container {quoted(id)} in namespace {quoted(scope.namespace)}: not found"
                )
            return container

        return await self._database.recall((CONTAINERS, scope.namespace, id), work)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> builtins.list[Container]:
        wanted = listed(filters)

        def work(connection: sqlite3.Connection) -> builtins.list[Container]:
            rows = select_listed(connection, _SELECT, scope.namespace, "id", wanted.exact("id"))
            containers = (_container(row) for row in rows)
            if wanted.always:
                return [*containers]
            return [container for container in containers if wanted.match(partial(_field, container))]

        return await self._database.read(work)

    async def create(self, scope: Scope, container: Container) -> Container:
        _validate(container, "create container failed validation")

        def work(tx: Transaction) -> Container:
            moment = now()
            created = dataclasses.replace(
                container, labels=stored_labels(container.labels), created_at=moment, updated_at=moment
            )
            inserted = tx.connection.execute(
                f"INSERT INTO containers (namespace, {_COLUMNS})"  # noqa: S608 - constants
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    scope.namespace,
                    created.id,
                    created.image,
                    created.runtime_name,
                    *encode_any(created.runtime_options),
                    *encode_any(created.spec),
                    created.snapshotter,
                    created.snapshot_key,
                    created.sandbox,
                    encode_map(created.labels),
                    encode_extensions(created.extensions),
                    moment,
                    moment,
                ),
            )
            if inserted.rowcount == 0:
                raise AlreadyExistsError(f"container {quoted(container.id)}: already exists")
            write_graph(tx.connection, scope.namespace, CONTAINERS, created.id, created.labels, fresh=True)
            runtime = ContainerCreateRuntime(created.runtime_name, created.runtime_options)
            event = ContainerCreate(created.id, created.image, runtime)
            tx.after_commit(lambda: self._events.publish(scope.namespace, event))
            return created

        return await self._database.write(work)

    async def update(self, scope: Scope, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        if not container.id:
            raise InvalidArgumentError("must specify a container id: invalid argument")

        def work(tx: Transaction) -> Container:
            before = _read(tx.connection, scope, container.id)
            if before is None:
                raise NotFoundError(f"container {quoted(container.id)}: not found")
            updated = dataclasses.replace(_merge(before, container, fieldpaths), updated_at=now())
            _validate(updated, "update failed validation")
            updated = dataclasses.replace(updated, labels=stored_labels(updated.labels))
            tx.connection.execute(
                "UPDATE containers SET image = ?, spec_type = ?, spec_value = ?, snapshot_key = ?,"
                " labels = ?, extensions = ?, updated_at = ? WHERE namespace = ? AND id = ?",
                (
                    updated.image,
                    *encode_any(updated.spec),
                    updated.snapshot_key,
                    encode_map(updated.labels),
                    encode_extensions(updated.extensions),
                    updated.updated_at,
                    scope.namespace,
                    updated.id,
                ),
            )
            if updated.labels != before.labels:
                write_graph(tx.connection, scope.namespace, CONTAINERS, updated.id, updated.labels)
            event = ContainerUpdate(updated.id, updated.image, updated.labels, updated.snapshot_key)
            tx.after_commit(lambda: self._events.publish(scope.namespace, event))
            return updated

        return await self._database.write(work)

    async def delete(self, scope: Scope, id: str) -> None:
        def work(tx: Transaction) -> None:
            deleted = tx.connection.execute(
                "DELETE FROM containers WHERE namespace = ? AND id = ?", (scope.namespace, id)
            )
            if deleted.rowcount == 0:
                raise NotFoundError(f"container {id}: not found")
            tx.mark_dirty()
            tx.after_commit(lambda: self._events.publish(scope.namespace, ContainerDelete(id)))

        await self._database.write(work)


def _read(connection: sqlite3.Connection, scope: Scope, id: str) -> Container | None:
    row = connection.execute(f"{_SELECT} AND id = ?", (scope.namespace, id)).fetchone()
    return None if row is None else _container(row)


def _container(row: tuple[Any, ...]) -> Container:
    return Container(
        id=row[0],
        image=row[1],
        runtime_name=row[2],
        runtime_options=decode_any(row[3], row[4]),
        spec=decode_any(row[5], row[6]),
        snapshotter=row[7],
        snapshot_key=row[8],
        sandbox=row[9],
        labels=decode_map(row[10]),
        extensions=decode_extensions(row[11]),
        created_at=row[12],
        updated_at=row[13],
    )


def _merge(before: Container, given: Container, fieldpaths: Sequence[str]) -> Container:
    if not fieldpaths:
        # Refused rather than ignored, so that they may become mutable one day.
        if before.snapshotter != given.snapshotter:
            raise InvalidArgumentError("container.Snapshotter field is immutable: invalid argument")
        if before.runtime_name != given.runtime_name:
            raise InvalidArgumentError("container.Runtime.Name field is immutable: invalid argument")
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
        elif path == "spec":
            result = dataclasses.replace(result, spec=given.spec)
        elif path == "extensions":
            # containerd adds to what is there; clients that send what they know must not lose the rest.
            result = dataclasses.replace(result, extensions={**result.extensions, **given.extensions})
        elif path == "image":
            result = dataclasses.replace(result, image=given.image)
        elif path == "snapshotkey":
            result = dataclasses.replace(result, snapshot_key=given.snapshot_key)
        else:
            raise unknown_path(path, quoted(given.id))
    return result


def _validate(container: Container, doing: str) -> None:
    try:
        validate_identifier(container.id)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{doing}: container.ID: {error.message}: invalid argument") from error
    if "" in container.extensions:
        raise InvalidArgumentError(
            f"{doing}: container.Extension keys must not be zero-length: invalid argument"
        )
    validate_labels(container.labels, f"{doing}: containers.Labels")
    if not container.runtime_name:
        raise InvalidArgumentError(f"{doing}: container.Runtime.Name must be set: invalid argument")
    if container.spec is None:
        raise InvalidArgumentError(f"{doing}: container.Spec must be set: invalid argument")
    if container.snapshot_key and not container.snapshotter:
        raise InvalidArgumentError(
            f"{doing}: container.Snapshotter must be set if container.SnapshotKey is set: invalid argument"
        )


def _field(container: Container, path: tuple[str, ...]) -> str | None:
    match path:
        case ("id", *_):
            return container.id
        case ("runtime", "name", *_):
            return container.runtime_name
        case ("image", *_):
            return container.image or None
        case ("labels", *_):
            return map_value(path, container.labels)
    return None
