"""Finding out what overlay mounts can do here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from containerd_hybrid import _native
from containerd_hybrid.errors import InvalidArgumentError, UnimplementedError
from containerd_hybrid.snapshots import overlay_support

pytestmark = pytest.mark.root


def test_the_check_passes_here_and_leaves_nothing(tmp_path: Path, leak_check: object) -> None:
    overlay_support.check(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_check_left_goes_at_the_next_one(tmp_path: Path, leak_check: object) -> None:
    left = tmp_path / "check-left" / "merged"
    left.mkdir(parents=True)
    _native.mount_all([("tmpfs", "tmpfs", "", ["size=4k"])], left)
    overlay_support.check(tmp_path)
    assert not _native.mounted(left)
    assert not left.parent.exists()


def test_what_does_not_mount_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(mounts: object, target: object) -> list[str]:
        raise InvalidArgumentError("wrong fs type")

    monkeypatch.setattr(overlay_support, "mount_all", refuse)
    with pytest.raises(UnimplementedError, match=f"overlayfs does not work in {tmp_path}: wrong fs type"):
        overlay_support.check(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_shows_whiteouts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leak_check: object
) -> None:
    # A bind mount of a folder in which the file stays visible stands for a file system without d_type.
    def bind(mounts: object, target: Path) -> list[str]:
        source = target.parent / "lower1"
        (source / "whiteout").touch()
        return _native.mount_all([("bind", str(source), "", ["rbind"])], target)

    monkeypatch.setattr(overlay_support, "mount_all", bind)
    with pytest.raises(UnimplementedError, match="does not support d_type"):
        overlay_support.check(tmp_path)


def test_the_drivers_start_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from containerd_hybrid.snapshots.overlayfs import OverlaySnapshotDriver

    def refuse(mounts: object, target: object) -> list[str]:
        raise InvalidArgumentError("wrong fs type")

    monkeypatch.setattr(overlay_support, "mount_all", refuse)
    with pytest.raises(UnimplementedError, match="overlayfs does not work"):
        OverlaySnapshotDriver(tmp_path)


@pytest.mark.parametrize(
    ("release", "maps"),
    [("5.18.19-generic", False), ("5.19.0", True), ("6.1.0-13-amd64", True), ("4.9", False)],
)
def test_ids_can_be_mapped_since_5_19(release: str, maps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    system, node, _, *rest = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, node, release, *rest)))
    assert overlay_support.can_map_ids() is maps


def test_userxattr_is_for_user_namespaces_and_not_for_tmpfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not overlay_support.needs_userxattr(tmp_path)
    monkeypatch.setattr(overlay_support, "in_user_namespace", lambda: True)
    assert overlay_support.needs_userxattr(Path("/proc"))
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)
    try:
        assert not overlay_support.needs_userxattr(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_this_process_is_not_in_a_user_namespace() -> None:
    program = "from containerd_hybrid.snapshots import overlay_support as o; print(o.in_user_namespace())"

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    outside = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    inside = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (outside.stdout.strip(), inside.stdout.strip()) == ("False", "True")
