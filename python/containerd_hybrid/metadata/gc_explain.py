"""What an operator asks about garbage: why is this alive, and what would go.

Everything is read from the database alone, in one read transaction, so the answer is of one moment.
"""

from __future__ import annotations

import datetime
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from containerd_hybrid.metadata import refs
from containerd_hybrid.metadata.api import CollectedNode, Database, Finding, Link, Removal
from containerd_hybrid.metadata.gc import chain_to
from containerd_hybrid.model import labels as names
from containerd_hybrid.model.labels import GC_ROOT

_NAMED = {
    refs.IMAGES: "SELECT name FROM images WHERE namespace = :namespace AND name = :key",
    refs.LEASES: "SELECT id FROM leases WHERE namespace = :namespace AND id = :key",
    refs.CONTAINERS: "SELECT id FROM containers WHERE namespace = :namespace AND id = :key",
    refs.SANDBOXES: "SELECT id FROM sandboxes WHERE namespace = :namespace AND id = :key",
    refs.INGESTS: "SELECT ref FROM ingests WHERE namespace = :namespace AND ref = :key",
    refs.MOUNTS: "SELECT name FROM mounts WHERE namespace = :namespace AND name = :key",
}
_CONTENT = (
    "SELECT digest FROM content WHERE namespace = :namespace AND (digest = :key OR digest GLOB :pattern)"
)
_SNAPSHOTS = "SELECT snapshotter, name FROM snapshots WHERE namespace = :namespace AND name = :key"
_EXPIRES = {
    refs.LEASES: "SELECT expires_at FROM leases WHERE namespace = ? AND id = ?",
    refs.IMAGES: "SELECT expires_at FROM images WHERE namespace = ? AND name = ?",
    refs.INGESTS: "SELECT expires_at FROM ingests WHERE namespace = ? AND ref = ?",
}
_LABELS = {
    refs.IMAGES: "SELECT labels FROM images WHERE namespace = ? AND name = ?",
    refs.CONTENT: "SELECT labels FROM content WHERE namespace = ? AND digest = ?",
    refs.CONTAINERS: "SELECT labels FROM containers WHERE namespace = ? AND id = ?",
    refs.SANDBOXES: "SELECT labels FROM sandboxes WHERE namespace = ? AND id = ?",
    refs.LEASES: "SELECT labels FROM leases WHERE namespace = ? AND id = ?",
    refs.MOUNTS: "SELECT labels FROM mounts WHERE namespace = ? AND name = ?",
}
_LABELS_OF_SNAPSHOT = "SELECT labels FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?"
_PREFIX = "snapshots/"
_FIELDS = {
    (refs.IMAGES, refs.CONTENT): "its target",
    (refs.CONTAINERS, _PREFIX): "its snapshot",
    (_PREFIX, _PREFIX): "its parent",
    (refs.INGESTS, refs.CONTENT): "what it stands for",
}
_BY_THEMSELVES = {
    refs.CONTAINERS: "a container",
    refs.SANDBOXES: "a sandbox",
    refs.MOUNTS: "is being mounted",
    refs.CONTENT: f"label {GC_ROOT}",
    _PREFIX: f"label {GC_ROOT}",
}


