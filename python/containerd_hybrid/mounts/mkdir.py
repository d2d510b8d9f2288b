"""``mkdir/TYPE``: folders made before the mount, such as an overlay's upper one on a fresh file system."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace

from containerd_hybrid.errors import InvalidArgumentError, error_for_os
from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.api import ActiveMount
from containerd_hybrid.mounts.beneath import Roots

_PREFIX = "X-containerd.mkdir."
_PATH = re.compile(r"path=(?P<path>[^:]+)(:(?P<mode>[0-7]{1,5})(:(?P<uid>\d+):(?P<gid>\d+))?)?")
_DEFAULT_MODE = 0o700


class MakeFolders:
    """``X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]``; the folder that it is in must exist.

    One that exists is given the mode and owner, if the option says them.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots

    def transform(self, mount: Mount, active: Sequence[ActiveMount]) -> Mount:
        kept = []
        for option in mount.options:
            if option.startswith(_PREFIX):
                self._make(option)
            else:
                kept.append(option)
        return replace(mount, options=tuple(kept))

    def _make(self, option: str) -> None:
        match = _PATH.fullmatch(option.removeprefix(_PREFIX))
        if match is None:
            raise InvalidArgumentError(
                f"invalid mkdir option {option!r}: use {_PREFIX}path=PATH[:MODE[:UID:GID]], MODE being octal"
            )
        path, mode = match["path"], int(match["mode"] or "", 8) if match["mode"] else None
        if mode is not None and mode & ~0o777:
            raise InvalidArgumentError(f"invalid mode {mode:o} in mkdir option {option!r}: at most 777")
        with self._roots.parent(path, "mkdir") as (parent, name):
            try:
                _make_in(parent, name, mode, match["uid"], match["gid"])
            except NotADirectoryError as error:
                raise InvalidArgumentError(f"mkdir {path}: what is there is not a folder") from error
            except OSError as error:
                raise error_for_os(error, f"make the folder {path}") from error


def _make_in(parent: int, name: str, mode: int | None, uid: str | None, gid: str | None) -> None:
    try:
        os.mkdir(name, _DEFAULT_MODE, dir_fd=parent)
        mode = _DEFAULT_MODE if mode is None else mode
    except FileExistsError:
        pass
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if uid is not None and gid is not None:
            os.fchown(folder, int(uid), int(gid))
        # After the owner: a change of owner may clear mode bits.
        if mode is not None and stat.S_IMODE(os.fstat(folder).st_mode) != mode:
            os.fchmod(folder, mode)
    finally:
        os.close(folder)
