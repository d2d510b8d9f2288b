"""From a runtime's name to its shim program, as containerd finds it.

``io.containerd.runc.v2`` and ``io.containerd.hybrid.v2`` are our own shim. An absolute path is taken
as it is. Of any other name the last two parts count: ``io.containerd.kata.v2`` is the program
``containerd-shim-kata-v2`` on PATH, or beside the daemon's own program.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.model.identifiers import quoted

RUNC = "io.containerd.runc.v2"
HYBRID = "io.containerd.hybrid.v2"


class Runtimes:
    """Resolves names; remembers nothing, so that a program installed later is found.

    ``own_shim`` is asked when it is needed, because a daemon without the program can still serve other
    runtimes. With ``go_runc`` the name ``io.containerd.runc.v2`` means the ``containerd-shim-runc-v2``
    on PATH, for comparing the two.
    """

    def __init__(self, own_shim: Callable[[], Path], *, go_runc: bool = False) -> None:
        self._own_shim = own_shim
        self._own_names = frozenset({HYBRID} if go_runc else {HYBRID, RUNC})

    def resolve(self, name: str) -> Path:
        """The absolute path of the shim program.

        Raises:
            InvalidArgumentError: neither a runtime's name nor an absolute path.
            NotFoundError: the program is not installed.
        """
        if not name:
            raise InvalidArgumentError("failed to resolve runtime path: no runtime name")
        if name in self._own_names:
            return self._own_shim()
        if Path(name).is_absolute():
            return _existing(Path(name))
        program = binary_name(name)
        found = shutil.which(program) or shutil.which(program, path=_own_folder())
        if found is None:
            raise NotFoundError(
                f"failed to resolve runtime path: runtime {quoted(name)} binary not installed"
                f" {quoted(program)}: file does not exist"
            )
        return Path(found).absolute()


def binary_name(name: str) -> str:
    """The program of a runtime's name: ``prefix.name.version`` is ``containerd-shim-name-version``.

    Raises:
        InvalidArgumentError: the name does not have that form.
    """
    parts = name.split(".")
    if "/" in name or len(parts) < 2 or not all(parts):
        raise InvalidArgumentError(
            f"failed to resolve runtime path: invalid runtime name {name}, correct runtime name should be"
            f" either format like `{RUNC}` or a full path to the binary"
        )
    return f"containerd-shim-{parts[-2]}-{parts[-1]}"


def _existing(path: Path) -> Path:
    try:
        path.stat()
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
        raise NotFoundError(
            f"failed to resolve runtime path: invalid custom binary path: stat {path}: {reason}"
        ) from error
    return path


def _own_folder() -> str:
    return str(Path(sys.argv[0] or sys.executable).absolute().parent)
