"""The native mount functions on the real kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from containerd_hybrid import _native
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnavailableError

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.usefixtures("leak_check"),
]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "hidden").touch()
    yield folder
    _native.unmount_all(folder)


def image(tmp_path: Path, *mkfs: str) -> Path:
    if shutil.which(mkfs[0]) is None:
        pytest.skip(f"{mkfs[0]} is not installed")
    content = tmp_path / "content"
    content.mkdir()
    (content / "file").write_text("in the image")
    path = tmp_path / "image"
    arguments = [word.format(image=path, content=content) for word in mkfs]
    subprocess.run(arguments, check=True, capture_output=True)
    return path


def info(target: Path) -> list[_native.MountInfo]:
    return [mount for mount in _native.mountinfo() if mount.mount_point == str(target)]


def test_paths_of_any_kind_and_options_of_any_sequence(tmp_path: Path, target: Path) -> None:
    odd = tmp_path / "a b\\040\n"
    odd.mkdir()
    made = _native.mount_all([("tmpfs", "so urce", "", ("size=64k",))], str(odd))
    assert made == [str(odd)]
    (mount,) = info(odd)
    assert (mount.type, mount.source, mount.root) == ("tmpfs", "so urce", "/")
    assert "size=64k" in mount.super_options.split(",")
    assert _native.mounted(odd)
    assert _native.mounted(str(odd))
    _native.unmount_each(made)
    assert not _native.mounted(odd)
    with pytest.raises(NotFoundError, match="absent"):
        _native.mount_all([("tmpfs", "x", "", [])], tmp_path / "absent")


@pytest.mark.parametrize("wrong", [[("tmpfs", "x", "")], [("tmpfs", "x", "", "ro")], "tmpfs"])
def test_what_is_no_list_of_mounts_is_a_type_error(target: Path, wrong: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        _native.mount_all(wrong, target)  # type: ignore[arg-type]
    assert not _native.mounted(target)


def attached() -> set[str]:
    """The files that loop devices stand on."""
    found = set()
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # somebody else's, released meanwhile
            found.add(file.read_text().strip())
    return found


def test_an_ext4_image_over_a_loop_device(tmp_path: Path, target: Path) -> None:
    path = image(tmp_path, "mkfs.ext4", "-q", "-F", "-d", "{content}", "{image}", "8M")
    _native.mount_all([("ext4", str(path), "", ["loop", "ro"])], target)
    assert (target / "file").read_text() == "in the image"
    assert info(target)[0].source.startswith("/dev/loop")
    _native.unmount_all(target)
    # The kernel lets go of it when the last who looks at the device (udev, perhaps) does.
    while str(path) in attached():
        time.sleep(0.01)


def test_an_erofs_image_is_read_only_without_being_told(tmp_path: Path, target: Path) -> None:
    path = image(tmp_path, "mkfs.erofs", "{image}", "{content}")
    path.chmod(0o444)
    _native.mount_all([("erofs", str(path), "", ["loop"])], target)
    assert (target / "file").read_text() == "in the image"
    assert info(target)[0].options.startswith("ro")


def test_a_busy_mount(target: Path) -> None:
    _native.mount_all([("tmpfs", "x", "", [])], target)
    with (target / "file").open("w") as file:
        with pytest.raises(UnavailableError, match=str(target)):
            _native.unmount_all(target, lazy=False, patience=0.02)
        assert _native.mounted(target)
        _native.unmount_all(target, patience=0)
        assert not _native.mounted(target)
        file.write("still there")


@pytest.mark.parametrize("patience", [-1.0, float("nan"), float("inf")])
def test_patience_is_a_time(target: Path, patience: float) -> None:
    with pytest.raises(InvalidArgumentError, match="patience"):
        _native.unmount_all(target, patience=patience)


def test_waiting_for_a_busy_mount_leaves_python_running(target: Path) -> None:
    _native.mount_all([("tmpfs", "x", "", [])], target)
    file = (target / "file").open("w")
    waiting = threading.Thread(target=_native.unmount_all, args=(target,), kwargs={"patience": 60})
    waiting.start()
    file.close()  # would never happen while the GIL is held
    waiting.join()
    assert not _native.mounted(target)


def test_the_root_is_never_unmounted() -> None:
    with pytest.raises(InvalidArgumentError, match="refused"):
        _native.unmount_all("/")


_IN_USER_NAMESPACE = """
import sys
from containerd_hybrid import _native
from containerd_hybrid.errors import PermissionDeniedError
source, target = sys.argv[1:]
_native.mount_all([("bind", source, "", ["bind", "ro"])], target)
assert [m.options for m in _native.mountinfo() if m.mount_point == target][0].startswith("ro,nosuid,nodev")
_native.unmount_all(target)
try:
    _native.mount_all([("bind", source, "", ["bind", "suid"])], target)
except PermissionDeniedError as error:
    print(error)
assert not _native.mounted(target)
"""


def test_flags_that_a_user_namespace_locks_are_kept_and_a_half_made_bind_is_undone(
    tmp_path: Path, target: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _native.mount_all([("tmpfs", "x", "", ["nosuid", "nodev"])], source)
    try:
        command = [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            sys.executable,
            "-c",
            _IN_USER_NAMESPACE,
        ]
        result = subprocess.run(
            [*command, str(source), str(target)], capture_output=True, text=True, check=False
        )
        if "unshare failed" in result.stderr:
            pytest.skip(f"no user namespaces here: {result.stderr.strip()}")
        assert result.returncode == 0, result.stderr
        assert "flags of the bind" in result.stdout
    finally:
        _native.unmount_all(source)
