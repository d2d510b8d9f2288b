"""Snapshots as full copies of their parents: slow and large, and possible on every file system.

::

    <root>/snapshots/<id>/      the whole root file system
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from containerd_hybrid._native import disk_usage
from containerd_hybrid.model import Mount
from containerd_hybrid.snapshots.api import DriverSnapshot, Kind, Usage
from containerd_hybrid.snapshots.copy_tree import copy_tree
from containerd_hybrid.snapshots.folders import SnapshotFolders


class NativeSnapshotDriver:
    """The :class:`~containerd_hybrid.snapshots.api.SnapshotDriver` ``native`` in ``root``.

    A view of a committed snapshot has no folder of its own: it shows its parent's, read-only.
    """

    name = "native"
    capabilities: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        self._folders = SnapshotFolders(root)

    def create(self, snapshot: DriverSnapshot) -> None:
        """Raises: ResourceExhaustedError: the disk is full."""
        if not _has_folder(snapshot):
            return
        with self._folders.make(snapshot.id) as folder:
            folder.chmod(0o755)
            if snapshot.parents:
                copy_tree(self._folders.path(snapshot.parents[0]), folder)

    def mounts(self, snapshot: DriverSnapshot) -> list[Mount]:
        """One bind mount."""
        shown = snapshot.id if _has_folder(snapshot) else snapshot.parents[0]
        access = "ro" if snapshot.kind is Kind.VIEW else "rw"
        return [Mount("bind", str(self._folders.path(shown)), ("rbind", access))]

    def commit(self, snapshot: DriverSnapshot) -> Usage:
        """Nothing is to be done for it but counting."""
        return self.usage(snapshot)

    def usage(self, snapshot: DriverSnapshot) -> Usage:
        """The whole copy; what a file system shares by reflinks is counted in full."""
        return Usage(*disk_usage(self._folders.path(snapshot.id)))

    def remove(self, id: int) -> None:
        self._folders.remove(id)

    def ids(self) -> list[int]:
        return self._folders.ids()

    def labels(self, id: int) -> Mapping[str, str]:
        return {}

    def layer_folder(self, id: int) -> Path:
        """With the files of the layers below."""
        return self._folders.path(id)


def _has_folder(snapshot: DriverSnapshot) -> bool:
    return snapshot.kind is not Kind.VIEW or not snapshot.parents
