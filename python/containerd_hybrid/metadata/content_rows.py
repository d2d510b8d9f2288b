"""The rows of blobs and ingests. Every function works in the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from containerd_hybrid.content.api import ContentInfo
from containerd_hybrid.metadata.refs import CONTENT, INGESTS, write_graph
from containerd_hybrid.metadata.rows import add_to_lease, decode_map, encode_map, now, remove_from_lease
from containerd_hybrid.model import Digest, Scope
from containerd_hybrid.model.labels import SHARED_NAMESPACE

INGEST_LIFE = 24 * 3600 * 1_000_000_000
"""Nanoseconds after its last opening that an ingest lives without a lease."""


def select_blob(connection: sqlite3.Connection, namespace: str, digest: Digest | str) -> ContentInfo | None:
    """A blob as the namespace sees it."""
    row = connection.execute(
        "SELECT digest, size, created_at, updated_at, labels FROM content WHERE namespace = ? AND digest = ?",
        (namespace, str(digest)),
    ).fetchone()
    return None if row is None else _info(row)


def select_blobs(connection: sqlite3.Connection, namespace: str, after: str, limit: int) -> list[ContentInfo]:
    """The next blobs behind the digest ``after``, in digest order."""
    rows = connection.execute(
        "SELECT digest, size, created_at, updated_at, labels FROM content"
        " WHERE namespace = ? AND digest > ? ORDER BY digest LIMIT ?",
        (namespace, after, limit),
    )
    return [_info(row) for row in rows]


def insert_blob(
    connection: sqlite3.Connection, scope: Scope, digest: Digest, size: int, labels: Mapping[str, str]
) -> ContentInfo | None:
    """Make a blob known to the namespace and put it under the lease; None when it is known already."""
    moment = now()
    cursor = connection.execute(
        "INSERT INTO content (namespace, digest, size, labels, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (scope.namespace, str(digest), size, encode_map(labels), moment, moment),
    )
    add_to_lease(connection, scope, CONTENT, str(digest))
    if cursor.rowcount == 0:
        return None
    write_graph(connection, scope.namespace, CONTENT, str(digest), labels, fresh=True)
    return ContentInfo(digest, size, moment, moment, {k: v for k, v in labels.items() if v})


def update_blob(
    connection: sqlite3.Connection, namespace: str, info: ContentInfo, labels: Mapping[str, str]
) -> ContentInfo:
    """Replace a blob's labels."""
    moment = now()
    connection.execute(
        "UPDATE content SET labels = ?, updated_at = ? WHERE namespace = ? AND digest = ?",
        (encode_map(labels), moment, namespace, str(info.digest)),
    )
    write_graph(connection, namespace, CONTENT, str(info.digest), labels)
    stored = {key: value for key, value in labels.items() if value}
    return ContentInfo(info.digest, info.size, info.created_at, moment, stored)


def delete_blob(connection: sqlite3.Connection, scope: Scope, digest: Digest) -> bool:
    """Make the namespace forget a blob; whether it knew it."""
    cursor = connection.execute(
        "DELETE FROM content WHERE namespace = ? AND digest = ?", (scope.namespace, str(digest))
    )
    remove_from_lease(connection, scope, CONTENT, str(digest))
    return cursor.rowcount > 0


def is_shareable(connection: sqlite3.Connection, digest: Digest) -> bool:
    """Whether a namespace that lets others use its content has the blob."""
    rows = connection.execute(
        "SELECT namespaces.labels FROM content JOIN namespaces ON namespaces.name = content.namespace"
        " WHERE content.digest = ?",
        (str(digest),),
    )
    return any(decode_map(labels).get(SHARED_NAMESPACE) == "true" for (labels,) in rows)


def begin_ingest(
    connection: sqlite3.Connection, scope: Scope, ref: str, total: int, adopted: Digest | None
) -> int:
    """Note that an ingest was opened and put it under the lease; its number.

    ``adopted`` is the blob of another namespace whose bytes it stands for, so that they stay.
    """
    leased = add_to_lease(connection, scope, INGESTS, ref)
    moment = now()
    connection.execute(
        "INSERT INTO ingests (namespace, ref, total, expected, started_at, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (namespace, ref)"
        " DO UPDATE SET expected = excluded.expected, expires_at = excluded.expires_at",
        (
            scope.namespace,
            ref,
            max(total, 0),
            None if adopted is None else str(adopted),
            moment,
            None if leased else moment + INGEST_LIFE,
        ),
    )
    number: int = connection.execute(
        "SELECT id FROM ingests WHERE namespace = ? AND ref = ?", (scope.namespace, ref)
    ).fetchone()[0]
    return number


def select_ingest(connection: sqlite3.Connection, namespace: str, ref: str) -> int | None:
    """The number of an ingest."""
    row = connection.execute(
        "SELECT id FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref)
    ).fetchone()
    return None if row is None else row[0]


def select_ingests(connection: sqlite3.Connection, namespace: str) -> list[tuple[int, str]]:
    """Number and ref of all ingests, in order of their refs."""
    return connection.execute(
        "SELECT id, ref FROM ingests WHERE namespace = ? ORDER BY ref", (namespace,)
    ).fetchall()


def delete_ingest(connection: sqlite3.Connection, scope: Scope, ref: str) -> int | None:
    """Forget an ingest; its number, None when there was none."""
    number = select_ingest(connection, scope.namespace, ref)
    if number is not None:
        connection.execute("DELETE FROM ingests WHERE id = ?", (number,))
    remove_from_lease(connection, scope, INGESTS, ref)
    return number


def _info(row: tuple[str, int, int, int, str]) -> ContentInfo:
    digest, size, created_at, updated_at, labels = row
    return ContentInfo(Digest.parse(digest), size, created_at, updated_at, decode_map(labels))
