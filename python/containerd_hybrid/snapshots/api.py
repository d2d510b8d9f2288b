"""Snapshots: the file systems that layers are applied to and containers run on.

Life cycle: ``prepare(key, parent)`` gives an active snapshot whose mounts may be written;
``commit(name, key)`` turns it into an immutable one under a new name; ``view(key, parent)`` gives a
read-only one that cannot be committed. A parent is always committed. Only a snapshot without
children can be removed. The first parent is ``""``.

A :class:`Snapshotter` is what clients see: names, labels, namespaces. A :class:`SnapshotDriver`
makes folders and mounts for numbered snapshots and knows nothing else, so that names, parents and
driver state change in one transaction of the metadata store.

**Layers in any order.** A snapshotter with the capability :data:`REBASE` lets an unpacker apply the layers
of an image side by side, each without its parent, and string them together when they are committed::

    mounts = rebasable(await snapshotter.prepare(scope, key, "", labels))    # any order, at once
    …apply the layer to these mounts…
    await snapshotter.commit(scope, chain_id, key, labels, parent=chain_id_of_the_layer_below)   # in order

The parent has to be committed by then (NotFoundError otherwise), and a snapshot that was prepared on a
parent keeps that one (InvalidArgumentError). Deletions in such a layer hide what is in layers that are not
there yet, so it must be applied with :func:`rebasable`'s mounts, which have deletions written down instead
of done.

Times are Unix nanoseconds, sizes bytes. Source: containerd.services.snapshots.v1.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.model import Mount, Scope

REBASE = "rebase"
"""Capability: ``commit`` takes a ``parent`` for a snapshot that was prepared without."""

REF_LABEL = "containerd.io/snapshot.ref"
"""The name under which a snapshot being prepared will be committed; if that exists, nothing is prepared."""

DIFF_ID_LABEL = "containerd.io/snapshot/diff-id"
"""The diff ID of the layer that a snapshot is prepared for: a driver may have its content already."""

MAX_SIZE_LABEL = "containerd.io/snapshot/max-size"
"""How large a snapshot may become, in bytes without its parents; for drivers that can limit it."""


class Kind(enum.Enum):
    """What may be done with a snapshot."""

    VIEW = "view"
    ACTIVE = "active"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot as one namespace sees it."""

    kind: Kind
    name: str
    parent: str
    created_at: int
    updated_at: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Disk space of a snapshot without its parents: bytes and inodes."""

    size: int
    inodes: int


class Snapshotter(Protocol):
    """One snapshotter, namespaced. NotFoundError for unknown keys, AlreadyExistsError for taken ones."""

    name: str
    capabilities: tuple[str, ...]

    async def stat(self, scope: Scope, key: str) -> SnapshotInfo: ...

    async def update(
        self, scope: Scope, key: str, labels: Mapping[str, str], fieldpaths: Sequence[str] = ()
    ) -> SnapshotInfo: ...

    async def usage(self, scope: Scope, key: str) -> Usage: ...

    async def mounts(self, scope: Scope, key: str) -> list[Mount]:
        """The mounts of an active or view snapshot; FailedPreconditionError for a committed one."""
        ...

    async def prepare(
        self, scope: Scope, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]: ...

    async def view(
        self, scope: Scope, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]: ...

    async def commit(
        self, scope: Scope, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = ""
    ) -> None:
        """Make the active snapshot ``key`` the committed snapshot ``name``; its labels are replaced.

        ``parent`` gives one to a snapshot prepared without (CommitSnapshotRequest.parent), where the
        snapshotter has the capability :data:`REBASE`.
        """
        ...

    async def remove(self, scope: Scope, key: str) -> None:
        """FailedPreconditionError while the snapshot has children."""
        ...

    def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]: ...

    async def cleanup(self) -> None:
        """Remove what no record knows: folders of removed or half-made snapshots."""
        ...


async def is_committed(snapshotter: Snapshotter, scope: Scope, key: str) -> bool:
    """Whether there is a committed snapshot of that name."""
    try:
        return (await snapshotter.stat(scope, key)).kind is Kind.COMMITTED
    except NotFoundError:
        return False


def rebasable(mounts: Sequence[Mount]) -> list[Mount]:
    """The mounts of an active snapshot without a parent, for applying a layer that has one.

    A bind mount (the last one, where they stack) becomes the upper half of an overlay, which only a
    differ that writes into the folder itself can use. Others are returned as they are.
    """
    if not mounts or mounts[-1].read_only:
        return list(mounts)
    last = mounts[-1]
    prefix, _, kind = last.type.rpartition("/")
    if kind != "bind":
        return list(mounts)
    options = (option for option in last.options if option != "rbind")
    overlay = f"{prefix}/overlay" if prefix else "overlay"
    return [*mounts[:-1], Mount(overlay, "overlay", (*options, f"upperdir={last.source}"))]


def staged(mounts: Sequence[Mount]) -> bool:
    """Whether an active snapshot came with its layer in it: nothing is to be applied, only committed."""
    return bool(mounts) and mounts[-1].read_only


@dataclass(frozen=True, slots=True)
class DriverSnapshot:
    """A numbered snapshot as a driver sees it; ``parents`` has the nearest first."""

    id: int
    kind: Kind
    parents: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""


class SnapshotDriver(Protocol):
    """Folders and mounts of one file system. Methods block: call them in a thread.

    ``create`` is called before the record is committed and must be undone by ``remove``; a crash in
    between leaves a folder without a record, which ``ids`` lets the clean-up find. Numbers are never
    used twice, so what ``create`` finds under its own is such a leftover.
    """

    name: str
    capabilities: tuple[str, ...]
    """What clients may ask of it, as the introspection service lists it: ``remap-ids``, ``rebase``, …"""

    def create(self, snapshot: DriverSnapshot) -> None: ...
    def mounts(self, snapshot: DriverSnapshot) -> list[Mount]: ...
    def commit(self, snapshot: DriverSnapshot) -> Usage:
        """Called before the record is; must leave a snapshot that can still be written and committed again.

        ``parents`` are those it is to have, which are new where it was prepared without.
        """
        ...

    def usage(self, snapshot: DriverSnapshot) -> Usage: ...
    def remove(self, id: int) -> None:
        """Remove the folder, whole or half made or half removed; none is no error."""
        ...

    def ids(self) -> list[int]:
        """The numbers of all folders, whole or not."""
        ...

    def labels(self, id: int) -> Mapping[str, str]:
        """Labels that the driver adds to those a client is shown."""
        ...


@runtime_checkable
class SettlingDriver(Protocol):
    """A driver with work left when a commit is on record: what could not be undone if that failed."""

    def settle(self, id: int) -> None:
        """``id`` is committed for good. Called again for all committed snapshots after a start."""
        ...


@runtime_checkable
class FolderDriver(Protocol):
    """A driver that keeps in a folder what a snapshot's layer had, its files as they were unpacked."""

    def layer_folder(self, id: int) -> Path:
        """Where; it need not exist."""
        ...


@runtime_checkable
class LayerFolders(Protocol):
    """A snapshotter of such a driver."""

    async def layer_folder(self, scope: Scope, key: str) -> Path | None:
        """Where the layer of a committed snapshot is; None when its driver keeps it otherwise."""
        ...


@runtime_checkable
class RemoteDriver(Protocol):
    """A driver whose snapshots are kept by somebody else, who may have some that were never made here.

    It answers ``create`` with AlreadyExistsError when it has what :data:`REF_LABEL` names.
    """

    def adopt(self, snapshot: DriverSnapshot) -> Usage | None:
        """Take that one over as the committed snapshot ``snapshot.id``; None when it is not there."""
        ...

    def cleanup(self) -> None:
        """Have the other side remove what nothing knows there."""
        ...
