"""Garbage collection: what no root reaches is removed (containerd's docs/garbage-collection.md).

A collection has three phases:

1. *mark*: one recursive query walks ``refs`` from the roots; what it does not reach is garbage. It first
   runs as a read, so a collection without garbage makes no write wait.
2. *sweep*: if there was some, the same query runs again inside the one write transaction that deletes
   the garbage, so nothing can become reachable in between.
3. *reclaim*, after the commit: bytes of blobs, folders of ingests and snapshots. A blob's bytes go under
   its lock (:mod:`.locks`) and only if no namespace has a record of it by then.

A crash between 2 and 3 leaves bytes without a record, never a record without bytes. The first
collection after a start therefore compares whole stores with the records; the later ones look only at
what the database says was released.

Roots: containers, sandboxes, what unexpired leases hold, images and ingests that have not expired, mounts
in the making, and content and snapshots labelled ``containerd.io/gc.root``. A lease labelled
``containerd.io/gc.flat`` holds things without what their labels hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from containerd_hybrid.content.api import BlobStore
from containerd_hybrid.errors import HybridError, NotFoundError
from containerd_hybrid.events.api import Event, EventPublisher, ImageDelete, SnapshotRemove
from containerd_hybrid.metadata.api import CollectedNode, CollectionReport, Database, Transaction
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.metadata.refs import CONTENT, IMAGES, INGESTS, LEASES, MOUNTS
from containerd_hybrid.metadata.rows import ingest_key, now
from containerd_hybrid.metadata.threads import settled
from containerd_hybrid.model import Digest
from containerd_hybrid.mounts.api import MountManager
from containerd_hybrid.snapshots.api import Snapshotter

log = logging.getLogger(__name__)

_ALIVE = "(expires_at IS NULL OR expires_at >= :now)"
_CONDITION = """(r.kind <> 'cond' OR EXISTS (
    SELECT 1 FROM used_at u
    WHERE u.namespace = r.namespace AND u.type = r.to_type AND u.key = r.to_key
    AND CASE r.op WHEN '<' THEN :now - u.at < r.age ELSE :now - u.at > r.age END))"""
# EXCEPT sorts both sides once; NOT IN would build an index of the marked for each table.
_GARBAGE = f"""
WITH RECURSIVE marked (namespace, type, key, flat) AS (
    SELECT namespace, 'containers', id, 0 FROM containers
    UNION SELECT namespace, 'sandboxes', id, 0 FROM sandboxes
    UNION SELECT namespace, type, key, 0 FROM roots
    UNION SELECT namespace, 'images', name, 0 FROM images WHERE {_ALIVE}
    UNION SELECT namespace, 'ingests', ref, 0 FROM ingests WHERE expires_at >= :now
    UNION SELECT namespace, 'leases', id, 0 FROM leases WHERE {_ALIVE}
    UNION SELECT namespace, 'mounts', name, 0 FROM mounts WHERE active IS NULL
    UNION SELECT namespace, 'mounts', name, 0
        FROM leases JOIN mounts USING (namespace) WHERE lease = leases.id AND {_ALIVE}
    UNION SELECT namespace, type, key, flat AND type <> 'ingests'
        FROM leases JOIN lease_resources USING (namespace) WHERE lease = id AND {_ALIVE}
    UNION SELECT r.namespace, r.to_type, r.to_key, m.flat FROM marked m
        JOIN refs r ON r.namespace = m.namespace AND r.from_type = m.type AND r.from_key = m.key
        WHERE (NOT m.flat OR r.kind = 'field') AND {_CONDITION}
),
collectible (namespace, type, key) AS (
    SELECT namespace, 'leases', id FROM leases
    UNION ALL SELECT namespace, 'images', name FROM images
    UNION ALL SELECT namespace, 'ingests', ref FROM ingests
    UNION ALL SELECT namespace, 'content', digest FROM content
    UNION ALL SELECT namespace, 'snapshots/' || snapshotter, name FROM snapshots
    UNION ALL SELECT namespace, 'mounts', name FROM mounts
)
SELECT namespace, type, key FROM collectible EXCEPT SELECT namespace, type, key FROM marked
"""  # noqa: S608 - constants

# One statement for all rows of a table: its triggers begin once, and that is three quarters of the time.
_NAMED = "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
_DELETES = (
    (f"DELETE FROM leases WHERE (namespace, id) IN {_NAMED}", LEASES),  # noqa: S608 - constants
    (f"DELETE FROM images WHERE (namespace, name) IN {_NAMED}", IMAGES),  # noqa: S608
    (f"DELETE FROM content WHERE (namespace, digest) IN {_NAMED}", CONTENT),  # noqa: S608
    (f"DELETE FROM mounts WHERE (namespace, name) IN {_NAMED}", MOUNTS),  # noqa: S608
)
_SNAPSHOTS = "snapshots/"
# Blobs whose locks are held at once, so that handing work to threads does not cost more than the work.
_REMOVED_TOGETHER = 256


@dataclass(slots=True)
class _Pending:
    """What has no record any more and may still have bytes. ``everything``: look at whole stores."""

    everything: bool = True
    blobs: set[str] = field(default_factory=set)
    ingests: set[str] = field(default_factory=set)
    snapshotters: set[str] = field(default_factory=set)


class MetadataCollector:
    """Collects when told to; :class:`~containerd_hybrid.metadata.scheduler.GcScheduler` says when."""

    def __init__(
        self,
        database: Database,
        events: EventPublisher,
        blobs: BlobStore,
        locks: BlobLocks,
        snapshotters: Mapping[str, Snapshotter],
        mounts: MountManager | None = None,
    ) -> None:
        self._database = database
        self._events = events
        self._blobs = blobs
        self._locks = locks
        self._snapshotters = snapshotters
        self._mounts = mounts
        self._turn = asyncio.Lock()
        self._pending = _Pending()

    async def collect(self, *, dry_run: bool = False) -> CollectionReport:
        """Collect once; a second call waits for the first and then collects again.

        What cannot be reclaimed now (a snapshot that is still mounted) is logged and tried again by the
        next collection.
        """
        if dry_run:
            started = time.monotonic()
            found = await self._database.read(_find)
            seconds = time.monotonic() - started
            return CollectionReport(tuple(found), seconds, seconds)
        async with self._turn:
            started = time.monotonic()
            garbage: Sequence[CollectedNode] = ()
            if await self._database.read(_find_anything):
                garbage = await self._database.write(self._sweep)
            swept = time.monotonic()
            await self._reclaim()
            return CollectionReport(tuple(garbage), time.monotonic() - started, swept - started)

    async def why(self, namespace: str, type: str, key: str) -> list[CollectedNode]:
        """A shortest chain of references from a root to this node, both included; empty if there is none."""
        return await self._database.read(lambda connection: chain_to(connection, namespace, type, key))

    def _sweep(self, tx: Transaction) -> Sequence[CollectedNode]:
        garbage, connection = _find(tx.connection), tx.connection
        for statement, table in _DELETES:
            named = [(node.namespace, node.key) for node in garbage if node.type == table]
            if named:
                connection.execute(statement, (json.dumps(named),))
        ingests = {
            key for node in garbage if node.type == INGESTS for key in _delete_ingest(connection, node)
        }
        _delete_snapshots(connection, [node for node in garbage if node.type.startswith(_SNAPSHOTS)])
        released = {row[0] for row in connection.execute("DELETE FROM released RETURNING digest")}
        tx.after_commit(lambda: self._swept(garbage, ingests, released))
        return garbage

    def _swept(self, garbage: Iterable[CollectedNode], ingests: set[str], released: set[str]) -> None:
        self._pending.ingests |= ingests
        self._pending.blobs |= released
        for node in garbage:
            log.debug("collected %s %s in namespace %s", node.type, node.key, node.namespace)
            if node.type.startswith(_SNAPSHOTS):
                self._pending.snapshotters.add(node.type.removeprefix(_SNAPSHOTS))
            event = _event(node)
            if event is not None:
                self._events.publish(node.namespace, event)

    # --- reclaim -------------------------------------------------------------------------------

    async def _reclaim(self) -> None:
        """Remove what is pending; what fails, or is left when this is cancelled, stays pending."""
        pending = self._pending
        if pending.everything:
            await self._find_strays()
        if self._mounts is not None:
            # Before the snapshots, which cannot go while they are mounted.
            await self._reclaimed("mounts", self._mounts.cleanup())
        for key in sorted(pending.ingests):
            if await self._reclaimed(f"ingest {key}", self._remove_ingest(key)):
                pending.ingests.discard(key)
        blobs = [Digest.parse(digest) for digest in sorted(pending.blobs)]
        for start in range(0, len(blobs), _REMOVED_TOGETHER):
            pending.blobs -= await self._remove_blobs(blobs[start : start + _REMOVED_TOGETHER])
        for name in sorted(pending.snapshotters):
            snapshotter = self._snapshotters.get(name)
            # One that is not configured now keeps its folders until it is, and is cleaned at that start.
            if snapshotter is None or await self._reclaimed(f"snapshots of {name}", snapshotter.cleanup()):
                pending.snapshotters.discard(name)

    async def _find_strays(self) -> None:
        """Put under suspicion what the last run left: every blob and ingest that has no record."""
        # The stores first: a record is made before an ingest's folder and, under the lock, with a blob.
        blobs = await settled(lambda: {str(stat.digest) for stat in self._blobs.walk()})
        ingests = await settled(lambda: set(self._blobs.ingest_keys()))

        def known(connection: sqlite3.Connection) -> tuple[set[str], set[str]]:
            digests = connection.execute(
                "SELECT digest FROM content UNION SELECT expected FROM ingests WHERE expected IS NOT NULL"
            )
            rows = connection.execute("SELECT id, namespace, ref FROM ingests")
            return {row[0] for row in digests}, {ingest_key(*row) for row in rows}

        known_blobs, known_ingests = await self._database.read(known)
        self._pending.blobs |= blobs - known_blobs
        self._pending.ingests |= ingests - known_ingests
        self._pending.snapshotters |= set(self._snapshotters)
        self._pending.everything = False

    async def _reclaimed(self, what: str, removal: Awaitable[None]) -> bool:
        try:
            await removal
        except HybridError as error:
            log.warning("garbage collection: %s is left for the next collection: %s", what, error.message)
            return False
        return True

    async def _remove_blobs(self, digests: Sequence[Digest]) -> set[str]:
        """Remove the bytes of those that no namespace has; the digests of which nothing is left to do."""

        def used(connection: sqlite3.Connection) -> set[str]:
            rows = connection.execute(
                "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM content WHERE digest = value)"
                " OR EXISTS (SELECT 1 FROM ingests WHERE expected = value)",
                (json.dumps([str(digest) for digest in digests]),),
            )
            return {row[0] for row in rows}

        async with self._locks.hold_all(digests):
            alive = await self._database.read(used)
            garbage = [digest for digest in digests if str(digest) not in alive]
            failures = await settled(lambda: self._remove_bytes(garbage))
        for failed, error in failures.items():
            log.warning(
                "garbage collection: content %s is left for the next collection: %s", failed, error.message
            )
        return {str(digest) for digest in digests if digest not in failures}

    def _remove_bytes(self, digests: Iterable[Digest]) -> dict[Digest, HybridError]:
        """Those that could not be removed, and why."""
        failures: dict[Digest, HybridError] = {}
        for digest in digests:
            try:
                self._blobs.remove(digest)
            except NotFoundError:
                pass
            except HybridError as error:
                failures[digest] = error
            else:
                log.debug("removed content %s", digest)
        return failures

    async def _remove_ingest(self, key: str) -> None:
        with contextlib.suppress(NotFoundError):
            await settled(lambda: self._blobs.remove_ingest(key))
        log.debug("removed ingest %s", key)


def _find(connection: sqlite3.Connection) -> Sequence[CollectedNode]:
    return [CollectedNode(*row) for row in connection.execute(_GARBAGE, {"now": now()})]


def _find_anything(connection: sqlite3.Connection) -> bool:
    """Whether a sweep would change something."""
    released = connection.execute("SELECT EXISTS (SELECT 1 FROM released)").fetchone()[0]
    return bool(released or _find(connection))


def _delete_ingest(connection: sqlite3.Connection, node: CollectedNode) -> list[str]:
    """Delete the record; the key of the folder that has to follow."""
    deleted = connection.execute(
        "DELETE FROM ingests WHERE namespace = ? AND ref = ? RETURNING id", (node.namespace, node.key)
    )
    return [ingest_key(row[0], node.namespace, node.key) for row in deleted]


def _delete_snapshots(connection: sqlite3.Connection, nodes: Sequence[CollectedNode]) -> None:
    select = "SELECT id FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?"
    numbers = []
    for node in nodes:
        place = (node.namespace, node.type.removeprefix(_SNAPSHOTS), node.key)
        numbers += [row[0] for row in connection.execute(select, place)]
    # One statement, because parents are looked after only at its end: their order does not matter.
    connection.execute(
        "DELETE FROM snapshots WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(numbers),)
    )


def _event(node: CollectedNode) -> Event | None:
    if node.type == IMAGES:
        return ImageDelete(node.key)
    if node.type.startswith(_SNAPSHOTS):
        return SnapshotRemove(node.key, node.type.removeprefix(_SNAPSHOTS))
    return None


_IS_ROOT = f"""
SELECT EXISTS (SELECT 1 FROM containers WHERE :type = 'containers' AND namespace = :namespace AND id = :key)
    OR EXISTS (SELECT 1 FROM sandboxes WHERE :type = 'sandboxes' AND namespace = :namespace AND id = :key)
    OR EXISTS (SELECT 1 FROM roots WHERE namespace = :namespace AND type = :type AND key = :key)
    OR EXISTS (SELECT 1 FROM images WHERE :type = 'images' AND namespace = :namespace AND name = :key
               AND {_ALIVE})
    OR EXISTS (SELECT 1 FROM ingests WHERE :type = 'ingests' AND namespace = :namespace AND ref = :key
               AND expires_at >= :now)
    OR EXISTS (SELECT 1 FROM mounts WHERE :type = 'mounts' AND namespace = :namespace AND name = :key
               AND active IS NULL)
