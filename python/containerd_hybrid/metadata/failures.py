"""SQLite's errors as ours: what happened to which file, and what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from containerd_hybrid.errors import (
    DataLossError,
    HybridError,
    InternalError,
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


def translated(path: Path, error: sqlite3.Error) -> HybridError:
    """What an error of SQLite's is called outside; one that only a bug can cause is InternalError."""
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
