"""The folders of numbered snapshots: made and removed so that a crash never leaves one in doubt.

::

    <root>/snapshots/
        <id>        a snapshot
        new-<id>    being made; becomes <id> when it is whole
        rm-<id>     being removed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from containerd_hybrid._native import remove_tree
from containerd_hybrid.errors import HybridError, error_for_os

_BEING_MADE = "new-"
_BEING_REMOVED = "rm-"


class SnapshotFolders:
    """The folders below ``root`` (``<daemon's root>/io.containerd.snapshotter.v1.<name>``)."""

    def __init__(self, root: Path, before_removal: Callable[[Path], None] | None = None) -> None:
        """``before_removal`` is told of every folder, whole or not, whose removal begins or begins anew."""
        self._folder = root / "snapshots"
        self._before_removal = before_removal
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise error_for_os(error, f"make the snapshots' folder {self._folder}") from error

    def path(self, id: int) -> Path:
        """The folder of a whole snapshot."""
        return self._folder / str(id)

    @contextmanager
    def make(self, id: int) -> Iterator[Path]:
        """A fresh folder to fill (mode 0700): named when the block ends well, removed when not."""
        with self.make_otherwise(id) as draft:
            draft.mkdir(mode=0o700)
            yield draft

    @contextmanager
    def make_otherwise(self, id: int) -> Iterator[Path]:
        """Like :meth:`make`, but the block has to make the folder itself."""
        self.remove(id)
        draft = self._folder / f"{_BEING_MADE}{id}"
        try:
            yield draft
            draft.rename(self.path(id))
        except BaseException as error:
            # A failing removal must not hide the first error; the clean-up finds the rest.
            with suppress(HybridError):
                self.remove(id)
            if isinstance(error, OSError):
                raise error_for_os(error, f"make snapshot {id} in {self._folder}") from error
            raise

    def remove(self, id: int) -> None:
        """Remove a snapshot's folder in whatever state it is; none is no error."""
        doomed = self._folder / f"{_BEING_REMOVED}{id}"
        try:
            self._take_away(doomed)
            for folder in (self._folder / f"{_BEING_MADE}{id}", self.path(id)):
                with suppress(FileNotFoundError):
                    folder.rename(doomed)
                    self._take_away(doomed)
        except OSError as error:
            raise error_for_os(error, f"remove snapshot {id} from {self._folder}") from error

    def _take_away(self, doomed: Path) -> None:
        if doomed.is_dir():
            if self._before_removal is not None:
                self._before_removal(doomed)
            remove_tree(doomed)

    def ids(self) -> list[int]:
        """The numbers of all folders, in whatever state, in ascending order."""
        names = (entry.name for entry in self._folder.iterdir())
        bare = (name.removeprefix(_BEING_MADE).removeprefix(_BEING_REMOVED) for name in names)
        return sorted({int(name) for name in bare if name.isascii() and name.isdigit()})
