"""Reading a file below a root that is not to be trusted: an image's file system, or a container's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

# As many as the kernel follows in one path (path_resolution(7)).
_MAX_LINKS = 40


def read_below(root: Path, path: str, limit: int) -> bytes | None:
    """The first ``limit`` bytes of a regular file; None when there is none.

    Symbolic links are followed as a process with that root would: an absolute one begins at the
    root, and ``..`` does not lead out of it. Every step is opened by itself, beside the one before,
    so nothing that changes meanwhile leads out either.
    """
    folders = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        return _walk(folders, [part for part in path.split("/") if part], limit)
    except OSError:
        return None
    finally:
        for folder in folders:
            os.close(folder)


def _walk(folders: list[int], pending: list[str], limit: int) -> bytes | None:
    """``folders`` are the open folders from the root to where we are."""
    links = 0
    while pending:
        part = pending.pop(0)
        if part == ".":
            continue
        if part == "..":
            if len(folders) > 1:
                os.close(folders.pop())
            continue
        mode = os.stat(part, dir_fd=folders[-1], follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            links += 1
            if links > _MAX_LINKS:
                return None
            target = os.readlink(part, dir_fd=folders[-1])
            if target.startswith("/"):
                while len(folders) > 1:
                    os.close(folders.pop())
            pending[:0] = [step for step in target.split("/") if step]
        elif pending:
            folders.append(
                os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folders[-1])
            )
        elif stat.S_ISREG(mode):
            return _read(part, folders[-1], limit)
    return None


def _read(name: str, folder: int, limit: int) -> bytes | None:
    # O_NONBLOCK: what was a file a moment ago may be a FIFO now.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return file.read(limit)
