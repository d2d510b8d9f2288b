"""Copies of trees; the snapshots' contract compares whole trees, here is what is hard to reach there."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid.snapshots.copy_tree import copy_tree


def _deep(folder: Path, names: list[str]) -> None:
    """Make folders in each other, deeper than a path can be long."""
    at = os.open(folder, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=at))
    os.close(at)


def _depth(folder: Path) -> int:
    at = os.open(folder, os.O_RDONLY)
    depth = 0
    while (names := os.listdir(at)) != ["bottom"]:  # noqa: PTH208 - a descriptor
        assert len(names) == 1
        below = os.open(names[0], os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
        depth += 1
    os.close(at)
    return depth


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(("name", "depth"), [("d", 3000), ("n" * 255, 40)])
def test_no_path_is_too_long(tmp_path: Path, name: str, depth: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    _deep(source, [name] * depth)
    gc.collect()  # which may close what an earlier test forgot
    before = _descriptors()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, limit[1]))
    try:
        copy_tree(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert _depth(target) == depth
    assert _descriptors() <= before
    for folder in (source, target):
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_links_in_the_tree_lead_nowhere(tmp_path: Path) -> None:
    source, target, outside = (tmp_path / name for name in ("source", "target", "outside"))
    for folder in (source, target, outside):
        folder.mkdir()
    (outside / "secret").write_text("x")
    (source / "link").symlink_to(outside)
    (source / "file").symlink_to(outside / "secret")
    copy_tree(source, target)
    assert (target / "link").is_symlink()
    assert (target / "file").readlink() == outside / "secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_hard_links_within_and_across_folders(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a" / "b").mkdir(parents=True)
    target.mkdir()
    (source / "one").write_text("x")
    for name in ("two", "a/three", "a/b/four"):
        (source / name).hardlink_to(source / "one")
    (source / "alone").write_text("x")
    (tmp_path / "outside").hardlink_to(source / "alone")
    copy_tree(source, target)
    inodes = {(target / name).stat().st_ino for name in ("one", "two", "a/three", "a/b/four")}
    assert len(inodes) == 1
    assert (target / "one").stat().st_nlink == 4
    assert (target / "alone").stat().st_nlink == 1


@pytest.mark.parametrize("ranges", [True, False], ids=["copy_file_range", "read-write"])
def test_contents_and_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool) -> None:
    if not ranges:

        def refuse(*arguments: object) -> int:
            raise OSError(errno.EXDEV, "not this time")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    data = random.Random(4).randbytes(3 << 20)
    (source / "dense").write_bytes(data)
    with (source / "holes").open("wb") as file:
        for offset in (0, 5 << 20, 9 << 20):
            file.seek(offset)
            file.write(data[:100_000])
        file.truncate(30 << 20)
    with (source / "nothing").open("wb") as file:
        file.truncate(1 << 20)
    (source / "empty").touch()
    copy_tree(source, target)
    for name in ("dense", "holes", "nothing", "empty"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert (target / "holes").stat().st_blocks * 512 < 1 << 20
    assert (target / "nothing").stat().st_blocks == 0


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_bytes(b"x" * 100)
    monkeypatch.setattr(os, "copy_file_range", lambda *arguments: 0)
    with pytest.raises(OSError, match="became shorter"):
        copy_tree(source, target)


@pytest.fixture
def reflinks(tmp_path: Path) -> Iterator[Path]:
    """A file system with reflinks."""
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("mkfs.xfs is not installed (apt-get install xfsprogs)")
    image, target = tmp_path / "image", tmp_path / "xfs"
    target.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.root
def test_contents_are_shared_where_the_file_system_can(reflinks: Path) -> None:
    source, target = reflinks / "source", reflinks / "target"
    source.mkdir()
    target.mkdir()
    data = random.Random(6).randbytes(60 << 20)
    (source / "file").write_bytes(data)
    (source / "other").write_bytes(data[:5])
    os.sync()
    free = os.statvfs(reflinks)
    copy_tree(source, target)
    os.sync()
    used = (free.f_bfree - os.statvfs(reflinks).f_bfree) * free.f_frsize
    assert used < 5 << 20
    assert (target / "file").read_bytes() == data
    (target / "file").write_bytes(b"changed")
    assert (source / "file").read_bytes() == data


def test_sharing_is_not_tried_again_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(*arguments: object) -> int:
        calls.append(arguments)
        raise OSError(errno.EOPNOTSUPP, "no reflinks")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for number in range(5):
        (source / str(number)).write_text(str(number))
    copy_tree(source, target)
    assert len(calls) == 1
    assert {path.read_text() for path in target.iterdir()} == set("01234")
