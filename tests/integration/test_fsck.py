"""A disk that lies: what ``hyctl fsck`` finds in a real store, and what it mends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import (
    ImageArchive,
    add_file,
    add_folder,
    add_link,
    busybox_layer,
    tar_of,
    write_archive,
)
from containerd_hybrid.testing.leaks import remove_cgroups
from containerd_hybrid.testing.waiting import until

pytestmark = pytest.mark.root

# Nobody listens there: what is repaired has to come from here.
IMAGE = "127.0.0.1:1/library/odd:1"
SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"


def lower(archive: tarfile.TarFile) -> None:
    for folder in ("etc", "gone", "hidden"):
        add_folder(archive, folder)
    add_file(archive, "etc/kept", b"k" * 5000)
    add_file(archive, "gone/file", b"1")
    add_file(archive, "hidden/file", b"2")
    add_link(archive, "etc/link", "kept")


def upper(archive: tarfile.TarFile) -> None:
    """Deletions, a hard link to the layer below, a file with attributes, one with a hole in its path."""
    add_file(archive, ".wh.gone", b"")
    add_file(archive, "hidden/.wh..wh..opq", b"")
    add_file(archive, "implied/deep/file", b"3" * 100_000)
    hard = tarfile.TarInfo("etc/hard")
    hard.type, hard.linkname = tarfile.LNKTYPE, "etc/kept"
    archive.addfile(hard)
    marked = tarfile.TarInfo("etc/marked")
    marked.pax_headers = {"SCHILY.xattr.user.mark": "yes"}
    marked.size = 3
    archive.addfile(marked, io.BytesIO(b"abc"))


@pytest.fixture
def stored(daemon: DaemonProcess, token: str, short_folder: Path) -> Iterator[DaemonProcess]:
    """A daemon with an image of three layers, unpacked."""
    archive = write_archive(
        short_folder / "odd.tar", [ImageArchive(IMAGE, [busybox_layer(), tar_of(lower), tar_of(upper)])]
    )
    ctr = Ctr(daemon.address, token)
    ctr("image", "import", str(archive))
    yield daemon
    remove_cgroups(token)


def fsck(daemon: DaemonProcess, *arguments: str) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """The exit code, the problems, and the summary."""
    command = [
        sys.executable,
        "-m",
        "containerd_hybrid.cli.main",
        "--address",
        daemon.address,
        "fsck",
        "--json",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.stderr == "", done.stderr
    *problems, summary = map(json.loads, done.stdout.splitlines())
    return done.returncode, problems, summary


def file_of(daemon: DaemonProcess, name: str) -> Path:
    (path,) = (daemon.root / SNAPSHOTS).glob(f"*/fs/{name}")
    return path


def snapshots(daemon: DaemonProcess) -> list[str]:
    return sorted(path.name for path in (daemon.root / SNAPSHOTS).iterdir())


def test_a_sound_store_has_no_problems_and_nothing_of_the_check_stays(
    stored: DaemonProcess, token: str
) -> None:
    before = snapshots(stored)
    code, problems, summary = fsck(stored)
    assert (code, problems) == (0, [])
    assert (summary["Layers"], summary["PassedOver"]) == (3, 0)
    assert summary["Blobs"] >= 5
    assert summary["Bytes"] > 500_000
    until(lambda: snapshots(stored) == before, lambda: snapshots(stored))
    assert Ctr(stored.address, token)("leases", "ls", "-q") == ""


@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("implied/deep/file", "flip", "implied/deep/file: other bytes"),
        ("implied/deep/file", "cut", "implied/deep/file: 10 bytes, not 100000"),
        ("etc/marked", "mode", "etc/marked: mode or owner 755 0:0, not 644 0:0"),
        ("etc/marked", "remove", "etc/marked is missing"),
        ("etc/marked", "attribute", "etc/marked: other extended attributes"),
        ("etc/link", "link", "etc/link: a link to other, not kept"),
        ("implied/deep", "more", "implied/deep/more is not of the layer"),
    ],
)
def test_a_damaged_layer_is_found_and_mended(
    stored: DaemonProcess, token: str, name: str, damage: str, what: str
) -> None:
    path = file_of(stored, name)
    _damage(path, damage)
    code, (problem,), _ = fsck(stored)
    assert (code, problem["Kind"], problem["Repaired"]) == (1, "layer", False)
    assert what in problem["What"]
    before = snapshots(stored)
    code, (problem,), _ = fsck(stored, "--repair")
    assert (code, problem["Repaired"]) == (0, True)
    assert fsck(stored)[:2] == (0, [])
    until(lambda: snapshots(stored) == before, lambda: snapshots(stored))
    ctr = Ctr(stored.address, token)
    script = "cat /implied/deep/file | wc -c; ls /hidden /gone 2>&1; cat /etc/link | wc -c"
    shown = ctr("run", "--rm", IMAGE, "c", "sh", "-c", script)
    assert shown == "100000\nls: /gone: No such file or directory\n/hidden:\n5000\n"


def _damage(path: Path, how: str) -> None:
    found = path.lstat()
    if how == "flip":
        data = bytearray(path.read_bytes())
        data[50_000] ^= 1
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:10])
    elif how == "mode":
        path.chmod(0o755)
    elif how == "remove":
        path.unlink()
    elif how == "attribute":
        os.removexattr(path, "user.mark")
    elif how == "link":
        path.unlink()
        path.symlink_to("other")
    elif how == "more":
        (path / "more").touch()
    if how in ("flip", "cut"):
        # As a disk does it: the file's time tells nothing.
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_a_layer_in_use_is_not_replaced(stored: DaemonProcess, token: str) -> None:
    ctr = Ctr(stored.address, token)
    _damage(file_of(stored, "implied/deep/file"), "flip")
    ctr("run", "-d", IMAGE, "c", "sleep", "1000")
    try:
        code, (problem,), _ = fsck(stored, "--repair")
    finally:
        ctr("task", "delete", "--force", "c")
        ctr("container", "delete", "c")
    assert (code, problem["Repaired"]) == (1, False)
    assert "it is in use at" in problem["Remedy"]
    assert fsck(stored, "--repair")[1][0]["Repaired"]


def test_damaged_bytes_go_and_the_next_import_mends(
    stored: DaemonProcess, token: str, short_folder: Path
) -> None:
    blobs = stored.root / "io.containerd.content.v1.content/blobs/sha256"
    (victim,) = (path for path in blobs.iterdir() if path.stat().st_size > 500_000)
    data = bytearray(victim.read_bytes())
    data[1000] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(data)
    code, (problem,), summary = fsck(stored)
    assert (code, problem["Kind"], problem["Name"]) == (1, "content", f"sha256:{victim.name}")
    assert "is damaged" in problem["What"]
    assert summary["PassedOver"] == 1  # the layer it is
    code, (problem,), _ = fsck(stored, "--repair")
    assert (code, problem["Repaired"]) == (1, False)
    assert "pull its image again" in problem["Remedy"]
    assert not victim.exists()
    assert "its bytes are missing" in fsck(stored)[1][0]["What"]
    Ctr(stored.address, token)("image", "import", str(short_folder / "odd.tar"))
    assert fsck(stored)[:2] == (0, [])


def test_a_namespace_that_is_not_there(stored: DaemonProcess) -> None:
    command = [sys.executable, "-m", "containerd_hybrid.cli.main", "--address", stored.address]
    done = subprocess.run([*command, "fsck", "--only", "no"], capture_output=True, text=True, check=False)
    assert (done.returncode, "namespace no: not found" in done.stderr) == (1, True)
