"""What is written through the mounts is what every later snapshot shows, compared with one plain folder."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.snapshots.world import NS, Change, World, describe

pytestmark = pytest.mark.root


async def _check_layers(world: World, tmp_path: Path, *changes: Change) -> None:
    """Apply changes, a layer each, and the same ones to one folder; both have to look the same."""
    flat = tmp_path / "flat"
    flat.mkdir()
    parent = ""
    for number, change in enumerate(changes):
        name = f"layer-{number}"
        await world.commit(name, parent, change)
        change(flat)
        assert await world.view(name) == describe(flat)
        parent = name


def _all(*changes: Change) -> Change:
    def apply(root: Path) -> None:
        for change in changes:
            change(root)

    return apply


def _file(path: str, content: str = "", mode: int = 0o644) -> Change:
    def apply(root: Path) -> None:
        (root / path).write_text(content)
        (root / path).chmod(mode)

    return apply


def _folder(path: str, mode: int = 0o755) -> Change:
    def apply(root: Path) -> None:
        (root / path).mkdir()
        (root / path).chmod(mode)

    return apply


def _remove(path: str) -> Change:
    def apply(root: Path) -> None:
        target = root / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()

    return apply


def _rename(old: str, new: str) -> Change:
    return lambda root: (root / old).replace(root / new)


def _chown(path: str, uid: int, gid: int) -> Change:
    return lambda root: os.chown(root / path, uid, gid, follow_symlinks=False)


def _symlink(path: str, target: str) -> Change:
    return lambda root: (root / path).symlink_to(target)


def _link(old: str, new: str) -> Change:
    return lambda root: (root / new).hardlink_to(root / old)


async def test_basic(world: World, tmp_path: Path) -> None:
    await _check_layers(
        world,
        tmp_path,
        _all(_file("foo", "foo\n", 0o777), _folder("a"), _folder("a/b"), _folder("a/b/c")),
        _all(_file("bar", "bar\n", 0o777), _file("foo", "bar\n", 0o777), _remove("a/b")),
    )


async def test_files_deleted_in_a_child_stay_deleted(world: World, tmp_path: Path) -> None:
    await _check_layers(
        world,
        tmp_path,
        _all(_file("foo"), _file("foobar")),
        _remove("foobar"),
        _file("other"),
        _file("foobar", "new"),
    )


async def test_files_are_updated(world: World, tmp_path: Path) -> None:
    await _check_layers(
        world,
        tmp_path,
        _all(_folder("etc", 0o700), _file("etc/hosts", "10.0.0.1"), _file("etc/profile", "PATH=/usr/bin")),
        _all(
            _file("etc/hosts", "10.0.0.2"),
            _file("etc/profile", "PATH=/usr/bin", 0o666),
            _folder("root", 0o700),
            _file("root/.bashrc", "PATH=/usr/sbin:/usr/bin"),
        ),
    )


async def test_a_folder_replaced_by_a_new_one_hides_the_old(world: World, tmp_path: Path) -> None:
    await _check_layers(
        world,
        tmp_path,
        _all(_folder("lib", 0o700), _file("lib/hidden")),
        _all(_remove("lib"), _folder("lib", 0o700), _file("lib/not-hidden")),
        _file("lib/newfile"),
    )


@pytest.mark.parametrize(
    "replacement", [_file("x", "a file now"), _symlink("x", "y"), lambda root: os.mkfifo(root / "x")]
)
async def test_a_folder_replaced_by_something_else(
    world: World, tmp_path: Path, replacement: Callable[[Path], None]
) -> None:
    await _check_layers(
        world,
        tmp_path,
        _all(_folder("x"), _folder("x/deep"), _file("x/deep/file", "old"), _folder("y"), _file("y/file")),
        _all(_remove("x"), replacement),
        _all(_remove("x"), _folder("x"), _file("x/new", "again a folder")),
    )


async def test_a_file_replaced_by_a_folder(world: World, tmp_path: Path) -> None:
    await _check_layers(
        world,
        tmp_path,
        _all(_file("x", "file"), _symlink("y", "/etc")),
        _all(_remove("x"), _folder("x"), _file("x/in"), _remove("y"), _folder("y"), _file("y/in")),
        _remove("x"),
    )


async def test_renames_over_files(world: World, tmp_path: Path) -> None:
    await _check_layers(
        world,
        tmp_path,
        _all(_folder("some", 0o700), _file("some/f1", "was here first!"), _file("some/f2", "nothing")),
        _all(_file("some/new", "new content"), _rename("some/new", "some/f1"), _rename("some/f2", "some/f3")),
        _all(_rename("some/f3", "some/f1"), _folder("fresh"), _file("fresh/x"), _rename("fresh", "renamed")),
    )


async def test_a_folder_of_a_parent_is_renamed(world: World, tmp_path: Path) -> None:
    if world.driver.name in {"overlayfs", "erofs"}:
        pytest.skip("overlayfs answers EXDEV for a lower layer's folder, as redirect_dir is off")
    await _check_layers(world, tmp_path, _all(_folder("a"), _file("a/x", "1")), _rename("a", "b"))


async def test_files_moved_from_a_lower_layer(world: World, tmp_path: Path) -> None:
    await _check_layers(
        world,
        tmp_path,
        _all(_folder("d1", 0o700), _file("d1/f1", "Hello"), _folder("d2", 0o700), _file("d2/f2", "...")),
        _all(
            _folder("d3", 0o700),
            _file("d3/f1", "Hello"),
            _remove("d1"),
            _link("d2/f2", "d3/f2"),
            _remove("d2/f2"),
        ),
    )


async def test_owners_change(world: World, tmp_path: Path) -> None:
    paths = ("opt", "opt/a", "opt/a/b", "opt/a/b/file", "opt/link")
    await _check_layers(
        world,
        tmp_path,
        _all(
            _folder("opt", 0o700),
            _folder("opt/a", 0o700),
            _folder("opt/a/b", 0o700),
            _file("opt/a/b/file", "hello"),
            _symlink("opt/link", "a"),
        ),
        _all(*(_chown(path, 1, 2) for path in paths)),
        _all(*(_chown(path, 70_000, 70_001) for path in paths)),
    )


async def test_owners_and_modes_of_folders_are_kept_by_commits(world: World, tmp_path: Path) -> None:
    await _check_layers(
        world,
        tmp_path,
        _all(
            *(_folder(f"dir{n}", 0o700) for n in range(1, 6)),
            _file("dir4/f1", "..."),
            _file("dir5/f1", "..."),
            *(_chown(path, 1, 1) for path in ("dir1", "dir2", "dir3", "dir5", "dir5/f1")),
        ),
        _all(_chown("dir2", 0, 0), _remove("dir3"), _chown("dir4", 1, 1), _chown("dir4/f1", 1, 1)),
        _all(
            _folder("dir3", 0o700),
            _chown("dir3", 1, 1),
            _remove("dir5"),
            _folder("dir5", 0o700),
            _chown("dir5", 1, 1),
        ),
    )


async def test_every_kind_of_file_and_attribute(world: World, tmp_path: Path) -> None:
    def special(root: Path) -> None:
        os.mkfifo(root / "fifo", 0o640)
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(root)  # a socket's path is short
            listener.bind("socket")
            os.chdir(here)
        with (root / "sparse").open("wb") as file:
            file.seek(10 << 20)
            file.write(b"end")
            file.truncate(20 << 20)
        (root / "setuid").write_bytes(b"#!")
        capability = bytes.fromhex("0100000200040000000000000000000000000000")
        os.setxattr(root / "setuid", "security.capability", capability)
        (root / "setuid").chmod(0o4755)
        os.setxattr(root / "setuid", "user.note", "ü".encode())
        (root / "sticky").mkdir()
        (root / "sticky").chmod(0o3777)
        os.setxattr(root / "sticky", "user.empty", b"")
        (root / "dangling").symlink_to("/nowhere/at/all")
        (root / "link").hardlink_to(root / "setuid")
        (root / "fifo-link").hardlink_to(root / "fifo")
        (root / os.fsdecode(b"not-utf8-\xff")).write_text("")
        # mkfs.erofs 1.5 ends at a path with a longer name.
        (root / ("n" * (200 if world.driver.name == "erofs" else 255))).write_text("")

    # Not a hard link, which overlayfs breaks when one of its names changes.
    await _check_layers(
        world, tmp_path, special, _file("another"), lambda root: (root / "sparse").chmod(0o2711)
    )


async def test_times_are_kept(world: World, tmp_path: Path) -> None:
    moment = 981_173_106_123_456_789

    def make(root: Path) -> None:
        (root / "folder").mkdir()
        (root / "folder" / "file").write_text("x")
        (root / "link").symlink_to("x")
        for path in ("folder/file", "folder", "link"):
            os.utime(root / path, ns=(moment, moment), follow_symlinks=False)

    await world.commit("one", "", make)
    await world.commit("two", "one", _file("other"))
    with world.mounted(await world.snapshotter.view(NS, "v", "two")) as root:
        for path in ("folder/file", "folder", "link"):
            assert (root / path).lstat().st_mtime_ns == moment


async def test_sparse_files_stay_sparse(world: World, tmp_path: Path) -> None:
    def make(root: Path) -> None:
        with (root / "sparse").open("wb") as file:
            file.truncate(1 << 26)
            file.seek(1 << 25)
            file.write(b"middle")

    await world.commit("one", "", make)
    await world.commit("two", "one")
    assert (await world.snapshotter.usage(NS, "two")).size < 1 << 20


async def test_a_new_root_has_mode_755(world: World) -> None:
    old = os.umask(0o077)
    try:
        mounts = await world.snapshotter.prepare(NS, "a")
    finally:
        os.umask(old)
    with world.mounted(mounts) as root:
        assert stat.S_IMODE(root.stat().st_mode) == 0o755


async def test_the_roots_own_attributes_are_inherited(world: World, driver_name: str, tmp_path: Path) -> None:
    def change(root: Path) -> None:
        os.chown(root, 5, 6)
        # The mount manager makes no folders with more than permissions.
        root.chmod(0o711 if driver_name == "erofs-block" else 0o1711)

    await _check_layers(world, tmp_path, change, _file("x"), _file("y"))


async def test_a_view_cannot_be_written(world: World) -> None:
    await world.commit("one", "", _file("file", "text"))
    await world.commit("two", "one", _file("other", "text"))
    for parent in ("", "one", "two"):
        with world.mounted(await world.snapshotter.view(NS, f"v-{parent}", parent)) as root:
            with pytest.raises(OSError, match="Read-only"):
                (root / "new").write_text("x")
            if parent:
                with pytest.raises(OSError, match="Read-only"):
                    (root / "file").write_text("x")


async def test_siblings_do_not_see_each_other(world: World) -> None:
    await world.commit("base", "", _file("file", "base"))
    one = await world.snapshotter.prepare(NS, "one", "base")
    two = await world.snapshotter.prepare(NS, "two", "base")
    with world.mounted(one) as first, world.mounted(two) as second:
        (first / "file").write_text("one")
        (first / "new").write_text("one")
        assert (second / "file").read_text() == "base"
        assert not (second / "new").exists()
    assert (await world.view("base"))["file"] == (await world.view("base"))["file"]
    with world.mounted(await world.snapshotter.view(NS, "v", "base")) as root:
        assert [path.name for path in root.iterdir()] == ["file"]
        assert (root / "file").read_text() == "base"


async def test_a_mount_lives_on_when_its_snapshot_is_removed(world: World) -> None:
    mounts = await world.snapshotter.prepare(NS, "a")
    with world.mounted(mounts) as root:
        (root / "file").write_text("x")
        await world.snapshotter.remove(NS, "a")
        await world.snapshotter.close()
    await world.snapshotter.cleanup()
    assert world.driver.ids() == []


@pytest.mark.slow
async def test_128_layers(world: World, tmp_path: Path) -> None:
    """Fewer where each is a mount, or a file of some size."""
    count = 16 if world.driver.name in {"erofs", "blockfile"} else 128

    def change(number: int) -> Change:
        first = [_file("bottom", "way at the bottom"), _folder("addhere"), _folder("onlyme")]
        return _all(
            *(first if number == 0 else ()),
            _file("overwriteme", f"{number} WAS HERE!"),
            _file(f"addhere/file-{number}", "same"),
            _remove("onlyme"),
            _folder("onlyme"),
            _file(f"onlyme/file-{number}", "only me!"),
        )

    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(count):
        change(number)(flat)
        await world.commit(f"layer-{number}", f"layer-{number - 1}" if number else "", change(number))
    last = f"layer-{count - 1}"
    assert await world.view(last) == describe(flat)
    with world.mounted(await world.snapshotter.prepare(NS, "top", last)) as root:
        (root / "overwriteme").write_text("done")
        assert len(list((root / "addhere").iterdir())) == count
    for number in (3, count // 2):
        assert f"onlyme/file-{number}" in await world.view(f"layer-{number}")