class GarbageExplainer:
    """Implements :class:`containerd_hybrid.metadata.api.GarbageExplainer`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def why(self, namespace: str, key: str, type: str = "") -> list[Finding]:
        """See :meth:`containerd_hybrid.metadata.api.GarbageExplainer.why`."""
        return await self._database.read(lambda connection: _why(connection, namespace, key, type))

    async def measure(self, nodes: Sequence[CollectedNode]) -> Removal:
        """See :meth:`containerd_hybrid.metadata.api.GarbageExplainer.measure`."""
        return await self._database.read(lambda connection: _measure(connection, nodes))


def _why(connection: sqlite3.Connection, namespace: str, key: str, type: str) -> list[Finding]:
    return [
        Finding(node, tuple(_links(connection, chain_to(connection, namespace, node.type, node.key))))
        for node in _find(connection, namespace, key)
        if type in ("", node.type)
    ]


def _find(connection: sqlite3.Connection, namespace: str, key: str) -> Iterable[CollectedNode]:
    digits = re.fullmatch(r"(?:(sha\d+):)?([0-9a-f]{4,})", key)
    pattern = f"{digits[1] or 'sha256'}:{digits[2]}*" if digits else ""
    place = {"namespace": namespace, "key": key, "pattern": pattern}
    for (digest,) in connection.execute(_CONTENT, place).fetchall():
        yield CollectedNode(namespace, refs.CONTENT, digest)
    for snapshotter, name in connection.execute(_SNAPSHOTS, place).fetchall():
        yield CollectedNode(namespace, refs.snapshots(snapshotter), name)
    for kind, query in _NAMED.items():
        for (name,) in connection.execute(query, place).fetchall():
            yield CollectedNode(namespace, kind, name)


def _links(connection: sqlite3.Connection, chain: Sequence[CollectedNode]) -> Iterable[Link]:
    for before, node in zip((None, *chain), chain, strict=False):
        if before is None:
            yield Link(node, _by_itself(connection, node))
        else:
            yield Link(node, _held(connection, before, node))


def _by_itself(connection: sqlite3.Connection, node: CollectedNode) -> str:
    if node.type in _EXPIRES:
        row = connection.execute(_EXPIRES[node.type], (node.namespace, node.key)).fetchone()
        what = {refs.LEASES: "a lease", refs.IMAGES: "an image", refs.INGESTS: "an ingest"}[node.type]
        until = _time(row[0]) if row and row[0] is not None else ""
        return f"{what} until {until}" if until else what
    return _BY_THEMSELVES.get(_kind(node.type), "lives by itself")


def _held(connection: sqlite3.Connection, holder: CollectedNode, node: CollectedNode) -> str:
    if holder.type == refs.LEASES:
        return "held by the lease"
    found = connection.execute(
        "SELECT kind, op, age FROM refs WHERE namespace = ? AND from_type = ? AND from_key = ?"
        " AND to_type = ? AND to_key = ? ORDER BY CASE kind WHEN 'field' THEN 0 WHEN 'label' THEN 1"
        " WHEN 'back' THEN 2 ELSE 3 END",
        (node.namespace, holder.type, holder.key, node.type, node.key),
    ).fetchone()
    if found is None:
        return "held"
    kind, op, age = found
    if kind == "field":
        return _FIELDS.get((_kind(holder.type), _kind(node.type)), "a field of it")
    if kind == "label":
        return _label(connection, holder, (node.type, node.key), back=False)
    if kind == "back":
        return _label(connection, node, (holder.type, holder.key), back=True)
    words = "less" if op == "<" else "more"
    return f"label {names.GC_COND_SNAPSHOT}.…: used {words} than {age / 1e9:g}s ago"


def _label(connection: sqlite3.Connection, on: CollectedNode, other: tuple[str, str], *, back: bool) -> str:
    """The name of the label that says so; several can, and one is enough."""
    for name, value in _labels_of(connection, on).items():
        graph = refs.read_labels({name: value})
        if other in (graph.held_by if back else graph.holds):
            return f"its own label {name}" if back else f"label {name}"
    return "a label"


def _labels_of(connection: sqlite3.Connection, node: CollectedNode) -> dict[str, str]:
    if node.type.startswith(_PREFIX):
        place = (node.namespace, node.type.removeprefix(_PREFIX), node.key)
        row = connection.execute(_LABELS_OF_SNAPSHOT, place).fetchone()
    else:
        row = connection.execute(_LABELS[node.type], (node.namespace, node.key)).fetchone()
    return dict(json.loads(row[0])) if row else {}


def _time(nanoseconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(nanoseconds // 10**9, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _kind(type: str) -> str:
    return _PREFIX if type.startswith(_PREFIX) else type


@dataclass(slots=True)
class _Sizes:
    sizes: dict[CollectedNode, int] = field(default_factory=dict)
    removed: Counter[str] = field(default_factory=Counter)
    of_digest: dict[str, int] = field(default_factory=dict)


def _measure(connection: sqlite3.Connection, nodes: Sequence[CollectedNode]) -> Removal:
    found = _Sizes()
    for node in nodes:
        if node.type != refs.CONTENT:
            continue
        row = connection.execute(
            "SELECT size FROM content WHERE namespace = ? AND digest = ?", (node.namespace, node.key)
        ).fetchone()
        if row is not None:
            found.sizes[node] = found.of_digest[node.key] = row[0]
            found.removed[node.key] += 1
    # The bytes stay while another namespace has a record of them.
    total = sum(
        found.of_digest[digest]
        for digest, count in found.removed.items()
        if connection.execute("SELECT count(*) FROM content WHERE digest = ?", (digest,)).fetchone()[0]
        <= count
    )
    return Removal(found.sizes, total)
