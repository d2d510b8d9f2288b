"""The mounts of the overlayfs driver, word for word as containerd's, and its options."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from containerd_hybrid.errors import InvalidArgumentError, InvalidConfigError, UnimplementedError
from containerd_hybrid.model import Mount
from containerd_hybrid.snapshots import overlay_support
from containerd_hybrid.snapshots.api import DriverSnapshot, Kind
from containerd_hybrid.snapshots.idmap import mapped_root
from containerd_hybrid.snapshots.overlayfs import OverlaySnapshotDriver

UID, GID = "containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"


@pytest.fixture(autouse=True)
def _supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests need no kernel."""
    monkeypatch.setattr(overlay_support, "check", lambda root: None)
    monkeypatch.setattr(overlay_support, "can_map_ids", lambda: True)
    monkeypatch.setattr(overlay_support, "needs_userxattr", lambda root: False)
    monkeypatch.setattr(overlay_support, "has_index", lambda: True)
    monkeypatch.setattr(overlay_support, "in_user_namespace", lambda: False)


def _upper(root: Path, number: int) -> str:
    return f"{root}/snapshots/{number}/fs"


@pytest.mark.parametrize(("kind", "access"), [(Kind.ACTIVE, "rw"), (Kind.VIEW, "ro")])
def test_without_a_parent_it_is_a_bind_mount(tmp_path: Path, kind: Kind, access: str) -> None:
    driver = OverlaySnapshotDriver(tmp_path)
    assert driver.mounts(DriverSnapshot(1, kind)) == [Mount("bind", _upper(tmp_path, 1), (access, "rbind"))]


def test_an_active_snapshot_is_an_overlay(tmp_path: Path) -> None:
    driver = OverlaySnapshotDriver(tmp_path)
    assert driver.mounts(DriverSnapshot(7, Kind.ACTIVE, (5, 3))) == [
        Mount(
            "overlay",
            "overlay",
            (
                f"workdir={tmp_path}/snapshots/7/work",
                f"upperdir={_upper(tmp_path, 7)}",
                f"lowerdir={_upper(tmp_path, 5)}:{_upper(tmp_path, 3)}",
                "index=off",
            ),
        )
    ]


def test_a_view_of_one_layer_is_a_bind_mount_of_it(tmp_path: Path) -> None:
    driver = OverlaySnapshotDriver(tmp_path)
    assert driver.mounts(DriverSnapshot(7, Kind.VIEW, (5,))) == [
        Mount("bind", _upper(tmp_path, 5), ("ro", "rbind"))
    ]


def test_a_view_of_more_is_an_overlay_without_an_upper_folder(tmp_path: Path) -> None:
    driver = OverlaySnapshotDriver(tmp_path)
    assert driver.mounts(DriverSnapshot(7, Kind.VIEW, (5, 3, 1))) == [
        Mount(
            "overlay",
            "overlay",
            (f"lowerdir={_upper(tmp_path, 5)}:{_upper(tmp_path, 3)}:{_upper(tmp_path, 1)}", "index=off"),
        )
    ]


@pytest.mark.parametrize(
    ("configured", "userxattr", "index", "expected"),
    [
        ((), False, True, ("index=off",)),
        ((), True, True, ("userxattr", "index=off")),
        ((), False, False, ()),
        (("volatile", "metacopy=on"), False, True, ("volatile", "metacopy=on", "index=off")),
        (("index=on",), True, True, ("index=on", "userxattr")),
        (("userxattr",), True, False, ("userxattr",)),
    ],
)
def test_options_come_last_and_none_is_overridden(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    configured: tuple[str, ...],
    userxattr: bool,
    index: bool,
    expected: tuple[str, ...],
) -> None:
    monkeypatch.setattr(overlay_support, "needs_userxattr", lambda root: userxattr)
    monkeypatch.setattr(overlay_support, "has_index", lambda: index)
    driver = OverlaySnapshotDriver(tmp_path, mount_options=configured)
    [mount] = driver.mounts(DriverSnapshot(3, Kind.VIEW, (2, 1)))
    assert mount.options[1:] == expected
    [mount] = driver.mounts(DriverSnapshot(3, Kind.ACTIVE))
    assert mount.options == ("rw", "rbind")


def test_id_mappings_are_mount_options(tmp_path: Path) -> None:
    driver = OverlaySnapshotDriver(tmp_path)
    labels = {UID: "0:1000:65536", GID: "0:2000:65536"}
    mapped = ("uidmap=0:1000:65536", "gidmap=0:2000:65536")
    [bound] = driver.mounts(DriverSnapshot(3, Kind.ACTIVE, (), labels))
    assert bound.options == (*mapped, "rw", "rbind")
    [overlay] = driver.mounts(DriverSnapshot(3, Kind.ACTIVE, (2,), labels))
    assert overlay.options[:2] == mapped
    assert overlay.options[2].startswith("workdir=")


