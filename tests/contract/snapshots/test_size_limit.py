"""The label ``containerd.io/snapshot/max-size`` as a project quota, and where there is none."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.snapshots.drivers import MIB, make_image

from containerd_hybrid import _native
from containerd_hybrid.errors import FailedPreconditionError, HybridError, InvalidArgumentError
from containerd_hybrid.snapshots.api import DriverSnapshot, Kind
from containerd_hybrid.snapshots.overlayfs import OverlaySnapshotDriver

pytestmark = pytest.mark.root

LABEL = "containerd.io/snapshot/max-size"
_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota"),
    "xfs": ("mkfs.xfs", "-q"),
}


@pytest.fixture(params=sorted(_MAKE))
def limited(request: pytest.FixtureRequest, tmp_path: Path, leak_check: object) -> Iterator[Path]:
    """A folder on a file system with project quotas."""
    kind: str = request.param
    if shutil.which(_MAKE[kind][0]) is None:
        pytest.skip(f"{_MAKE[kind][0]} is not installed")
    image, folder = tmp_path / "image", tmp_path / "limited"
    folder.mkdir()
    make_image(image, 320 * MIB, *_MAKE[kind])
    try:
        _native.mount_all([(kind, str(image), "", ["loop", "prjquota"])], folder)
    except HybridError as error:
        pytest.skip(f"this kernel has no project quotas for {kind}: {error}")
    try:
        try:
            _native.project_usage(folder, 1)
        except FailedPreconditionError as error:
            pytest.skip(f"this kernel has no project quotas for {kind}: {error}")
        except HybridError:
            pass  # nobody has used that project
        yield folder
    finally:
        _native.unmount_all(folder)


def _limited(number: int, size: int, *parents: int) -> DriverSnapshot:
    return DriverSnapshot(number, Kind.ACTIVE, parents, {LABEL: str(size)})


def test_a_snapshot_does_not_grow_beyond_its_limit(limited: Path, tmp_path: Path) -> None:
    """Written through an overlay, where root is limited too."""
    driver = OverlaySnapshotDriver(limited / "overlayfs")
    driver.create(DriverSnapshot(1, Kind.ACTIVE))
    driver.create(_limited(2, 2 * MIB, 1))
    driver.create(DriverSnapshot(3, Kind.ACTIVE, (1,)))
    (limited / "overlayfs" / "snapshots" / "1" / "fs" / "below").write_bytes(b"x" * 1000)
    target = tmp_path / "mounted"
    target.mkdir()
    for number, fits in ((2, False), (3, True)):
        [mount] = driver.mounts(DriverSnapshot(number, Kind.ACTIVE, (1,)))
        _native.mount_all([(mount.type, mount.source, "", mount.options)], target)
        try:
            (target / "below").write_bytes(b"copied up")
            (target / "small").write_bytes(bytes(MIB))
            if fits:
                (target / "large").write_bytes(bytes(3 * MIB))
            else:
                with pytest.raises(OSError) as failed:  # noqa: PT011
                    (target / "large").write_bytes(bytes(3 * MIB))
                # XFS treats the folder like a full disk.
                assert failed.value.errno in (errno.EDQUOT, errno.ENOSPC)
        finally:
            _native.unmount_all(target)
    project = _native.project_id(limited / "overlayfs" / "snapshots" / "2" / "fs")
    assert project == _native.project_id(limited / "overlayfs" / "snapshots" / "2" / "work") != 0
    assert _native.project_usage(limited, project)[2] == 2 * MIB
    driver.settle(2)
    assert _native.project_usage(limited, project)[2] == 0


def test_a_limit_goes_with_its_snapshot_and_is_nobody_elses(limited: Path) -> None:
    driver = OverlaySnapshotDriver(limited / "overlayfs")
    foreign = limited / "foreign"
    foreign.mkdir()
    driver.create(_limited(5, MIB))
    fs = limited / "overlayfs" / "snapshots" / "5" / "fs"
    project = _native.project_id(fs)
    driver.remove(5)
    assert not fs.exists()
    _native.set_project_id(foreign, project)
    driver.create(_limited(5, MIB))
    other = _native.project_id(fs)
    assert other not in (0, project)
    driver.remove(5)
    assert _native.project_usage(limited, project)[2] == 0


def test_a_file_system_without_quotas_says_so(tmp_path: Path, leak_check: object) -> None:
    root = tmp_path / "tmpfs"
    root.mkdir()
    _native.mount_all([("tmpfs", "tmpfs", "", ["size=1m"])], root)
    try:
        driver = OverlaySnapshotDriver(root / "overlayfs")
        with pytest.raises(
            FailedPreconditionError, match=rf"cannot be limited to 1024 bytes \({LABEL}\).*prjquota"
        ):
            driver.create(_limited(1, 1024))
        assert driver.ids() == []
        driver.create(DriverSnapshot(2, Kind.VIEW, (), {LABEL: "1024"}))
        driver.create(DriverSnapshot(3, Kind.ACTIVE))
        driver.remove(3)
    finally:
        _native.unmount_all(root)


@pytest.mark.parametrize("text", ["", "0", "-1", "1k", "1.5", "9223372036854775808", "٣"])
def test_what_is_no_size_is_refused(tmp_path: Path, leak_check: object, text: str) -> None:
    driver = OverlaySnapshotDriver(tmp_path / "overlayfs")
    with pytest.raises(InvalidArgumentError, match="expected a positive number of bytes"):
        driver.create(DriverSnapshot(1, Kind.ACTIVE, (), {LABEL: text}))
    assert driver.ids() == []
