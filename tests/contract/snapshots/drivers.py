"""Each driver, with the file systems that it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from containerd_hybrid import _native
from containerd_hybrid.client.grpc_transport import GrpcTransport
from containerd_hybrid.errors import UnimplementedError
from containerd_hybrid.snapshots.api import REBASE, SnapshotDriver
from containerd_hybrid.snapshots.blockfile import BlockfileSnapshotDriver
from containerd_hybrid.snapshots.btrfs import BtrfsSnapshotDriver
from containerd_hybrid.snapshots.erofs import ErofsSettings, ErofsSnapshotDriver
from containerd_hybrid.snapshots.native import NativeSnapshotDriver
from containerd_hybrid.snapshots.overlayfs import OverlaySnapshotDriver
from containerd_hybrid.snapshots.proxy import ProxySnapshotDriver

MIB = 1 << 20
EXTERNAL = "TEST_EXTERNAL_SNAPSHOTTER"


@contextmanager
def overlayfs(root: Path) -> Iterator[SnapshotDriver]:
    yield OverlaySnapshotDriver(root / "overlayfs")


@contextmanager
def native(root: Path) -> Iterator[SnapshotDriver]:
    yield NativeSnapshotDriver(root / "native")


@contextmanager
def erofs(root: Path) -> Iterator[SnapshotDriver]:
    yield _erofs(root, ErofsSettings())


@contextmanager
def erofs_block(root: Path) -> Iterator[SnapshotDriver]:
    """With changes written to a file system in a file."""
    yield _erofs(root, ErofsSettings(default_size=32 * MIB))


@contextmanager
def proxy(root: Path) -> Iterator[SnapshotDriver]:
    """In another daemon, whose address the fixture ``external_snapshotter`` has set."""
    transport = GrpcTransport(os.environ[EXTERNAL])
    yield ProxySnapshotDriver("proxy", "overlayfs", transport, root / "proxy", (REBASE,))


@contextmanager
def btrfs(root: Path) -> Iterator[SnapshotDriver]:
    """On a file system in a file, which a killed process may have left mounted."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("mkfs.btrfs is not installed")
    image, folder = root / "btrfs.img", root / "btrfs"
    if not image.exists():
        make_image(image, 256 * MIB, "mkfs.btrfs", "-q", "-f")
    folder.mkdir(exist_ok=True)
    with mounted_image("btrfs", image, folder):
        yield BtrfsSnapshotDriver(folder)


@contextmanager
def blockfile(root: Path) -> Iterator[SnapshotDriver]:
    scratch = root / "scratch.ext4"
    if not scratch.exists():
        make_image(scratch, 48 * MIB, "mkfs.ext4", "-q", "-N", "4096")
        # Trees are compared, and no other driver has this folder.
        subprocess.run(["debugfs", "-w", "-R", "rmdir lost+found", scratch], capture_output=True, check=True)
    yield BlockfileSnapshotDriver(root / "blockfile", scratch_file=scratch)


def make_image(image: Path, size: int, *command: str) -> None:
    """A file with a fresh file system."""
    draft = image.with_suffix(".new")
    with draft.open("wb") as file:
        file.truncate(size)
    subprocess.run([*command, str(draft)], check=True, capture_output=True)
    draft.rename(image)


@contextmanager
def mounted_image(kind: str, image: Path, folder: Path, *options: str) -> Iterator[None]:
    """A file system in a file, mounted by a loop device that goes with the mount."""
    if not _native.mounted(folder):
        try:
            _native.mount_all([(kind, str(image), "", ["loop", *options])], folder)
        except UnimplementedError as error:
            pytest.skip(f"this kernel has no {kind}: {error}")
    try:
        yield
    finally:
        _native.unmount_all(folder)


def _erofs(root: Path, settings: ErofsSettings) -> SnapshotDriver:
    try:
        return ErofsSnapshotDriver(root / "erofs", settings)
    except UnimplementedError as error:
        pytest.skip(str(error))
