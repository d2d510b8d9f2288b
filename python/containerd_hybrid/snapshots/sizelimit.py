"""The label ``containerd.io/snapshot/max-size`` as a project quota of the file system that snapshots lie on.

A limited snapshot's folder gets a project of its own before anything is made in it. Projects are numbers
that programs choose for themselves, so ours begin far from those of others, and one that already has
files or a limit is left alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from containerd_hybrid import _native
from containerd_hybrid.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from containerd_hybrid.snapshots.api import MAX_SIZE_LABEL, DriverSnapshot, Kind

_FIRST, _COUNT = 0x5A00_0000, 0x0100_0000
_ATTEMPTS = 1000


class SizeLimits:
    """The limits of the snapshots below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # Between finding a free project and taking it.
        self._choosing = threading.Lock()

    def impose(self, snapshot: DriverSnapshot, folder: Path) -> None:
        """Limit what will be made in the empty ``folder``, if the snapshot is active and has the label.

        Raises:
            InvalidArgumentError: the label is no number of bytes.
            FailedPreconditionError: the file system has no project quotas.
        """
        size = max_size(snapshot.labels)
        if size is None or snapshot.kind is not Kind.ACTIVE:
            return
        try:
            _native.set_project_id(folder, self._take_project(snapshot.id, size))
        except FailedPreconditionError as error:
            raise FailedPreconditionError(
                f"snapshot {snapshot.id} cannot be limited to {size} bytes ({MAX_SIZE_LABEL}): "
                f"{error.message}: failed precondition"
            ) from error

    def lift(self, folder: Path) -> None:
        """Take the limit of a folder away, if it has one of ours; the folder keeps its project."""
        try:
            project = _native.project_id(folder)
            if _FIRST <= project < _FIRST + _COUNT:
                _native.set_project_limit(self._root, project, 0)
        except (NotFoundError, FailedPreconditionError):
            pass  # no folder, or a file system without projects or with quotas switched off

    def _take_project(self, number: int, size: int) -> int:
        with self._choosing:
            for attempt in range(_ATTEMPTS):
                project = _FIRST + (number + attempt) % _COUNT
                if self._is_free(project):
                    _native.set_project_limit(self._root, project, size)
                    return project
        raise ResourceExhaustedError(f"no project is free for a quota in {self._root}")

    def _is_free(self, project: int) -> bool:
        try:
            return _native.project_usage(self._root, project) == (0, 0, 0)
        except NotFoundError:  # XFS knows only projects that were used
            return True


def max_size(labels: Mapping[str, str]) -> int | None:
    """The label's number of bytes; None without the label.

    Raises:
        InvalidArgumentError: it is not a positive decimal number.
    """
    text = labels.get(MAX_SIZE_LABEL)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 63):
        raise InvalidArgumentError(
            f"label {MAX_SIZE_LABEL} is {text!r}: expected a positive number of bytes: invalid argument"
        )
    return int(text)
