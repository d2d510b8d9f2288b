"""Image records in the database; implements :class:`containerd_hybrid.images.api.ImageStore`."""

from __future__ import annotations

import builtins
import dataclasses
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any

from containerd_hybrid.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from containerd_hybrid.events.api import EventPublisher, ImageCreate, ImageDelete, ImageUpdate
from containerd_hybrid.images.api import Image
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.refs import IMAGES, write_graph
from containerd_hybrid.metadata.rows import (
    add_to_lease,
    decode_map,
    encode_map,
    listed,
    now,
    remove_from_lease,
    select_listed,
)
from containerd_hybrid.model import Descriptor, Digest, Scope
from containerd_hybrid.model.fieldpaths import map_key, unknown_path, with_key
from containerd_hybrid.model.filters import map_value
from containerd_hybrid.model.identifiers import quoted
from containerd_hybrid.model.labels import GC_EXPIRE, expiry, stored_labels, validate_labels

_COLUMNS = "name, media_type, digest, size, annotations, labels, created_at, updated_at"
_SELECT = f"SELECT {_COLUMNS} FROM images WHERE namespace = ?"  # noqa: S608 - constants


class MetadataImageStore:
    """Names for descriptors; events ``/images/*`` follow each durable change."""

    def __init__(self, database: Database, events: EventPublisher) -> None:
        self._database = database
        self._events = events

    async def get(self, scope: Scope, name: str) -> Image:
        key = (IMAGES, scope.namespace, name)
        return await self._database.recall(key, lambda connection: _read(connection, scope, name))

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> builtins.list[Image]:
        wanted = listed(filters)

        def work(connection: sqlite3.Connection) -> builtins.list[Image]:
            rows = select_listed(connection, _SELECT, scope.namespace, "name", wanted.exact("name"))
            images = (_image(row) for row in rows)
            if wanted.always:
                return [*images]
            return [image for image in images if wanted.match(partial(_field, image))]

        return await self._database.read(work)

    async def create(self, scope: Scope, image: Image, *, source_date_epoch: int | None = None) -> Image:
        def work(tx: Transaction) -> Image:
            _validate(image)
            _lease(tx.connection, scope, image)
            moment = now() if source_date_epoch is None else source_date_epoch
            created = dataclasses.replace(_stored(image), created_at=moment, updated_at=moment)
            inserted = tx.connection.execute(
                "INSERT INTO images (namespace, name, media_type, digest, size, annotations, labels,"
                " created_at, updated_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (
                    scope.namespace,
                    created.name,
                    *_mutable(created),
                    created.created_at,
                    created.updated_at,
                    expiry(created.labels),
                ),
            )
            if inserted.rowcount == 0:
                raise AlreadyExistsError(f"image {quoted(image.name)}: already exists")
            write_graph(tx.connection, scope.namespace, IMAGES, created.name, created.labels, fresh=True)
            event = ImageCreate(created.name, created.labels)
            tx.after_commit(lambda: self._events.publish(scope.namespace, event))
            return created

        return await self._database.write(work)

    async def update(
        self,
        scope: Scope,
        image: Image,
        fieldpaths: Sequence[str] = (),
        *,
        source_date_epoch: int | None = None,
    ) -> Image:
        if not image.name:
            raise InvalidArgumentError("image name is required for update: invalid argument")

        def work(tx: Transaction) -> Image:
            before = _read(tx.connection, scope, image.name)
            changed = _merge(before, image, fieldpaths)
            _validate(changed)
            _lease(tx.connection, scope, changed)
            moment = now() if source_date_epoch is None else source_date_epoch
            updated = dataclasses.replace(_stored(changed), created_at=before.created_at, updated_at=moment)
            tx.connection.execute(
                "UPDATE images SET media_type = ?, digest = ?, size = ?, annotations = ?, labels = ?,"
                " updated_at = ?, expires_at = ? WHERE namespace = ? AND name = ?",
                (
                    *_mutable(updated),
                    updated.updated_at,
                    expiry(updated.labels),
                    scope.namespace,
                    updated.name,
                ),
            )
            if updated.labels != before.labels:
                write_graph(tx.connection, scope.namespace, IMAGES, updated.name, updated.labels)
            event = ImageUpdate(updated.name, updated.labels)
            tx.after_commit(lambda: self._events.publish(scope.namespace, event))
            return updated

        return await self._database.write(work)

    async def delete(self, scope: Scope, name: str, *, target: Descriptor | None = None) -> None:
        def work(tx: Transaction) -> None:
            if target is not None:
                found = _read(tx.connection, scope, name).target.digest
                if found != target.digest:
                    raise NotFoundError(
                        f"image {quoted(name)} has target {found}, not {target.digest}: not found"
                    )
            deleted = tx.connection.execute(
                "DELETE FROM images WHERE namespace = ? AND name = ?", (scope.namespace, name)
            )
            if deleted.rowcount == 0:
                raise _not_found(name)
            remove_from_lease(tx.connection, scope, IMAGES, name)
            tx.mark_dirty()
            tx.after_commit(lambda: self._events.publish(scope.namespace, ImageDelete(name)))

        await self._database.write(work)