"""  # noqa: S608 - constants
_HOLDERS = f"""
SELECT r.from_type, r.from_key, r.kind = 'field' FROM refs r
WHERE r.namespace = :namespace AND r.to_type = :type AND r.to_key = :key AND {_CONDITION}
"""  # noqa: S608 - constants
_LEASES = f"""
SELECT id FROM lease_resources JOIN leases USING (namespace)
WHERE lease = id AND namespace = :namespace AND type = :type AND key = :key AND {_ALIVE}
    AND (:plain OR NOT flat)
UNION ALL SELECT leases.id FROM mounts JOIN leases USING (namespace)
WHERE lease = leases.id AND :type = 'mounts' AND namespace = :namespace AND name = :key AND {_ALIVE}
"""  # noqa: S608 - constants


def chain_to(connection: sqlite3.Connection, namespace: str, type: str, key: str) -> list[CollectedNode]:
    """See :meth:`MetadataCollector.why`."""
    # Backwards from the node. ``plain`` says that only fields were followed so far, which is all that
    # a flat lease's hold goes through. The value is the step towards the node that was asked for.
    start = (type, key, True)
    towards: dict[tuple[str, str, bool], tuple[str, str, bool] | None] = {start: None}
    queue = deque([start])
    while queue:
        step = queue.popleft()
        at = {"namespace": namespace, "type": step[0], "key": step[1], "now": now()}
        plain = step[2] or step[0] == INGESTS
        lease = connection.execute(_LEASES, {**at, "plain": plain}).fetchone()
        if lease is not None:
            return [CollectedNode(namespace, LEASES, lease[0]), *_chain(namespace, towards, step)]
        if connection.execute(_IS_ROOT, at).fetchone()[0]:
            return _chain(namespace, towards, step)
        for from_type, from_key, is_field in connection.execute(_HOLDERS, at):
            holder = (from_type, from_key, bool(step[2] and is_field))
            if holder not in towards:
                towards[holder] = step
                queue.append(holder)
    return []


def _chain(
    namespace: str,
    towards: Mapping[tuple[str, str, bool], tuple[str, str, bool] | None],
    step: tuple[str, str, bool] | None,
) -> list[CollectedNode]:
    chain = []
    while step is not None:
        chain.append(CollectedNode(namespace, step[0], step[1]))
        step = towards[step]
    return chain
