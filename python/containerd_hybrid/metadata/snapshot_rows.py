"""The rows of snapshots. Every function works in the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.metadata.refs import snapshots, write_graph
from containerd_hybrid.metadata.rows import decode_map, encode_map, now
from containerd_hybrid.model.labels import stored_labels
from containerd_hybrid.snapshots.api import Kind, SnapshotInfo, Usage

_SELECT = (
    "SELECT s.id, s.kind, s.name, coalesce(p.name, ''), s.created_at, s.updated_at, s.labels,"
    " s.size, s.inodes FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent"
)
_RESERVED = 64


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A snapshot's record: its number, what clients see, and what it took when it was committed."""

    id: int
    info: SnapshotInfo
    usage: Usage


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace's part of a snapshotter: where keys are unique."""

    namespace: str
    snapshotter: str


def select_snapshot(connection: sqlite3.Connection, place: Place, key: str) -> SnapshotRow:
    """Raises: NotFoundError."""
    row = find_snapshot(connection, place, key)
    if row is None:
        raise NotFoundError(f"snapshot {key} does not exist: not found")
    return row


def find_snapshot(connection: sqlite3.Connection, place: Place, key: str) -> SnapshotRow | None:
    """A snapshot by its key or name."""
    row = connection.execute(
        _SELECT + " WHERE s.namespace = ? AND s.snapshotter = ? AND s.name = ?",
        (place.namespace, place.snapshotter, key),
    ).fetchone()
    return None if row is None else _row(row)


def select_snapshots(
    connection: sqlite3.Connection, place: Place, after: str, limit: int
) -> list[SnapshotRow]:
    """The next snapshots behind the name ``after``, in order of their names."""
    rows = connection.execute(
        _SELECT + " WHERE s.namespace = ? AND s.snapshotter = ? AND s.name > ? ORDER BY s.name LIMIT ?",
        (place.namespace, place.snapshotter, after, limit),
    )
    return [_row(row) for row in rows]


def select_ids(connection: sqlite3.Connection, snapshotter: str) -> set[int]:
    """The numbers of all snapshots, in whatever namespace."""
    rows = connection.execute("SELECT id FROM snapshots WHERE snapshotter = ?", (snapshotter,))
    return {number for (number,) in rows}


def select_committed_ids(connection: sqlite3.Connection, snapshotter: str) -> list[int]:
    """The numbers of all committed snapshots, in whatever namespace."""
    rows = connection.execute(
        "SELECT id FROM snapshots WHERE snapshotter = ? AND kind = 'committed' ORDER BY id", (snapshotter,)
    )
    return [number for (number,) in rows]


def select_parents(connection: sqlite3.Connection, id: int) -> tuple[int, ...]:
    """The numbers of all parents, the nearest first."""
    rows = connection.execute(
        "WITH RECURSIVE chain (id, depth) AS ("
        " SELECT parent, 1 FROM snapshots WHERE id = ? AND parent IS NOT NULL"
        " UNION ALL SELECT s.parent, depth + 1 FROM chain JOIN snapshots s ON s.id = chain.id"
        " WHERE s.parent IS NOT NULL) SELECT id FROM chain ORDER BY depth",
        (id,),
    )
    return tuple(parent for (parent,) in rows)


def has_children(connection: sqlite3.Connection, id: int) -> bool:
    """Whether another snapshot builds on this one."""
    return (
        connection.execute("SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", (id,)).fetchone() is not None
    )


def reserve_ids(connection: sqlite3.Connection) -> range:
    """Numbers that no snapshot has had or will be given otherwise."""
    updated = connection.execute(
        "UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'snapshots'", (_RESERVED,)
    )
    if updated.rowcount == 0:
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('snapshots', ?)", (_RESERVED,))
    (last,) = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'").fetchone()
    return range(last - _RESERVED + 1, last + 1)


def insert_snapshot(
    connection: sqlite3.Connection,
    place: Place,
    id: int,
    kind: Kind,
    key: str,
    parent: int | None,
    labels: Mapping[str, str],
) -> None:
    """Record a new snapshot under a reserved number."""
    moment = now()
    connection.execute(
        "INSERT INTO snapshots"
        " (id, namespace, snapshotter, name, parent, kind, labels, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (id, place.namespace, place.snapshotter, key, parent, kind.value, encode_map(labels), moment, moment),
    )
    write_graph(connection, place.namespace, snapshots(place.snapshotter), key, labels, fresh=True)


def commit_snapshot(
    connection: sqlite3.Connection,
    place: Place,
    id: int,
    name: str,
    parent: int | None,
    usage: Usage,
    labels: Mapping[str, str],
) -> None:
    """Give an active snapshot its lasting name and labels."""
    moment = now()
    connection.execute(
        "UPDATE snapshots SET kind = 'committed', name = ?, parent = ?, size = ?, inodes = ?, labels = ?,"
        " created_at = ?, updated_at = ? WHERE id = ?",
        (name, parent, usage.size, usage.inodes, encode_map(labels), moment, moment, id),
    )
    write_graph(connection, place.namespace, snapshots(place.snapshotter), name, labels)


def update_snapshot(
    connection: sqlite3.Connection, place: Place, row: SnapshotRow, labels: Mapping[str, str]
) -> SnapshotInfo:
    """Replace a snapshot's labels."""
    moment = now()
    connection.execute(
        "UPDATE snapshots SET labels = ?, updated_at = ? WHERE id = ?", (encode_map(labels), moment, row.id)
    )
    info = row.info
    write_graph(connection, place.namespace, snapshots(place.snapshotter), info.name, labels)
    return SnapshotInfo(info.kind, info.name, info.parent, info.created_at, moment, stored_labels(labels))


def delete_snapshot(connection: sqlite3.Connection, id: int) -> None:
    """Forget a snapshot."""
    connection.execute("DELETE FROM snapshots WHERE id = ?", (id,))


def _row(row: tuple[int, str, str, str, int, int, str, int, int]) -> SnapshotRow:
    number, kind, name, parent, created_at, updated_at, labels, size, inodes = row
    info = SnapshotInfo(Kind(kind), name, parent, created_at, updated_at, decode_map(labels))
    return SnapshotRow(number, info, Usage(size, inodes))
