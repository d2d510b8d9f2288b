"""Trees measured and removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from containerd_hybrid import _native
from containerd_hybrid.errors import HybridError, InvalidArgumentError, NotFoundError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    with (top / "a" / "file").open("wb") as file:
        file.write(bytes(100_000))
        file.flush()
        os.fsync(file.fileno())  # or some file systems change their mind about its blocks later
    os.link(top / "a" / "file", top / "a" / "b" / "again")
    (top / "link").symlink_to(tmp_path)
    return top


def test_usage_counts_hard_links_once_and_follows_no_link(tree: Path) -> None:
    size, inodes = _native.disk_usage(tree)
    assert inodes == 5
    paths = [tree, tree / "a", tree / "a" / "b", tree / "a" / "file", tree / "link"]
    assert size == sum(path.lstat().st_blocks * 512 for path in paths)


def test_usage_of_what_is_no_folder(tree: Path) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        _native.disk_usage(tree / "absent")
    with pytest.raises(InvalidArgumentError, match="file"):
        _native.disk_usage(tree / "a" / "file")


def test_removal_takes_all_and_says_whether_there_was_something(tree: Path) -> None:
    beside = tree.parent / "beside"
    beside.touch()
    assert _native.remove_tree(tree) is True
    assert not tree.exists()
    assert _native.remove_tree(str(tree)) is False
    assert _native.remove_tree(tree / "below" / "nothing") is False
    assert beside.exists()


def test_a_link_is_removed_and_not_what_it_names(tree: Path) -> None:
    assert _native.remove_tree(tree / "link") is True
    assert tree.exists()


def test_a_relative_path(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    assert _native.remove_tree("tree") is True
    assert not tree.exists()


def test_what_has_no_name_is_refused(tree: Path) -> None:
    for path in ("/", f"{tree}/..", ""):
        with pytest.raises(InvalidArgumentError):
            _native.remove_tree(path)
    assert tree.exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_removal_does_not_enter_another_mount(tree: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "precious").touch()
    _native.mount_all([("bind", str(source), "", ["bind"])], tree / "a" / "b")
    try:
        with pytest.raises(HybridError, match=str(tree)):
            _native.remove_tree(tree)
        assert (source / "precious").exists()
    finally:
        _native.unmount_all(tree)
