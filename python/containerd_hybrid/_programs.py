"""Finds the programs that are installed with this package."""

from __future__ import annotations

import os
from pathlib import Path

from containerd_hybrid.errors import NotFoundError

DISTRIBUTION = "containerd-hybrid"
SHIM = "containerd-shim-hybrid-v2"

# Where the record said that the shim is, the last time that it was read.
_found: list[Path] = []


def shim_path() -> Path:
    """The absolute path of the shim program.

    A work tree has it in `containerd_hybrid/_bin/`, where `make dev` puts it; an installed wheel in the
    environment's scripts folder, whose place the distribution's own record tells.

    Raises:
        NotFoundError: it is in neither place, or may not be executed.
    """
    in_tree = Path(__file__).resolve().parent / "_bin" / SHIM
    # Reading the record takes milliseconds, and this is asked for every container.
    for path in (in_tree, *_found):
        if _executable(path):
            return path
    recorded = _recorded(SHIM)
    for path in recorded:
        if _executable(path):
            _found[:] = [path]
            return path
    looked = ", ".join(str(path) for path in (in_tree, *recorded))
    raise NotFoundError(
        f"the shim program {SHIM} is not installed (looked at {looked}): reinstall the package"
        f" {DISTRIBUTION}, or run `make dev` in a work tree"
    )


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _recorded(name: str) -> list[Path]:
    from importlib import metadata

    try:
        files = metadata.files(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())).resolve() for file in files or () if file.name == name]
