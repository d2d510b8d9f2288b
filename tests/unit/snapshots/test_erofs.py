"""The mounts of the erofs driver, word for word as containerd's, and its options."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from containerd_hybrid.errors import FailedPreconditionError, InvalidConfigError, UnimplementedError
from containerd_hybrid.model import Digest, Mount
from containerd_hybrid.snapshots import erofs_files, overlay_support
from containerd_hybrid.snapshots.api import DriverSnapshot, Kind, staged
from containerd_hybrid.snapshots.erofs import ErofsSettings, ErofsSnapshotDriver

DIFF_ID = Digest.of(b"a layer")
FOR_A_LAYER = {"containerd.io/snapshot.ref": "chain", "containerd.io/snapshot/diff-id": str(DIFF_ID)}


@pytest.fixture(autouse=True)
def _supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests need no kernel and no program: what an image is made of is written into it."""
    monkeypatch.setattr(overlay_support, "check", lambda root: None)
    monkeypatch.setattr(overlay_support, "can_map_ids", lambda: True)
    monkeypatch.setattr(erofs_files, "kernel_has_erofs", lambda: True)
    monkeypatch.setattr(erofs_files, "PROGRAM", "true")

    def image_of_folder(folder: Path, image: Path) -> None:
        image.write_text(" ".join(sorted(path.name for path in folder.iterdir())))

    monkeypatch.setattr(erofs_files, "image_of_folder", image_of_folder)


def _driver(root: Path, **settings: object) -> ErofsSnapshotDriver:
    return ErofsSnapshotDriver(root, ErofsSettings(**settings))  # type: ignore[arg-type]


def _committed(driver: ErofsSnapshotDriver, *numbers: int) -> None:
    for index, number in enumerate(numbers):
        snapshot = DriverSnapshot(number, Kind.ACTIVE, tuple(reversed(numbers[:index])))
        driver.create(snapshot)
        driver.commit(snapshot)
        driver.settle(number)


def _image(root: Path, number: int, *more: str) -> Mount:
    return Mount("erofs", f"{root}/snapshots/{number}/layer.erofs", ("ro", "loop", *more))


def test_without_a_parent_it_is_a_bind_mount(tmp_path: Path) -> None:
    driver = _driver(tmp_path)
    for kind, access in ((Kind.ACTIVE, "rw"), (Kind.VIEW, "ro")):
        driver.create(DriverSnapshot(1, kind))
        bind = Mount("bind", f"{tmp_path}/snapshots/1/fs", (access, "rbind"))
        assert driver.mounts(DriverSnapshot(1, kind)) == [bind]
        assert (tmp_path / "snapshots/1/.erofslayer").exists() == (kind is Kind.ACTIVE)


def test_layers_are_mounted_one_by_one_and_overlaid(tmp_path: Path) -> None:
    driver = _driver(tmp_path, overlay_options=("metacopy=on",))
    _committed(driver, 1, 2)
    here = f"{tmp_path}/snapshots/3"
    assert driver.mounts(DriverSnapshot(3, Kind.ACTIVE, (2, 1))) == [
        _image(tmp_path, 2),
        _image(tmp_path, 1),
        Mount(
            "format/mkdir/overlay",
            "overlay",
            (f"workdir={here}/work", f"upperdir={here}/fs", "lowerdir={{ overlay 0 1 }}", "metacopy=on"),
        ),
    ]
    one = driver.mounts(DriverSnapshot(3, Kind.ACTIVE, (1,)))
    assert one[-1].options[2] == "lowerdir={{ mount 0 }}"
    assert driver.mounts(DriverSnapshot(3, Kind.VIEW, (2, 1)))[-1] == Mount(
        "format/mkdir/overlay", "overlay", ("lowerdir={{ overlay 0 1 }}", "metacopy=on")
    )
    assert driver.mounts(DriverSnapshot(3, Kind.VIEW, (1,))) == [_image(tmp_path, 1)]


