"""The files beside an ingest's bytes, as containerd writes them.

::

    ingest/<sha256 of the key>/
        ref         the key itself
        startedat   when it began      (RFC 3339 with nanoseconds)
        updatedat   when it was closed (the bytes' modification time may be later)
        total       expected size in decimal; only when it is known
        data        the bytes so far
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from containerd_hybrid.model.labels import parse_rfc3339

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class IngestRecord:
    """What the folder says; times are Unix nanoseconds, sizes bytes, ``total`` 0 when unknown."""

    key: str
    offset: int
    total: int
    started_at: int
    updated_at: int


def read_record(folder: Path) -> IngestRecord:
    """Read a folder.

    Raises:
        FileNotFoundError: there is none, or it is half made.
        ValueError: a file in it is damaged.
    """
    data = (folder / "data").stat()
    key = (folder / "ref").read_bytes().decode()
    started_at = parse_time((folder / "startedat").read_text("ascii"))
    updated_at = parse_time((folder / "updatedat").read_text("ascii"))
    try:
        total = int((folder / "total").read_text("ascii"))
    except (FileNotFoundError, ValueError):
        total = 0
    return IngestRecord(key, data.st_size, total, started_at, max(updated_at, data.st_mtime_ns))


def write_record(folder: Path, record: IngestRecord) -> None:
    """Write everything but the bytes themselves into an existing folder."""
    (folder / "ref").write_bytes(record.key.encode())
    write_updated(folder, record.updated_at)
    (folder / "startedat").write_text(format_time(record.started_at), "ascii")
    if record.total > 0:
        (folder / "total").write_text(str(record.total), "ascii")
    else:
        (folder / "total").unlink(missing_ok=True)


def write_updated(folder: Path, updated_at: int) -> None:
    """Note when the ingest was last written to; whole or not at all."""
    draft = folder / "updatedat.tmp"
    draft.write_text(format_time(updated_at), "ascii")
    draft.replace(folder / "updatedat")


def format_time(nanoseconds: int) -> str:
    """``2026-01-02T03:04:05.000000006Z``"""
    seconds, fraction = divmod(nanoseconds, _SECOND)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def parse_time(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 time in any zone.

    Raises:
        ValueError: it is none.
    """
    moment = parse_rfc3339(text.strip())
    if moment is None:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    return moment
