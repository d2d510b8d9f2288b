"""Snapshots as image files, each with a whole file system: copies of their parents, or of an empty one.

::

    <root>/
        scratch             the empty file system
        snapshots/<id>/
            image           a file system; not for views of a parent, which show the parent's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from containerd_hybrid.errors import UnimplementedError, error_for_os
from containerd_hybrid.model import Mount
from containerd_hybrid.snapshots.api import DriverSnapshot, Kind, Usage
from containerd_hybrid.snapshots.copy_tree import copy_file
from containerd_hybrid.snapshots.folders import SnapshotFolders

_IMAGE = "image"


class BlockfileSnapshotDriver:
    """The :class:`~containerd_hybrid.snapshots.api.SnapshotDriver` ``blockfile`` in ``root``.

    ``scratch_file`` is a file system made by the operator (``truncate`` and ``mkfs``), which is copied to
    ``root`` at the first start, or at each with ``recreate_scratch``.

    Raises:
        UnimplementedError: there is no scratch file.
        NotFoundError: the one that is named does not exist.
    """

    name = "blockfile"
    capabilities: tuple[str, ...] = ()

    def __init__(
        self,
        root: Path,
        *,
        scratch_file: Path | None = None,
        fs_type: str = "ext4",
        mount_options: Sequence[str] = (),
        recreate_scratch: bool = False,
    ) -> None:
        self._folders = SnapshotFolders(root)
        self._scratch = root / "scratch"
        self._fs_type = fs_type
        loop = () if "loop" in mount_options else ("loop",)
        self._options = (*mount_options, *loop)
        if recreate_scratch or not self._scratch.exists():
            if scratch_file is None:
                raise UnimplementedError("no scratch file generator")
            self._make_scratch(scratch_file)

    def create(self, snapshot: DriverSnapshot) -> None:
        """Raises: ResourceExhaustedError: the disk is full."""
        with self._folders.make(snapshot.id) as folder:
            if _has_image(snapshot):
                above = self._image(snapshot.parents[0]) if snapshot.parents else self._scratch
                copy_file(above, folder / _IMAGE)

    def mounts(self, snapshot: DriverSnapshot) -> list[Mount]:
        """One mount by a loop device."""
        shown = snapshot.id if _has_image(snapshot) else snapshot.parents[0]
        access = "ro" if snapshot.kind is Kind.VIEW else "rw"
        return [Mount(self._fs_type, str(self._image(shown)), (*self._options, access))]

    def commit(self, snapshot: DriverSnapshot) -> Usage:
        """Nothing is to be done for it but counting."""
        return self.usage(snapshot)

    def usage(self, snapshot: DriverSnapshot) -> Usage:
        """The blocks that the file has beyond those of its parent, as far as that can be told."""
        blocks = self._blocks(snapshot.id)
        if snapshot.parents:
            blocks = max(0, blocks - self._blocks(snapshot.parents[0]))
        return Usage(blocks, 1)

    def remove(self, id: int) -> None:
        self._folders.remove(id)

    def ids(self) -> list[int]:
        return self._folders.ids()

    def labels(self, id: int) -> Mapping[str, str]:
        return {}

    def _image(self, id: int) -> Path:
        return self._folders.path(id) / _IMAGE

    def _blocks(self, id: int) -> int:
        try:
            return self._image(id).stat().st_blocks * 512
        except OSError as error:
            raise error_for_os(error, f"measure snapshot {id}") from error

    def _make_scratch(self, source: Path) -> None:
        draft = self._scratch.with_name(".scratch.new")
        try:
            draft.unlink(missing_ok=True)
            copy_file(source, draft)
            draft.replace(self._scratch)
        except OSError as error:
            raise error_for_os(error, f"copy the scratch file {source}") from error


def _has_image(snapshot: DriverSnapshot) -> bool:
    return snapshot.kind is not Kind.VIEW or not snapshot.parents
