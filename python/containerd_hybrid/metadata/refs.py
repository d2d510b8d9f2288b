"""The collector's graph as labels draw it: who holds whom, who lives without being held.

Labels (containerd's docs/garbage-collection.md; a ``.NAME`` or ``/NAME`` behind the first ones is free):

======================================== ==============================================================
``containerd.io/gc.ref.content``         this object holds the blob with that digest
``containerd.io/gc.ref.image``           … the image of that name
``containerd.io/gc.ref.mount``           … the activation of that name (mount manager)
``containerd.io/gc.ref.snapshot.SN[/N]`` … the snapshot with that key in snapshotter SN
``containerd.io/gc.bref.{container,content,image}``, ``…gc.bref.snapshot.SN[/N]``
                                         this object is held by that container, blob, image, snapshot
``containerd.io/gc.cond.snapshot.SN``    ``usedat<AGE|KEY``: this object holds the snapshot while that was
                                         used less (``>``: more) than AGE ago; ``,`` joins alternatives
``containerd.io/gc.cond.value-usedat``   on a snapshot: when it was used (RFC 3339)
``containerd.io/gc.root``                on a blob or snapshot: it lives without being held
======================================== ==============================================================

Invariant: after every transaction the rows of kinds label, back and cond, and those of ``roots`` and
``used_at``, are what the labels of the objects in the store say. :func:`write_graph` is called by each
store beside every write of labels; the schema's triggers do the rest (columns, deletion).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from containerd_hybrid.model import labels as names

CONTENT = "content"
IMAGES = "images"
CONTAINERS = "containers"
SANDBOXES = "sandboxes"
INGESTS = "ingests"
LEASES = "leases"
MOUNTS = "mounts"


def snapshots(snapshotter: str) -> str:
    """The node type of a snapshotter's snapshots."""
    return f"snapshots/{snapshotter}"


@dataclass(frozen=True, slots=True)
class Condition:
    """``(type, key)`` is held while it was used less (``<``) or more (``>``) than ``age`` ns ago."""

    type: str
    key: str
    op: str
    age: int


@dataclass(frozen=True, slots=True)
class LabelGraph:
    """What an object's labels say: pairs are (type, key)."""

    holds: frozenset[tuple[str, str]] = frozenset()
    held_by: frozenset[tuple[str, str]] = frozenset()
    conditions: frozenset[Condition] = frozenset()
    used_at: frozenset[int] = frozenset()
    root: bool = False


@dataclass(slots=True)
class _Draft:
    holds: set[tuple[str, str]] = field(default_factory=set)
    held_by: set[tuple[str, str]] = field(default_factory=set)
    conditions: set[Condition] = field(default_factory=set)
    used_at: set[int] = field(default_factory=set)
    root: bool = False


_NONE = LabelGraph()
_PREFIX = "containerd.io/gc."
_NAMED = {
    names.GC_REF_CONTENT: ("holds", CONTENT),
    names.GC_REF_IMAGE: ("holds", IMAGES),
    names.GC_REF_MOUNT: ("holds", MOUNTS),
    names.GC_BREF_CONTENT: ("held_by", CONTENT),
    names.GC_BREF_IMAGE: ("held_by", IMAGES),
    names.GC_BREF_CONTAINER: ("held_by", CONTAINERS),
}
# What containerd reads of each type; an image's root label, say, means nothing.
_HAS_ROOT = (CONTENT, "snapshots/")
_HAS_CONDITIONS = (CONTENT, IMAGES)
_HAS_BACK = (CONTENT, IMAGES, CONTAINERS, MOUNTS, "snapshots/")


def read_labels(labels: Mapping[str, str]) -> LabelGraph:
    """What labels say, whatever object they are on."""
    relevant = [(key, value) for key, value in labels.items() if value and key.startswith(_PREFIX)]
    if not relevant:
        return _NONE
    draft = _Draft()
    for key, value in relevant:
        _read_label(draft, key, value)
    return LabelGraph(
        frozenset(draft.holds),
        frozenset(draft.held_by),
        frozenset(draft.conditions),
        frozenset(draft.used_at),
        draft.root,
    )


