"""Snapshots as subvolumes of btrfs, which share with their parents what did not change.

::

    <root>/snapshots/<id>/      a subvolume; read-only once it is committed
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from containerd_hybrid import _native
from containerd_hybrid.errors import FailedPreconditionError, UnimplementedError, error_for_os
from containerd_hybrid.model import Mount
from containerd_hybrid.snapshots.api import DriverSnapshot, Kind, Usage
from containerd_hybrid.snapshots.folders import SnapshotFolders


class BtrfsSnapshotDriver:
    """The :class:`~containerd_hybrid.snapshots.api.SnapshotDriver` ``btrfs`` in ``root``.

    Raises:
        UnimplementedError: ``root`` is not on btrfs.
    """

    name = "btrfs"
    capabilities: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise error_for_os(error, f"make the folder {root}") from error
        mount = _mount_of(root)
        if mount.type != "btrfs":
            raise UnimplementedError(
                f"path {root} ({mount.type}) must be a btrfs filesystem to be used with the btrfs snapshotter"
            )
        self._device = mount.source
        self._folders = SnapshotFolders(root, _delete_subvolume)

    def create(self, snapshot: DriverSnapshot) -> None:
        """Raises: ResourceExhaustedError: the disk is full."""
        with self._folders.make_otherwise(snapshot.id) as draft:
            if not snapshot.parents:
                _native.create_subvolume(draft)
                draft.chmod(0o755)
                if snapshot.kind is Kind.VIEW:
                    _native.set_subvolume_read_only(draft, True)
            else:
                above = self._folders.path(snapshot.parents[0])
                _native.create_subvolume(draft, above, read_only=snapshot.kind is Kind.VIEW)

    def mounts(self, snapshot: DriverSnapshot) -> list[Mount]:
        """One mount of the device that ``root`` is on."""
        number = _native.subvolume_id(self._folders.path(snapshot.id))
        if number is None:
            raise FailedPreconditionError(f"{self._folders.path(snapshot.id)} is not a subvolume of btrfs")
        access = () if snapshot.kind is Kind.ACTIVE else ("ro",)
        return [Mount("btrfs", self._device, (f"subvolid={number}", *access))]

    def commit(self, snapshot: DriverSnapshot) -> Usage:
        """Only counted now; made read-only when the commit is settled."""
        return self.usage(snapshot)

    def settle(self, id: int) -> None:
        _native.set_subvolume_read_only(self._folders.path(id), True)

    def usage(self, snapshot: DriverSnapshot) -> Usage:
        """All of it, or the files that are not as in its parent."""
        folder = self._folders.path(snapshot.id)
        if not snapshot.parents:
            return Usage(*_native.disk_usage(folder))
        try:
            return _difference(folder, self._folders.path(snapshot.parents[0]))
        except OSError as error:
            raise error_for_os(error, f"measure snapshot {snapshot.id}") from error

    def remove(self, id: int) -> None:
        self._folders.remove(id)

    def ids(self) -> list[int]:
        return self._folders.ids()

    def labels(self, id: int) -> Mapping[str, str]:
        return {}


def _delete_subvolume(folder: Path) -> None:
    """Before the folder itself is removed; for one that is no subvolume nothing is to be done."""
    if _native.subvolume_id(folder) is None:
        return
    try:
        _native.delete_subvolume(folder)
    except FailedPreconditionError:
        # A container has made subvolumes of its own in it, which go with what they are in.
        _native.set_subvolume_read_only(folder, False)
        for inner in _subvolumes_in(folder):
            _native.set_subvolume_read_only(inner, False)
            _native.delete_subvolume(inner)
        _native.delete_subvolume(folder)


def _subvolumes_in(folder: Path) -> list[Path]:
    """Deepest first."""
    found: list[Path] = []
    pending = [folder]
    while pending:
        here = pending.pop()
        for entry in here.iterdir():
            if entry.is_symlink() or not entry.is_dir():
                continue
            if _native.subvolume_id(entry) is not None:
                found.append(entry)
            pending.append(entry)
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def _mount_of(path: Path) -> _native.MountInfo:
    """The mount that ``path`` is on: the last of those whose mount point is nearest above it."""
    real = path.resolve()
    found = None
    for mount in _native.mountinfo():
        if real.is_relative_to(mount.mount_point) and (
            found is None or len(mount.mount_point) >= len(found.mount_point)
        ):
            found = mount
    if found is None:
        raise FailedPreconditionError(f"{path} is on no mount")
    return found


def _difference(folder: Path, parent: Path) -> Usage:
    """Blocks and number of what was made or changed; a snapshot's files begin with their parent's inodes."""
    size = inodes = 0
    seen: set[int] = set()
    pending = [""]
    while pending:
        here = pending.pop()
        for entry in (folder / here).iterdir():
            name = f"{here}/{entry.name}" if here else entry.name
            status = entry.lstat()
            if stat.S_ISDIR(status.st_mode):
                pending.append(name)
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
            try:
                before = (parent / name).lstat()
            except (FileNotFoundError, NotADirectoryError):
                before = None
            if before and (before.st_ino, before.st_ctime_ns) == (status.st_ino, status.st_ctime_ns):
                continue
            size += status.st_blocks * 512
            inodes += 1
    return Usage(size, inodes)