def _not_found(name: str) -> NotFoundError:
    return NotFoundError(f"image {quoted(name)}: not found")


def _read(connection: sqlite3.Connection, scope: Scope, name: str) -> Image:
    row = connection.execute(f"{_SELECT} AND name = ?", (scope.namespace, name)).fetchone()
    if row is None:
        raise _not_found(name)
    return _image(row)


def _image(row: tuple[Any, ...]) -> Image:
    name, media_type, digest, size, annotations, labels, created_at, updated_at = row
    algorithm, _, encoded = digest.partition(":")
    target = Descriptor(media_type, Digest(algorithm, encoded), size, decode_map(annotations))
    return Image(name, target, decode_map(labels), created_at, updated_at)


def _mutable(image: Image) -> tuple[str, str, int, str, str]:
    target = image.target
    return (
        target.media_type,
        str(target.digest),
        target.size,
        encode_map(target.annotations),
        encode_map(image.labels),
    )


def _stored(image: Image) -> Image:
    """The image with what a record keeps of it: not the target's platform, urls and data."""
    target = image.target
    kept = Descriptor(target.media_type, target.digest, target.size, stored_labels(target.annotations))
    return dataclasses.replace(image, target=kept, labels=stored_labels(image.labels))


def _lease(connection: sqlite3.Connection, scope: Scope, image: Image) -> None:
    # An image that cannot expire needs nobody to keep it.
    if GC_EXPIRE in image.labels:
        add_to_lease(connection, scope, IMAGES, image.name)


def _merge(before: Image, given: Image, fieldpaths: Sequence[str]) -> Image:
    if not fieldpaths:
        return given
    labels, target = before.labels, before.target
    for path in fieldpaths:
        label, annotation = map_key(path, "labels"), map_key(path, "annotations")
        if label is not None:
            labels = with_key(labels, given.labels, label)
        elif annotation is not None:
            annotations = with_key(target.annotations, given.target.annotations, annotation)
            target = dataclasses.replace(target, annotations=annotations)
        elif path == "labels":
            labels = given.labels
        elif path == "target":
            target = given.target
        elif path == "annotations":
            target = dataclasses.replace(target, annotations=given.target.annotations)
        else:
            raise unknown_path(path, f"image {quoted(given.name)}")
    return dataclasses.replace(before, labels=labels, target=target)


def _validate(image: Image) -> None:
    if not image.name:
        raise InvalidArgumentError("image name must not be empty: invalid argument")
    validate_labels(image.labels, "image.Labels")
    if image.target.size <= 0:
        raise InvalidArgumentError("target.Size must be greater than zero: invalid argument")
    if not image.target.media_type:
        raise InvalidArgumentError("target.MediaType must be set: invalid argument")


def _field(image: Image, path: tuple[str, ...]) -> str | None:
    match path:
        case ("name", *_):
            return image.name
        case ("target", "digest", *_):
            return str(image.target.digest)
        case ("target", "mediatype", *_):
            return image.target.media_type
        case ("labels", *_):
            return map_value(path, image.labels)
        case ("annotations", *_):
            return map_value(path, image.target.annotations)
    return None
