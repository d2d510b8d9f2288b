"""Who a process runs as is read from files of a stranger, and nothing outside of his root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from containerd_hybrid.client.options import User
from containerd_hybrid.client.rootfiles import read_below
from containerd_hybrid.client.users import resolve_user
from containerd_hybrid.errors import InvalidArgumentError

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
alice:x:1000:100:Alice:/home/alice:/bin/sh
broken
bad:x:many:1:::
huge:x:4294967296:1:::
7:x:2000:200::/:
"""
GROUP = "root:x:0:\nusers:x:100:\nwheel:x:10:alice,bob\nalice:x:1001:alice\nvideo:x:44:bob,alice\nno:x\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(PASSWD)
    (tmp_path / "etc" / "group").write_text(GROUP)
    return tmp_path


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", User(0, 0, (0,))),
        ("root", User(0, 0, (0,))),
        # A group of the user's own name is not one he is in beside it (as containerd reads the file).
        ("alice", User(1000, 100, (100, 10, 44))),
        ("1000", User(1000, 100, (100, 10, 44))),
        ("alice:video", User(1000, 44, (44,))),
        ("alice:44", User(1000, 44, (44,))),
        ("alice:12345", User(1000, 12345, (12345,))),
        ("1000:wheel", User(1000, 10, (10,))),
        ("5", User(5, 0, (0,))),
        ("5:6", User(5, 6, (6,))),
        ("2147483647", User(2147483647, 0, (0,))),
    ],
)
def test_names_and_numbers(root: Path, user: str, expected: User) -> None:
    assert resolve_user(user, root) == expected


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("bob", "no user 'bob' in the image's /etc/passwd: use a number, or another name"),
        ("alice:none", "no group 'none' in the image's /etc/group"),
        (":wheel", "expected user or user:group"),
        ("alice:", "expected user or user:group"),
        ("bad", "'many' is not a number"),
        ("huge", "'4294967296' is not a number from 0 to 2147483647"),
        ("4294967295", "is not a number from 0"),
        ("-1", "no user '-1'"),
    ],
)
def test_who_cannot_be_is_told(root: Path, user: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        resolve_user(user, root)


def test_an_image_without_files_has_numbers_only(tmp_path: Path) -> None:
    assert resolve_user("12", tmp_path) == User(12, 0, (0,))
    assert resolve_user("12:34", None) == User(12, 34, (34,))
    assert resolve_user("", tmp_path) == User()
    with pytest.raises(InvalidArgumentError, match="no user 'root'"):
        resolve_user("root", tmp_path)


def test_only_the_beginning_of_a_huge_file_is_read(root: Path) -> None:
    with (root / "etc" / "passwd").open("a") as file:
        file.write("filler:x:1:1:::\n" * 200_000)
        file.write("late:x:77:77:::\n")
    assert resolve_user("alice", root).uid == 1000
    with pytest.raises(InvalidArgumentError, match="no user 'late'"):
        resolve_user("late", root)


def test_bytes_that_are_no_text(root: Path) -> None:
    (root / "etc" / "passwd").write_bytes(b"\xff\xfe:x:1:1:::\nalice:x:5:5:::\n")
    assert resolve_user("alice", root).uid == 5


# --- reading below a root


def read(root: Path, path: str = "file") -> bytes | None:
    return read_below(root, path, 100)


def test_links_lead_where_a_process_with_that_root_gets(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "target").write_text("inside")
    (tmp_path / "target").write_text("outside")
    for link in (
        "/target",
        "../target",
        "../../../../target",
        "/../../target",
        "a/../target",
        "./a/b/../../target",
    ):
        (root / "file").symlink_to(link)
        assert read(root) == b"inside", link
        (root / "file").unlink()
    (root / "a" / "b" / "file").symlink_to("../../target")
    assert read(root, "a/b/file") == b"inside"
    (root / "folder").symlink_to("/a")
    assert read(root, "folder/b/file") == b"inside"


def test_what_is_no_file_in_the_root_is_none(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("outside")
    assert read(root) is None
    for link in ("file", "loop", str(tmp_path / "secret"), "../secret"):
        (root / "file").symlink_to(link)
        if link == "loop":
            (root / "loop").symlink_to("file")
        assert read(root) is None, link
        (root / "file").unlink()
    os.mkfifo(root / "file")
    assert read(root) is None
    (root / "folder").mkdir()
    assert read(root, "folder") is None
    (root / "plain").write_text("x")
    assert read(root, "plain/below") is None


def test_no_more_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    assert read(tmp_path) == b"x" * 100


def test_descriptors_are_closed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("a/file", "a/none", "a/../a/file", "none/x"):
        read(tmp_path, path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
