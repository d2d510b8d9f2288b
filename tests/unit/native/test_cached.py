"""Reading what the kernel has in memory: the right bytes, or None and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from containerd_hybrid._native import read_cached


def test_bytes_are_those_of_the_place_or_none_come(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(200)))
    assert read_cached(file, size=200, offset=50, length=100) in (None, bytes(range(50, 150)))
    assert read_cached(file, size=200, offset=0, length=0) in (None, b"")


def test_what_is_not_as_it_was_said_is_none(tmp_path: Path) -> None:
    file, link, pipe = (tmp_path / name for name in ("file", "link", "pipe"))
    file.write_bytes(b"0123456789")
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert read_cached(file, size=9, offset=0, length=9) is None
    assert read_cached(file, size=10, offset=8, length=3) is None
    assert read_cached(link, size=10, offset=0, length=10) is None
    assert read_cached(pipe, size=0, offset=0, length=1) is None
    assert read_cached(tmp_path, size=tmp_path.stat().st_size, offset=0, length=1) is None
    assert read_cached(tmp_path / "none", size=0, offset=0, length=0) is None
