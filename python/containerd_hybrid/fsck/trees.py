"""Two folders that should be the same, compared; and one put into the place of the other."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from containerd_hybrid.errors import error_for_os

_CHUNK = 1 << 20
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def differences(right: Path, doubtful: Path, most: int = 5) -> list[str]:
    """What is wrong in ``doubtful``, a line for each path, ``most`` of them."""
    return list(islice(_below(right, doubtful, Path()), most))


def exchange(one: Path, other: Path) -> None:
    """Let two folders of a file system change places, in one step; ``other`` may be missing."""
    if not other.exists():
        other.parent.mkdir(mode=0o700, exist_ok=True)
        one.rename(other)
        return
    # Python has no call for renameat2(2), and two renames would leave a moment without either.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise error_for_os(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())), f"replace {other}")


def _below(right: Path, doubtful: Path, path: Path) -> Iterator[str]:
    try:
        theirs = {entry.name: entry for entry in os.scandir(doubtful / path)}
    except OSError as error:
        yield f"{path}: {error.strerror}"
        return
    for entry in sorted(os.scandir(right / path), key=lambda entry: entry.name):
        here = path / entry.name
        if theirs.pop(entry.name, None) is None:
            yield f"{here} is missing"
            continue
        wrong = _difference(right / here, doubtful / here)
        if wrong:
            yield f"{here}: {wrong}"
        elif entry.is_dir(follow_symlinks=False):
            yield from _below(right, doubtful, here)
    for name in sorted(theirs):
        yield f"{path / name} is not of the layer"


def _difference(right: Path, doubtful: Path) -> str:
    a, b = right.lstat(), doubtful.lstat()
    if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
        return "another kind of file"
    if (a.st_mode, a.st_uid, a.st_gid) != (b.st_mode, b.st_uid, b.st_gid):
        return f"mode or owner {b.st_mode & 0o7777:o} {b.st_uid}:{b.st_gid}, not {_owner(a)}"
    if _attributes(right) != _attributes(doubtful):
        return "other extended attributes"
    if stat.S_ISLNK(a.st_mode) and right.readlink() != doubtful.readlink():
        return f"a link to {doubtful.readlink()}, not {right.readlink()}"
    if (stat.S_ISCHR(a.st_mode) or stat.S_ISBLK(a.st_mode)) and a.st_rdev != b.st_rdev:
        return "another device"
    if stat.S_ISREG(a.st_mode):
        if a.st_size != b.st_size:
            return f"{b.st_size} bytes, not {a.st_size}"
        if a.st_mtime_ns != b.st_mtime_ns:
            return "written to since"
        try:
            if not _equal(right, doubtful):
                return "other bytes"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
    return ""


def _owner(of: os.stat_result) -> str:
    return f"{of.st_mode & 0o7777:o} {of.st_uid}:{of.st_gid}"


def _attributes(path: Path) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _equal(one: Path, other: Path) -> bool:
    with one.open("rb", buffering=0) as mine, other.open("rb", buffering=0) as theirs:
        while True:
            data = mine.read(_CHUNK)
            if data != theirs.read(len(data) or 1):
                return False
            if not data:
                return True
