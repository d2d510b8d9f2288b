"""Bundles are laid out as containerd's, and deleting one never deletes anything else."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from containerd_hybrid.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.tasks.bundle import SPEC_TYPE, Bundles, mounts_below, read_record

SPEC = AnyValue(SPEC_TYPE, b'{"ociVersion":"1.1.0"}')


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    return Bundles(tmp_path / "root", tmp_path / "state")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_layout(bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles.create("ns", "c1", SPEC)
    assert bundle.path == tmp_path / "state/ns/c1"
    assert mode(bundle.path) == 0o700
    assert mode(bundle.path.parent) == mode(bundle.rootfs) == mode(bundle.work) == 0o711
    assert (bundle.path / "config.json").read_bytes() == SPEC.value
    assert (bundle.path / "work").readlink() == bundle.work == tmp_path / "root/ns/c1"
    assert sorted(p.name for p in bundle.path.iterdir()) == ["config.json", "rootfs", "work"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="changes the group of a folder")
def test_with_a_user_namespace_its_root_group_may_pass(bundles: Bundles) -> None:
    mappings = [{"containerID": 5, "hostID": 1}, {"containerID": 0, "hostID": 100000, "size": 65536}]
    spec = AnyValue(SPEC_TYPE, json.dumps({"linux": {"gidMappings": mappings}}).encode())
    bundle = bundles.create("ns", "c1", spec)
    assert mode(bundle.path) == 0o710
    assert bundle.path.stat().st_gid == 100000


@pytest.mark.parametrize("spec", [b"[]", b"{", b'{"linux": 3}', b'{"linux": {"gidMappings": [1]}}', b"\xff"])
def test_a_spec_that_is_none_leaves_nothing(bundles: Bundles, tmp_path: Path, spec: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="the spec of container c1 cannot be read"):
        bundles.create("ns", "c1", AnyValue(SPEC_TYPE, spec))
    assert not list(tmp_path.rglob("*c1*"))


def test_specs_of_other_types_are_not_looked_into(bundles: Bundles) -> None:
    bundle = bundles.create("ns", "c1", AnyValue("vendor/Spec", b"\x00anything"))
    assert (bundle.path / "config.json").read_bytes() == b"\x00anything"


@pytest.mark.parametrize("id", ["", ".", "..", "a/b", "../x", "/etc", ".hidden", "a" * 77, "a\n", "a\0b"])
def test_names_cannot_leave_the_folder(bundles: Bundles, tmp_path: Path, id: str) -> None:
    with pytest.raises(InvalidArgumentError):
        bundles.create("ns", id, SPEC)
    with pytest.raises(InvalidArgumentError):
        bundles.create(id, "c1", SPEC)
    assert list(tmp_path.iterdir()) == []


def test_one_of_a_name(bundles: Bundles) -> None:
    bundle = bundles.create("ns", "c1", SPEC)
    (bundle.path / "mark").touch()
    with pytest.raises(AlreadyExistsError, match=r"task c1: the bundle .* exists already"):
        bundles.create("ns", "c1", SPEC)
    assert (bundle.path / "mark").exists()


def test_the_working_folder_of_before_a_reboot_is_emptied(bundles: Bundles, tmp_path: Path) -> None:
    old = tmp_path / "root/ns/c1/old"
    old.mkdir(parents=True)
    bundle = bundles.create("ns", "c1", SPEC)
    assert list(bundle.work.iterdir()) == []


def test_a_failure_half_way_leaves_nothing(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "symlink_to", full)
    with pytest.raises(OSError, match="No space"):
        bundles.create("ns", "c1", SPEC)
    assert not list(tmp_path.rglob("*c1*"))


def test_removing(bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles.create("ns", "c1", SPEC)
    other = bundles.create("ns", "c2", SPEC)
    (bundle.path / "deep" / "er").mkdir(parents=True)
    (bundle.work / "file").touch()
    (bundle.path / "log").symlink_to(other.path / "config.json")
    bundles.remove(bundle)
    assert [p.name for p in (tmp_path / "state/ns").iterdir()] == ["c2"]
    assert [p.name for p in (tmp_path / "root/ns").iterdir()] == ["c2"]
    assert (other.path / "config.json").exists()
    bundles.remove(bundle)


def test_removing_over_an_interrupted_removal(bundles: Bundles) -> None:
    bundle = bundles.create("ns", "c1", SPEC)
    (bundle.path.with_name(".c1") / "old").mkdir(parents=True)
    bundles.remove(bundle)
    assert list(bundle.path.parent.iterdir()) == []


def test_a_working_folder_under_another_root_is_found_by_its_link(bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles.create("ns", "c1", SPEC)
    elsewhere = tmp_path / "old-root/ns/c1"
    elsewhere.mkdir(parents=True)
    (bundle.path / "work").unlink()
    (bundle.path / "work").symlink_to(elsewhere)
    bundles.remove(bundle)
    assert not elsewhere.exists()


@pytest.mark.parametrize("target", ["precious", "../../precious", "precious/c1"])
def test_a_link_to_anything_else_is_not_followed(bundles: Bundles, tmp_path: Path, target: str) -> None:
    precious = tmp_path / "precious"
    (precious / "c1").mkdir(parents=True)
    bundle = bundles.create("ns", "c1", SPEC)
    (bundle.path / "work").unlink()
    (bundle.path / "work").symlink_to(target if target.startswith("..") else tmp_path / target)
    bundles.remove(bundle)
    assert (precious / "c1").exists()
    assert not bundle.work.exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_mount_keeps_a_bundle_from_being_deleted(bundles: Bundles, tmp_path: Path) -> None:
    import subprocess

    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "data").touch()
    bundle = bundles.create("ns", "c1", SPEC)
    subprocess.run(["mount", "--bind", volume, bundle.rootfs], check=True)
    try:
        with pytest.raises(FailedPreconditionError, match="rootfs is still mounted"):
            bundles.remove(bundle)
        with pytest.raises(FailedPreconditionError, match="rootfs is still mounted"):
            bundles.remove_rubbish(bundle.path)
        assert (bundle.path / "config.json").exists()
    finally:
        subprocess.run(["umount", bundle.rootfs], check=True)
    bundles.remove(bundle)
    assert (volume / "data").exists()


def test_mount_points_are_unescaped_and_compared_by_component(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    lines = [
        "1 0 0:1 / / rw - ext4 /dev/a rw",
        r"2 1 0:2 / /b/c\040d rw - tmpfs t rw",
        "3 1 0:2 / /b/c rw shared:1 - tmpfs t rw",
        "4 1 0:2 / /b/cc rw - tmpfs t rw",
        r"5 1 0:2 / /b/c/x\134y rw - tmpfs t rw",
    ]
    table.write_text("\n".join(lines) + "\n")
    assert mounts_below(Path("/b/c"), table) == ["/b/c", "/b/c/x\\y"]
    assert mounts_below(Path("/b/c d"), table) == ["/b/c d"]
    assert mounts_below(Path("/nope"), table) == []


def test_listing(bundles: Bundles, tmp_path: Path) -> None:
    assert [*bundles.all(), *bundles.rubbish(), *bundles.unused_works()] == []
    made = [bundles.create(ns, name, SPEC) for ns in ("a", "b") for name in ("1", "2")]
    (tmp_path / "state/a/.gone").mkdir()
    (tmp_path / "root/c/9").mkdir(parents=True)
    assert list(bundles.all()) == made
    assert list(bundles.rubbish()) == [tmp_path / "state/a/.gone"]
    assert list(bundles.unused_works()) == [tmp_path / "root/c/9"]


def test_what_was_recorded(bundles: Bundles) -> None:
    bundle = bundles.create("ns", "c1", SPEC)
    assert bundle.shim_path() is None
    bundle.record_shim_path(Path("/usr/bin/containerd-shim-runc-v2"))
    assert bundle.shim_path() == Path("/usr/bin/containerd-shim-runc-v2")
    assert (bundle.path / "shim-binary-path").read_text() == "/usr/bin/containerd-shim-runc-v2"
    assert mode(bundle.path / "shim-binary-path") == 0o600


def test_a_record_is_a_file_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    assert read_record(tmp_path / "file") == b"text"
    for other in ("none", "link", "folder", "fifo", "file/below"):
        assert read_record(tmp_path / other) == b""