def test_merged_metadata_stands_for_the_layers_below(tmp_path: Path) -> None:
    driver = _driver(tmp_path)
    _committed(driver, 1, 2, 3)
    merged = tmp_path / "snapshots/2/fsmeta.erofs"
    merged.touch()
    assert len(driver.mounts(DriverSnapshot(4, Kind.VIEW, (3, 2, 1)))) == 4  # an empty one is none
    merged.write_text("x")
    devices = tuple(f"device={tmp_path}/snapshots/{number}/layer.erofs" for number in (1, 2))
    flat = Mount("erofs", str(merged), ("ro", "loop", *devices))
    assert driver.mounts(DriverSnapshot(4, Kind.VIEW, (3, 2, 1)))[:2] == [_image(tmp_path, 3), flat]
    assert driver.mounts(DriverSnapshot(4, Kind.VIEW, (2, 1))) == [
        flat,
        Mount("format/bind", "{{ mount 0 }}", ("ro", "rbind")),
    ]


def test_a_default_size_gives_a_file_system_to_write_to(tmp_path: Path) -> None:
    driver = _driver(tmp_path, default_size=1 << 20)
    _committed(driver, 1)
    driver.create(DriverSnapshot(2, Kind.ACTIVE, (1,)))
    assert not (tmp_path / "snapshots/2/work").exists()
    image = f"{tmp_path}/snapshots/2/rwlayer.img"

    def block(size: int) -> Mount:
        made = ("X-containerd.mkfs.fs=ext4", f"X-containerd.mkfs.size={size}")
        return Mount("mkfs/ext4", image, (*made, "rw", "loop"))

    made = tuple(f"X-containerd.mkdir.path={{{{ mount 0 }}}}/{name}:0755" for name in ("upper", "work"))
    used = ("workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ mount 1 }}")
    assert driver.mounts(DriverSnapshot(2, Kind.ACTIVE, (1,))) == [
        block(1 << 20),
        _image(tmp_path, 1),
        Mount("format/mkdir/overlay", "overlay", made + used),
    ]
    labels = {"containerd.io/snapshot/max-size": "5000000"}
    assert driver.mounts(DriverSnapshot(2, Kind.ACTIVE, (), labels)) == [
        block(5_000_000),
        Mount("format/mkdir/bind", "{{ mount 0 }}/upper", (made[0], "rw", "rbind")),
    ]


def test_changes_are_kept_until_the_commit_is_settled(tmp_path: Path) -> None:
    """A commit whose record fails is no commit: what is written afterwards is in the next one."""
    driver = _driver(tmp_path)
    snapshot = DriverSnapshot(1, Kind.ACTIVE)
    driver.create(snapshot)
    fs, layer = tmp_path / "snapshots/1/fs", tmp_path / "snapshots/1/layer.erofs"
    (fs / "one").touch()
    driver.commit(snapshot)
    assert driver.mounts(snapshot)[0].type == "bind"
    (fs / "two").touch()
    driver.commit(snapshot)
    assert layer.read_text() == "one two"
    driver.settle(1)
    driver.settle(1)
    assert list(fs.iterdir()) == []
    assert driver.mounts(DriverSnapshot(2, Kind.VIEW, (1,))) == [_image(tmp_path, 1)]


def test_a_layer_in_a_cache_is_linked_and_only_committed(tmp_path: Path) -> None:
    caches = (tmp_path / "missing", tmp_path / "cache")
    blob = caches[1] / "sha256" / DIFF_ID.hex[:2] / f"{DIFF_ID.hex}.erofs"
    blob.parent.mkdir(parents=True)
    blob.write_text("cached")
    driver = _driver(tmp_path / "root", layer_content_caches=caches)
    snapshot = DriverSnapshot(1, Kind.ACTIVE, (), FOR_A_LAYER)
    driver.create(snapshot)
    assert staged(driver.mounts(snapshot))
    driver.commit(snapshot)
    driver.settle(1)
    layer = tmp_path / "root/snapshots/1/layer.erofs"
    assert layer.is_symlink()
    assert layer.read_text() == "cached"
    driver.create(DriverSnapshot(2, Kind.ACTIVE, (1,), FOR_A_LAYER))
    driver.create(
        DriverSnapshot(3, Kind.ACTIVE, (), {**FOR_A_LAYER, "containerd.io/snapshot/diff-id": "odd"})
    )
    for number in (2, 3):
        assert not (tmp_path / f"root/snapshots/{number}/layer.erofs").exists()
    driver.remove(1)
    assert blob.read_text() == "cached"


