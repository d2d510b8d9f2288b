"""SQLite's errors as ours: what happened to which file, and what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from containerd_hybrid.errors import (
    DataLossError,
    HybridError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)

# Extended codes carry the primary one in their lowest byte.
_PRIMARY_CODE = 0xFF
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNREACHABLE = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}


def damaged(path: Path, detail: str) -> DataLossError:
    """The file cannot be read any more."""
    return DataLossError(
        f"{path} is damaged ({detail}): stop the daemon and restore the file from a backup, or move "
        "it (with its -wal and -shm) away to start empty"
    )


FOREIGN = (sqlite3.Error, UnicodeEncodeError, OverflowError)
"""What using a connection can raise beside our own errors."""


def translated(path: Path, error: BaseException) -> HybridError:
    """What one of ``FOREIGN`` is called outside; what only a bug can cause is InternalError."""
    if isinstance(error, UnicodeEncodeError):
        return InvalidArgumentError(f"{error.object!r} is not valid Unicode: invalid argument")
    if isinstance(error, OverflowError):
        return InvalidArgumentError("a number has more than 64 bits: invalid argument")
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    if code in _DAMAGED:
        return damaged(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return ResourceExhaustedError(f"{path}: no space left on its file system: free some")
    if code in _LOCKED:
        return UnavailableError(f"{path} is locked by another program that has it open: try again")
    if code in _UNREACHABLE:
        return UnavailableError(f"{path}: {error}: check its file system and permissions")
    return InternalError(f"metadata: {error}")
