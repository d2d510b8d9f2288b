"""Containers on snapshotters with file systems of their own, by the library and by ``ctr``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import clean

from containerd_hybrid import _native, connect
from containerd_hybrid.errors import HybridError
from containerd_hybrid.snapshots.erofs_files import kernel_has_erofs
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import (
    BUSYBOX_IMAGE,
    ImageArchive,
    add_file,
    busybox_layer,
    tar_of,
    write_archive,
)
from containerd_hybrid.testing.leaks import LeakCheck
from containerd_hybrid.testing.waiting import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        "CONTAINERD_ADDRESS_FOR_TESTS" in os.environ, reason="the daemon needs a configuration of its own"
    ),
]
CONFIG = """\
version = 4
[plugins."io.containerd.snapshotter.v1.blockfile"]
  scratch_file = "{folder}/scratch"
[plugins."io.containerd.snapshotter.v1.btrfs"]
  root_path = "{folder}/btrfs"
[plugins."io.containerd.snapshotter.v1.erofs"]
  default_size = "{size}"
"""
NAMES = ["blockfile", "btrfs", "erofs", "erofs-block"]
_NEEDS = {"blockfile": "mkfs.ext4", "btrfs": "mkfs.btrfs", "erofs": "mkfs.erofs", "erofs-block": "mkfs.erofs"}


@pytest.fixture(params=NAMES)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    program = _NEEDS.get(name)
    if program is not None and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    if name.startswith("erofs") and not kernel_has_erofs():
        pytest.skip("this kernel has no EROFS")
    return name


@pytest.fixture
def daemon(kind: str, leak_check: LeakCheck, short_folder: Path) -> Iterator[DaemonProcess]:
    size = "64MiB" if kind == "erofs-block" else ""
    process = DaemonProcess(short_folder, config=CONFIG.format(folder=short_folder, size=size))
    if kind == "blockfile":
        _image(short_folder / "scratch", 64, "mkfs.ext4", "-q")
    if kind == "btrfs":
        _image(short_folder / "btrfs.img", 256, "mkfs.btrfs", "-q")
        (short_folder / "btrfs").mkdir()
        try:
            _native.mount_all(
                [("btrfs", str(short_folder / "btrfs.img"), "", ["loop"])], short_folder / "btrfs"
            )
        except HybridError as error:
            pytest.skip(f"this kernel has no btrfs: {error}")
    process.start()
    try:
        yield process
        process.stop_if_running()
    finally:
        process.stop_if_running()
        _native.unmount_all(short_folder / "btrfs")
        process.cleanup(leak_check)


def loops() -> str:
    return subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout


def _image(path: Path, size: int, *command: str) -> None:
    with path.open("wb") as file:
        file.truncate(size << 20)
    subprocess.run([*command, str(path)], check=True, capture_output=True)


def _archive(path: Path) -> Path:
    second = tar_of(lambda archive: add_file(archive, "second", b"2"))
    config = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "WorkingDir": "/"}
    return write_archive(path, [ImageArchive(BUSYBOX_IMAGE, (busybox_layer(), second), config)])


def test_a_container_runs_and_leaves_nothing(
    daemon: DaemonProcess, kind: str, token: str, tmp_path: Path
) -> None:
    snapshotter = kind.partition("-")[0]
    ctr = Ctr(daemon.address, token)
    ctr("image", "import", "--snapshotter", snapshotter, str(_archive(tmp_path / "image.tar")))
    with connect(daemon.address, token) as client:
        command = ["sh", "-c", "cat /second; echo new > /second; cat /second"]
        ran = client.containers.run(BUSYBOX_IMAGE, command, snapshotter=snapshotter)
    assert (ran.status, ran.stdout) == (0, b"2new\n"), ran
    listed = ctr("snapshot", "--snapshotter", snapshotter, "ls").splitlines()[1:]
    assert [line.split()[-1] for line in listed] == ["Committed", "Committed"]
    ctr("image", "rm", "--sync", BUSYBOX_IMAGE)
    assert ctr("snapshot", "--snapshotter", snapshotter, "ls").splitlines()[1:] == []
    until(lambda: f"{daemon.root}/" not in loops(), loops)
    clean(ctr)
