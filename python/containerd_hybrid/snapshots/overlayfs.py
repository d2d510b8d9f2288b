"""Snapshots as layers of the kernel's overlay file system, in containerd's layout and with its mounts.

::

    <root>/snapshots/<id>/
        fs      what this snapshot adds to its parents
        work    the kernel's own; only of active snapshots
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from containerd_hybrid._native import disk_usage
from containerd_hybrid.errors import InvalidConfigError, UnimplementedError
from containerd_hybrid.model import Mount
from containerd_hybrid.snapshots import overlay_support
from containerd_hybrid.snapshots.api import REBASE, DriverSnapshot, Kind, Usage
from containerd_hybrid.snapshots.folders import SnapshotFolders
from containerd_hybrid.snapshots.idmap import GID_LABEL, UID_LABEL, mapped_root
from containerd_hybrid.snapshots.sizelimit import SizeLimits

UPPERDIR_LABEL = "containerd.io/snapshot/overlay.upperdir"


class OverlaySnapshotDriver:
    """The :class:`~containerd_hybrid.snapshots.api.SnapshotDriver` ``overlayfs`` in ``root``.

    ``mount_options`` are added to overlay mounts (not to bind mounts). ``upperdir_label`` shows clients
    where a snapshot's changes are. ``slow_chown`` lets clients fall back on changing owners one by one
    where user namespaces cannot be mapped.

    Raises:
        UnimplementedError: this kernel or file system cannot do it; the message says why.
        InvalidConfigError: ``root`` cannot be written in mount options.
    """

    name = "overlayfs"

    def __init__(
        self,
        root: Path,
        *,
        mount_options: Sequence[str] = (),
        upperdir_label: bool = False,
        slow_chown: bool = False,
    ) -> None:
        if set(":,\\") & set(str(root)):
            raise InvalidConfigError(f"overlayfs cannot use {str(root)!r}: a path with ':', ',' or '\\'")
        self._limits = SizeLimits(root)
        self._folders = SnapshotFolders(root, self._limits.lift)
        overlay_support.check(root)
        self._remaps = overlay_support.can_map_ids()
        self._options = _with_needed_options(mount_options, root)
        self._upperdir_label = upperdir_label
        self.capabilities = (
            *(("remap-ids",) if self._remaps else ()),
            *(() if slow_chown else ("only-remap-ids",)),
            *((REBASE,) if self._notes_deletions() else ()),
        )

    def create(self, snapshot: DriverSnapshot) -> None:
        """Make the folders, with a quota when its labels limit its size.

        Raises:
            UnimplementedError: its labels map IDs and the kernel cannot.
            FailedPreconditionError: its labels limit its size and the file system cannot.
        """
        root_owner = mapped_root(snapshot.labels)
        if root_owner is not None and not self._remaps:
            raise UnimplementedError(
                f"snapshot {snapshot.id} cannot be mapped into a user namespace: overlayfs needs Linux 5.19"
            )
        with self._folders.make(snapshot.id) as folder:
            self._limits.impose(snapshot, folder)
            upper = folder / "fs"
            upper.mkdir()
            mode = 0o755
            if snapshot.parents:
                parent = self._upper(snapshot.parents[0]).stat()
                mode = parent.st_mode & 0o7777
                root_owner = root_owner or (parent.st_uid, parent.st_gid)
            if root_owner is not None:
                os.chown(upper, *root_owner)
            upper.chmod(mode)  # after the owner, whose change takes setuid bits away
            if snapshot.kind is Kind.ACTIVE:
                work = folder / "work"
                work.mkdir()
                work.chmod(0o711)

    def mounts(self, snapshot: DriverSnapshot) -> list[Mount]:
        """A bind mount where there is nothing to overlay, else an overlay."""
        options = self._id_options(snapshot.labels)
        if not snapshot.parents:
            access = "ro" if snapshot.kind is Kind.VIEW else "rw"
            return [Mount("bind", str(self._upper(snapshot.id)), (*options, access, "rbind"))]
        if snapshot.kind is Kind.ACTIVE:
            work = self._folders.path(snapshot.id) / "work"
            options += [f"workdir={work}", f"upperdir={self._upper(snapshot.id)}"]
        elif len(snapshot.parents) == 1:
            return [Mount("bind", str(self._upper(snapshot.parents[0])), (*options, "ro", "rbind"))]
        options.append("lowerdir=" + ":".join(str(self._upper(parent)) for parent in snapshot.parents))
        return [Mount("overlay", "overlay", (*options, *self._options))]

    def commit(self, snapshot: DriverSnapshot) -> Usage:
        """Nothing is to be done for it but counting."""
        return self.usage(snapshot)

    def usage(self, snapshot: DriverSnapshot) -> Usage:
        """What the snapshot adds to its parents."""
        return Usage(*disk_usage(self._upper(snapshot.id)))

    def settle(self, id: int) -> None:
        """What is committed does not grow any more and needs no quota."""
        self._limits.lift(self._folders.path(id))

    def remove(self, id: int) -> None:
        self._folders.remove(id)

    def ids(self) -> list[int]:
        return self._folders.ids()

    def labels(self, id: int) -> Mapping[str, str]:
        return {UPPERDIR_LABEL: str(self._upper(id))} if self._upperdir_label else {}

    def layer_folder(self, id: int) -> Path:
        return self._upper(id)

    def _notes_deletions(self) -> bool:
        """Whether a layer's deletions can be written down without its parents.

        Not in a user namespace, where the device node for it cannot be made; and not with ``userxattr``,
        which mounts without a parent do not tell of.
        """
        return "userxattr" not in self._options and not overlay_support.in_user_namespace()

    def _upper(self, id: int) -> Path:
        return self._folders.path(id) / "fs"

    def _id_options(self, labels: Mapping[str, str]) -> list[str]:
        if not self._remaps:
            return []
        named = (("uidmap", UID_LABEL), ("gidmap", GID_LABEL))
        return [f"{option}={labels[label]}" for option, label in named if label in labels]


def _with_needed_options(configured: Sequence[str], root: Path) -> tuple[str, ...]:
    options = list(configured)
    names = {option.partition("=")[0] for option in options}
    if "userxattr" not in names and overlay_support.needs_userxattr(root):
        options.append("userxattr")
    # The kernel takes the last one, so it must not follow a configured index=on.
    if "index" not in names and overlay_support.has_index():
        options.append("index=off")
    return tuple(options)