def test_a_root_hash_travels_with_its_layer(tmp_path: Path) -> None:
    driver = _driver(tmp_path)
    _committed(driver, 1)
    metadata = tmp_path / "snapshots/1/layer.erofs.dmverity"
    metadata.write_text("{}")
    view = DriverSnapshot(2, Kind.VIEW, (1,))
    assert driver.mounts(view) == [_image(tmp_path, 1, f"X-containerd.dmverity={metadata}")]
    assert _driver(tmp_path, dmverity_mode="off").mounts(view) == [_image(tmp_path, 1)]


def test_verity_where_it_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("containerd_hybrid.snapshots.erofs._check", lambda settings: None)
    driver = _driver(tmp_path, dmverity_mode="on")
    _committed(driver, 1)
    with pytest.raises(
        FailedPreconditionError, match=r"dm-verity mode is 'on' but \.dmverity metadata not found"
    ):
        driver.mounts(DriverSnapshot(2, Kind.VIEW, (1,)))

    def refuse(path: Path) -> None:
        raise FailedPreconditionError(f"fsverity is not supported on the file system of {path}")

    monkeypatch.setattr(erofs_files, "enable_verity", refuse)
    with pytest.raises(FailedPreconditionError, match="fsverity is not supported"):
        _driver(tmp_path, enable_fsverity=True)


@pytest.mark.root
def test_layers_can_be_protected_against_everybody(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.touch()
    try:
        erofs_files.set_immutable(probe, True)
    except UnimplementedError as error:
        pytest.skip(f"no immutable files here: {error}")
    erofs_files.set_immutable(probe, False)
    driver = _driver(tmp_path / "root", set_immutable=True)
    _committed(driver, 1)
    layer = tmp_path / "root/snapshots/1/layer.erofs"
    with pytest.raises(PermissionError):
        layer.unlink()
    driver.remove(1)
    assert driver.ids() == []


def test_the_folder_takes_after_its_parent(tmp_path: Path) -> None:
    driver = _driver(tmp_path)
    driver.create(DriverSnapshot(1, Kind.ACTIVE))
    (tmp_path / "snapshots/1/fs").chmod(0o1711)
    driver.create(DriverSnapshot(2, Kind.ACTIVE, (1,)))
    found = (tmp_path / "snapshots/2/fs").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o1711, os.geteuid())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dmverity_mode": "maybe"}, 'invalid dmverity_mode "maybe"'),
        ({"layer_content_caches": (Path("relative"),)}, "must be an absolute path"),
        ({"layer_content_caches": (Path("/c"),), "set_immutable": True}, "set_immutable is incompatible"),
        ({"layer_content_caches": (Path("/c"),), "enable_fsverity": True}, "enable_fsverity is incompatible"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        _driver(tmp_path, **settings)


def test_without_kernel_or_program_it_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erofs_files, "PROGRAM", "no-such-program")
    with pytest.raises(UnimplementedError, match="install erofs-utils"):
        _driver(tmp_path)
    monkeypatch.setattr(erofs_files, "kernel_has_erofs", lambda: False)
    with pytest.raises(UnimplementedError, match="EROFS unsupported, please `modprobe erofs`"):
        _driver(tmp_path)


def test_capabilities(tmp_path: Path) -> None:
    assert _driver(tmp_path).capabilities == ("only-remap-ids", "remap-ids", "rebase")
