"""The files beside an ingest's bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from containerd_hybrid.content.ingest_folder import (
    IngestRecord,
    format_time,
    parse_time,
    read_record,
    write_record,
    write_updated,
)

_MOMENT = 1_767_323_045_000_000_006


def test_a_time_is_written_with_all_nanoseconds() -> None:
    assert format_time(_MOMENT) == "2026-01-02T03:04:05.000000006Z"


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2026-01-02T03:04:05.000000006Z", _MOMENT),
        ("2026-01-02T04:34:05.000000006+01:30", _MOMENT),
        ("2026-01-01T22:04:05.000000006-05:00", _MOMENT),
        ("2026-01-02T03:04:05Z", _MOMENT - 6),
        ("2026-01-02T03:04:05.5Z\n", _MOMENT - 6 + 500_000_000),
        ("1969-12-31T23:59:59.25Z", -750_000_000),
    ],
)
def test_times_of_gos_clock_are_read(text: str, nanoseconds: int) -> None:
    assert parse_time(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-01-02", "2026-01-02T03:04:05", "2026-13-02T03:04:05Z"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an RFC 3339 time"):
        parse_time(text)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"12345")
    later = (tmp_path / "data").stat().st_mtime_ns + 1_000_000_000
    record = IngestRecord("ns/1/layer-ü", 5, 77, _MOMENT, later)
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert (tmp_path / "ref").read_text() == "ns/1/layer-ü"
    assert (tmp_path / "total").read_text() == "77"


def test_the_bytes_own_time_counts_when_it_is_later(tmp_path: Path) -> None:
    write_record(tmp_path, IngestRecord("k", 0, 0, _MOMENT, _MOMENT))
    (tmp_path / "data").write_bytes(b"1")
    os.utime(tmp_path / "data", ns=(_MOMENT + 10**9, _MOMENT + 10**9))
    later = (tmp_path / "data").stat().st_mtime_ns
    assert read_record(tmp_path).updated_at == later > _MOMENT
    future = later + 10
    write_updated(tmp_path, future)
    assert read_record(tmp_path).updated_at == future


def test_an_unreadable_total_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    write_record(tmp_path, IngestRecord("k", 0, 9, _MOMENT, _MOMENT))
    (tmp_path / "total").write_text("nine")
    assert read_record(tmp_path).total == 0


@pytest.mark.parametrize("missing", ["data", "ref", "startedat", "updatedat"])
def test_a_half_made_folder_is_no_ingest(tmp_path: Path, missing: str) -> None:
    (tmp_path / "data").touch()
    write_record(tmp_path, IngestRecord("k", 0, 9, _MOMENT, _MOMENT))
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path)
