"""Images of EROFS mounted as files, or by loop devices where the kernel wants devices."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid import _native
from containerd_hybrid.errors import FailedPreconditionError, HybridError, InvalidArgumentError
from containerd_hybrid.model import Mount
from containerd_hybrid.mounts import erofs
from containerd_hybrid.mounts.erofs import ErofsHandler
from containerd_hybrid.snapshots.erofs_files import kernel_has_erofs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="mkfs.erofs is not installed"),
    pytest.mark.skipif(not kernel_has_erofs(), reason="this kernel has no EROFS"),
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder, image = tmp_path / "folder", tmp_path / "image"
    folder.mkdir()
    (folder / "file").write_text("content")
    subprocess.run(["mkfs.erofs", "--quiet", "-Enoinline_data", image, folder], check=True)
    return image


def _mount(image: Path, *more: str) -> Mount:
    return Mount("erofs", str(image), ("ro", "loop", *more))


def _until_none_is_on(image: Path) -> None:
    """The kernel lets go of a loop device when the last who looks at it (udev, perhaps) does."""
    while subprocess.run(["losetup", "-j", image], capture_output=True, check=False).stdout:
        time.sleep(0.01)


@pytest.mark.parametrize("needs_a_device", [False, True])
def test_it_is_mounted_and_taken_away(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs_a_device: bool, leak_check: object
) -> None:
    original = erofs._mount

    def mount(one: Mount, mount_point: Path) -> None:
        if needs_a_device and not one.source.startswith("/dev/loop"):
            raise InvalidArgumentError("mount source, err: block device required")
        original(one, mount_point)

    monkeypatch.setattr(erofs, "_mount", mount)
    handler, point = ErofsHandler(), tmp_path / "point"
    active = handler.mount(_mount(image), point, ())
    assert (point / "file").read_text() == "content"
    assert active.mount.source.startswith("/dev/loop") == needs_a_device
    assert active.mount.options == ("ro",)
    assert handler.alive(point)
    handler.unmount(point)
    handler.unmount(point)
    assert not handler.alive(point)
    _until_none_is_on(image)


def test_a_failure_leaves_nothing(image: Path, tmp_path: Path, leak_check: object) -> None:
    point = tmp_path / "point"
    image.write_bytes(bytes(1 << 16))
    with pytest.raises(HybridError):
        ErofsHandler().mount(_mount(image), point, ())
    assert not point.exists()
    _until_none_is_on(image)


def test_a_layer_that_is_to_be_verified_is_not_mounted_without(image: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    with pytest.raises(FailedPreconditionError, match="is to be verified by dm-verity"):
        ErofsHandler().mount(_mount(image, "X-containerd.dmverity=/x.dmverity"), point, ())
    assert not point.exists()


def test_devices_of_merged_images_are_looped_too(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def mount(one: Mount, mount_point: Path) -> None:
        if not one.source.startswith("/dev/loop"):
            raise InvalidArgumentError("mount source, err: block device required")
        made.append(one)

    monkeypatch.setattr(erofs, "_mount", mount)
    ErofsHandler().mount(_mount(image, f"device={image}"), tmp_path / "point", ())
    [option] = [option for option in made[0].options if option.startswith("device=")]
    assert option.startswith("device=/dev/loop")
    assert option.removeprefix("device=") != made[0].source
    assert not _native.mounted(tmp_path / "point")
