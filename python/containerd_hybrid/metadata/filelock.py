"""A lock that one process holds on a file until it lets go or dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from containerd_hybrid.errors import FailedPreconditionError


class FileLock:
    """``flock`` on a file beside the one it protects; the holder's pid is written in it, for people."""

    def __init__(self, protected: Path) -> None:
        self._protected = protected
        self._path = protected.with_name(protected.name + ".lock")
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock, or say who has it.

        Raises:
            FailedPreconditionError: another process has it, or this one already.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise FailedPreconditionError(
                f"{self._protected} is in use by another process (pid {holder}): "
                "stop that daemon, or start this one with another root"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let go. The file stays: removing it would let a third process lock a new one beside a second."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