def test_folders(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        driver = OverlaySnapshotDriver(tmp_path / "root")
        driver.create(DriverSnapshot(1, Kind.ACTIVE))
        driver.create(DriverSnapshot(2, Kind.VIEW))
    finally:
        os.umask(old)
    found = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in sorted(tmp_path.rglob("*"))
    }
    assert found == {
        "root": 0o700,
        "root/snapshots": 0o700,
        "root/snapshots/1": 0o700,
        "root/snapshots/1/fs": 0o755,
        "root/snapshots/1/work": 0o711,
        "root/snapshots/2": 0o700,
        "root/snapshots/2/fs": 0o755,
    }
    assert driver.ids() == [1, 2]
    driver.remove(1)
    driver.remove(1)
    assert driver.ids() == [2]


@pytest.mark.root
def test_the_upper_folder_takes_after_its_parent(tmp_path: Path) -> None:
    driver = OverlaySnapshotDriver(tmp_path)
    driver.create(DriverSnapshot(1, Kind.ACTIVE))
    parent = Path(_upper(tmp_path, 1))
    os.chown(parent, 12, 34)
    parent.chmod(0o3710)
    driver.create(DriverSnapshot(2, Kind.ACTIVE, (1,)))
    found = Path(_upper(tmp_path, 2)).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o3710, 12, 34)


@pytest.mark.root
def test_the_upper_folder_belongs_to_the_mapped_root(tmp_path: Path) -> None:
    driver = OverlaySnapshotDriver(tmp_path)
    labels = {UID: "1:5000:10,0:1000:1", GID: "0:2000:65536"}
    driver.create(DriverSnapshot(1, Kind.ACTIVE, (), labels))
    driver.create(DriverSnapshot(2, Kind.ACTIVE, (1,), {UID: "0:3000:1"}))
    one, two = (Path(_upper(tmp_path, number)).stat() for number in (1, 2))
    assert (one.st_uid, one.st_gid) == (1000, 2000)
    assert (two.st_uid, two.st_gid) == (3000, 0)


def test_id_mappings_that_the_kernel_cannot_do_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay_support, "can_map_ids", lambda: False)
    driver = OverlaySnapshotDriver(tmp_path)
    with pytest.raises(UnimplementedError, match="snapshot 1 cannot be mapped into a user namespace"):
        driver.create(DriverSnapshot(1, Kind.ACTIVE, (), {UID: "0:1000:65536"}))
    assert driver.ids() == []
    assert "remap-ids" not in driver.capabilities


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, None),
        ({UID: "0:1000:1"}, (1000, 0)),
        ({GID: "0:1000:1"}, (0, 1000)),
        ({UID: "1:2:3,0:1000:1", GID: ""}, (1000, 0)),
    ],
)
def test_the_mapped_root(labels: dict[str, str], expected: tuple[int, int] | None) -> None:
    assert mapped_root(labels) == expected


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("1:1000:65536", "container ID 0 cannot be mapped"),
        ("0:1000:0", "container ID 0 cannot be mapped"),
        ("0:1000", "invalid mapping '0:1000'"),
        ("0:-1:5", "invalid mapping"),
        ("0:4294967295:1", "invalid mapping"),
        ("0:1:1,", "invalid mapping ''"),
        ("rubbish", "invalid mapping"),
    ],
)
def test_mappings_that_cannot_be_are_refused(tmp_path: Path, mapping: str, message: str) -> None:
    driver = OverlaySnapshotDriver(tmp_path)
    with pytest.raises(InvalidArgumentError, match=message):
        driver.create(DriverSnapshot(1, Kind.ACTIVE, (), {UID: mapping}))
    assert driver.ids() == []


def test_capabilities(tmp_path: Path) -> None:
    assert OverlaySnapshotDriver(tmp_path).capabilities == ("remap-ids", "only-remap-ids", "rebase")
    assert OverlaySnapshotDriver(tmp_path, slow_chown=True).capabilities == ("remap-ids", "rebase")


def test_layers_cannot_be_rebased_where_deletions_cannot_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = OverlaySnapshotDriver(tmp_path, mount_options=["userxattr"])
    assert "rebase" not in driver.capabilities
    monkeypatch.setattr(overlay_support, "in_user_namespace", lambda: True)
    assert "rebase" not in OverlaySnapshotDriver(tmp_path).capabilities


def test_the_upper_folder_is_shown_when_asked_for(tmp_path: Path) -> None:
    assert OverlaySnapshotDriver(tmp_path).labels(5) == {}
    driver = OverlaySnapshotDriver(tmp_path, upperdir_label=True)
    assert driver.labels(5) == {"containerd.io/snapshot/overlay.upperdir": _upper(tmp_path, 5)}


@pytest.mark.parametrize("name", ["with:colon", "with,comma", "with\\backslash"])
def test_a_root_that_no_option_can_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidConfigError, match="overlayfs cannot use"):
        OverlaySnapshotDriver(tmp_path / name)
    assert not (tmp_path / name).exists()
