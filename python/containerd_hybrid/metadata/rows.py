"""What the stores share: how values become columns, and what leases have to do with every row."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence

from containerd_hybrid.errors import InvalidFilterError, NotFoundError
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.model.filters import Filters
from containerd_hybrid.model.labels import stored_labels

_NO_LABELS = "{}"
# SQLite takes at least 32766 parameters, but each number of them is a statement of its own.
_MAX_LOOKUPS = 16


def now() -> int:
    """The time that goes into ``created_at`` and ``updated_at``: Unix nanoseconds."""
    return time.time_ns()


def listed(filters: Sequence[str]) -> Filters:
    """The filters of a List; what is wrong with them is told as containerd does, with the class once more.

    Raises:
        InvalidFilterError: one cannot be parsed.
    """
    try:
        return Filters.parse(filters)
    except InvalidFilterError as error:
        raise InvalidFilterError(f"{error.message}: invalid argument") from None


def encode_map(values: Mapping[str, str]) -> str:
    """Labels or annotations as a column; those with an empty value are left out."""
    if not values:
        return _NO_LABELS
    return json.dumps(stored_labels(values), sort_keys=True, separators=(",", ":"))


def decode_map(column: str) -> dict[str, str]:
    """The inverse of :func:`encode_map`."""
    return {} if column == _NO_LABELS else json.loads(column)


def encode_any(value: AnyValue | None) -> tuple[str | None, bytes | None]:
    """A typed value as its two columns."""
    return (None, None) if value is None else (value.type_url, value.value)


def decode_any(type_url: str | None, value: bytes | None) -> AnyValue | None:
    """The inverse of :func:`encode_any`."""
    return None if type_url is None else AnyValue(type_url, value or b"")


def encode_extensions(extensions: Mapping[str, AnyValue]) -> str:
    """Extensions as a column: name → [type url, base64 of the value]."""
    if not extensions:
        return _NO_LABELS
    plain = {
        name: [value.type_url, base64.b64encode(value.value).decode()] for name, value in extensions.items()
    }
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def decode_extensions(column: str) -> dict[str, AnyValue]:
    """The inverse of :func:`encode_extensions`."""
    if column == _NO_LABELS:
        return {}
    return {name: AnyValue(url, base64.b64decode(value)) for name, (url, value) in json.loads(column).items()}


def ingest_key(id: int, namespace: str, ref: str) -> str:
    """The name of an ingest in the :class:`~containerd_hybrid.content.api.BlobStore`.

    As containerd makes it, so that one ref in two namespaces has two folders; the number tells an
    ingest from an earlier one of the same name whose folder is still to be removed.
    """
    return f"{id}/{namespace}/{ref}"


def add_to_lease(connection: sqlite3.Connection, scope: Scope, type: str, key: str) -> bool:
    """Put a thing under the scope's lease, if it has one; returns whether it has.

    ``type`` is that of a lease resource. To be called in the transaction that makes the thing.

    Raises:
        NotFoundError: the lease does not exist (any more).
    """
    if scope.lease is None:
        return False
    known = connection.execute(
        "SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (scope.namespace, scope.lease)
    ).fetchone()
    if known is None:
        raise NotFoundError("lease does not exist: not found")
    connection.execute(
        "INSERT INTO lease_resources (namespace, lease, type, key) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        (scope.namespace, scope.lease, type, key),
    )
    return True


def remove_from_lease(connection: sqlite3.Connection, scope: Scope, type: str, key: str) -> None:
    """Take a thing from the scope's lease, if it has one and the thing is under it."""
    if scope.lease is not None:
        connection.execute(
            "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND key = ?",
            (scope.namespace, scope.lease, type, key),
        )


def select_listed(
    connection: sqlite3.Connection, select: str, namespace: str, key: str, only: frozenset[str] | None
) -> sqlite3.Cursor:
    """The rows of a list in the order of their keys, by one SELECT.

    ``select`` ends in ``WHERE namespace = ?``; ``key`` is the column to order by; ``only`` are the keys
    that a filter can match at all, if it names them, so that a list by name is a look-up.
    """
    if only is None or len(only) > _MAX_LOOKUPS:
        return connection.execute(f"{select} ORDER BY {key}", (namespace,))
    marks = ", ".join("?" * len(only))
    return connection.execute(f"{select} AND {key} IN ({marks}) ORDER BY {key}", (namespace, *only))