def _read_label(draft: _Draft, key: str, value: str) -> None:
    for prefix, (direction, other) in _NAMED.items():
        if key.startswith(prefix) and key[len(prefix) : len(prefix) + 1] in ("", ".", "/"):
            (draft.holds if direction == "holds" else draft.held_by).add((other, value))
            return
    if key.startswith(names.GC_REF_SNAPSHOT + "."):
        draft.holds.add((_snapshotter(key, names.GC_REF_SNAPSHOT), value))
    elif key.startswith(names.GC_BREF_SNAPSHOT + "."):
        draft.held_by.add((_snapshotter(key, names.GC_BREF_SNAPSHOT), value))
    elif key.startswith(names.GC_COND_SNAPSHOT):
        draft.conditions |= _conditions(key, value)
    elif key.startswith(names.GC_USED_AT):
        moment = names.parse_rfc3339(value)
        if moment is not None:
            draft.used_at.add(moment)
    elif key.startswith(names.GC_ROOT):
        draft.root = True


def _snapshotter(key: str, prefix: str) -> str:
    return snapshots(key[len(prefix) + 1 :].partition("/")[0])


def _conditions(key: str, value: str) -> set[Condition]:
    snapshotter = snapshots(key[len(names.GC_COND_SNAPSHOT) :].lstrip("./").partition("/")[0])
    alternatives, separator, target = value.partition("|")
    found = set()
    if separator:
        for alternative in alternatives.split(","):
            match = re.fullmatch(r"usedat([<>])([^=].*)", alternative)
            age = parse_duration(match[2]) if match else None
            if match and age is not None:
                found.add(Condition(snapshotter, target, match[1], age))
    return found


_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION = re.compile(r"([+-]?)((?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_MAX_DURATION = 2**63 - 1


def parse_duration(text: str) -> int | None:
    """Nanoseconds of a duration as Go writes it (``1h30m``, ``1.5s``); None when it is none."""
    if text in ("0", "+0", "-0"):
        return 0
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    total = 0
    for number, unit in _PART.findall(match[2]):
        whole, _, fraction = number.partition(".")
        # Whole numbers all the way: a float has not the digits, and decimal is a library to be loaded.
        total += int(whole or 0) * _UNITS[unit] + int(fraction or 0) * _UNITS[unit] // 10 ** len(fraction)
    if total > _MAX_DURATION:
        return None
    return -total if match[1] == "-" else total


def write_graph(
    connection: sqlite3.Connection,
    namespace: str,
    type: str,
    key: str,
    labels: Mapping[str, str],
    *,
    fresh: bool = False,
) -> None:
    """Make the graph say what an object's labels say, instead of what they said before.

    ``fresh`` promises that the object was just inserted, so there is nothing from before.
    """
    node = (namespace, type, key)
    graph = read_labels(labels)
    if not fresh:
        clear_graph(connection, namespace, type, key)
    if graph is _NONE:
        return
    if type != MOUNTS:
        connection.executemany(
            "INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)"
            " VALUES (?, ?, ?, ?, ?, 'label')",
            [(*node, *target) for target in graph.holds],
        )
    if type.startswith(_HAS_BACK):
        connection.executemany(
            "INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)"
            " VALUES (?, ?, ?, ?, ?, 'back')",
            [(namespace, *holder, type, key) for holder in graph.held_by],
        )
    if type in _HAS_CONDITIONS:
        connection.executemany(
            "INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind, op, age)"
            " VALUES (?, ?, ?, ?, ?, 'cond', ?, ?)",
            [(*node, one.type, one.key, one.op, one.age) for one in graph.conditions],
        )
    if type.startswith(_HAS_ROOT) and graph.root:
        connection.execute("INSERT INTO roots (namespace, type, key) VALUES (?, ?, ?)", node)
    if type.startswith("snapshots/"):
        connection.executemany(
            "INSERT INTO used_at (namespace, type, key, at) VALUES (?, ?, ?, ?)",
            [(*node, at) for at in graph.used_at],
        )


def clear_graph(connection: sqlite3.Connection, namespace: str, type: str, key: str) -> None:
    """Forget what an object's labels said. Deleting the object's row does this by itself."""
    node = (namespace, type, key)
    connection.execute(
        "DELETE FROM refs WHERE namespace = ? AND from_type = ? AND from_key = ?"
        " AND kind IN ('label', 'cond')",
        node,
    )
    connection.execute(
        "DELETE FROM refs WHERE namespace = ? AND to_type = ? AND to_key = ? AND kind = 'back'", node
    )
    connection.execute("DELETE FROM roots WHERE namespace = ? AND type = ? AND key = ?", node)
    connection.execute("DELETE FROM used_at WHERE namespace = ? AND type = ? AND key = ?", node)
