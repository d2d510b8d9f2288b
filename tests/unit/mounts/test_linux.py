"""The mounter on the real kernel: what is mounted, and that nothing stays when it should not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from containerd_hybrid import _native
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.linux import LinuxMounter

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.usefixtures("leak_check"),
]


@pytest.fixture
def mounter(tmp_path: Path) -> LinuxMounter:
    return LinuxMounter(tmp_path / "temporary")


def make(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text(name)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def overlay(tmp_path: Path) -> Mount:
    """Two layers with a file each, and an upper one that deletes nothing and has ``u``."""
    lower = make(tmp_path / "lower", "l")
    upper = make(tmp_path / "upper", "u")
    work = make(tmp_path / "work")
    return Mount(
        "overlay", "overlay", ("index=off", f"workdir={work}", f"upperdir={upper}", f"lowerdir={lower}")
    )


async def test_mounts_are_stacked_in_order_and_all_taken_away(mounter: LinuxMounter, tmp_path: Path) -> None:
    target = make(tmp_path / "target", "hidden")
    sub = Mount("tmpfs", "tmpfs", (), "sub")
    source = make(tmp_path / "source", "f")
    make(source / "sub")
    await mounter.mount([Mount("bind", str(source), ("rbind", "ro")), sub], target)
    assert names(target) == ["f", "sub"]
    (target / "sub" / "written").touch()
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    await mounter.unmount(target)
    assert names(target) == ["hidden"]
    await mounter.unmount(target)
    await mounter.unmount(tmp_path / "absent")


async def test_a_failure_takes_back_what_was_mounted_and_names_the_mount(
    mounter: LinuxMounter, tmp_path: Path
) -> None:
    target = make(tmp_path / "target", "hidden")
    broken = Mount("overlay", "overlay", ("lowerdir=/absent",))
    with pytest.raises(NotFoundError) as raised:
        await mounter.mount([Mount("tmpfs", "tmpfs"), broken], target)
    assert raised.value.message == (
        f'mount source "overlay", target "{target}", fstype overlay, flags 0, data "lowerdir=/absent", '
        "err: no such file or directory"
    )
    assert names(target) == ["hidden"]
    with pytest.raises(UnimplementedError, match="nosuchfs"):
        await mounter.mount([Mount("nosuchfs", "x")], target)
    with pytest.raises(InvalidArgumentError, match=r"X-containerd\.mkdir"):
        await mounter.mount([Mount("bind", "/", ("bind", "X-containerd.mkdir.path=/x"))], target)


async def test_a_long_list_of_layers(mounter: LinuxMounter, tmp_path: Path) -> None:
    layers = [make(tmp_path / "snapshots" / f"{n:030}" / "fs", f"f{n}") for n in range(120)]
    lower = ":".join(map(str, layers))
    assert len(lower) > os.sysconf("SC_PAGE_SIZE")
    async with mounter.temporary([Mount("overlay", "overlay", (f"lowerdir={lower}",))]) as folder:
        assert len(names(folder)) == 120


async def test_a_temporary_mount_writes_through_and_goes(mounter: LinuxMounter, tmp_path: Path) -> None:
    mount = overlay(tmp_path)
    async with mounter.temporary([mount]) as folder:
        assert names(folder) == ["l", "u"]
        assert folder.parent.stat().st_mode & 0o777 == 0o700
        (folder / "new").touch()
    assert names(tmp_path / "upper") == ["new", "u"]
    assert names(tmp_path / "temporary") == []


async def test_a_read_only_view_can_be_had_of_an_overlay_in_use(
    mounter: LinuxMounter, tmp_path: Path
) -> None:
    mount = overlay(tmp_path)
    async with mounter.temporary([mount]) as writable, mounter.temporary([mount], read_only=True) as view:
        assert names(view) == ["l", "u"]
        with pytest.raises(OSError, match="Read-only"):
            (view / "new").touch()
        (writable / "new").touch()
    assert names(tmp_path / "temporary") == []


async def test_no_mounts_give_an_empty_folder(mounter: LinuxMounter) -> None:
    async with mounter.temporary([]) as folder:
        assert names(folder) == []
    assert not folder.exists()


@pytest.mark.parametrize("used", [False, True], ids=["idle", "in use"])
async def test_a_temporary_mount_goes_when_its_user_fails(
    mounter: LinuxMounter, tmp_path: Path, used: bool
) -> None:
    held = []

    async def use() -> None:
        async with mounter.temporary([Mount("tmpfs", "tmpfs")]) as folder:
            if used:
                held.append((folder / "held").open("w"))
            raise LookupError

    with pytest.raises(LookupError):
        await use()
    assert names(tmp_path / "temporary") == []
    for file in held:
        file.close()


async def test_a_temporary_mount_that_fails_leaves_no_folder(mounter: LinuxMounter, tmp_path: Path) -> None:
    with pytest.raises(UnimplementedError):
        async with mounter.temporary([Mount("tmpfs", "tmpfs"), Mount("nosuchfs", "x")]):
            pytest.fail("not reached")
    assert names(tmp_path / "temporary") == []


async def test_a_cancelled_user_leaves_no_temporary_mount(mounter: LinuxMounter, tmp_path: Path) -> None:
    inside = asyncio.Event()

    async def use() -> None:
        async with mounter.temporary([Mount("tmpfs", "tmpfs")]):
            inside.set()
            await asyncio.Event().wait()

    user = asyncio.create_task(use())
    await inside.wait()
    user.cancel()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert names(tmp_path / "temporary") == []


@pytest.fixture
def slow_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``mount.fuse3`` as a script that mounts a tmpfs once the file it returns exists."""
    gate = tmp_path / "gate"
    helper = make(tmp_path / "bin") / "mount.fuse3"
    helper.write_text(
        f"#!/bin/sh\necho started >{gate}.started\nwhile [ ! -e {gate} ]; do sleep 0.01; done\n"
        f'echo "$@" >{gate}.args\nexec mount -t tmpfs "$1" "$2"\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    return gate


async def started(gate: Path) -> None:
    while not await asyncio.to_thread(Path(f"{gate}.started").exists):
        await asyncio.sleep(0.005)


async def test_a_mount_helper_gets_the_options_one_by_one(
    mounter: LinuxMounter, tmp_path: Path, slow_helper: Path
) -> None:
    slow_helper.touch()
    target = make(tmp_path / "target", "hidden")
    await mounter.mount([Mount("fuse3.some-fs", "source", ("ro", "x=y"))], target)
    assert names(target) == []
    await mounter.unmount(target)
    assert Path(f"{slow_helper}.args").read_text() == f"source {target} -o ro -o x=y -t some-fs\n"


@pytest.mark.parametrize("cancels", [1, 3])
async def test_a_mount_that_nobody_waits_for_is_taken_back_and_nothing_else(
    mounter: LinuxMounter, tmp_path: Path, slow_helper: Path, cancels: int
) -> None:
    target = make(tmp_path / "target", "hidden")
    await mounter.mount([Mount("tmpfs", "before")], target)
    mounting = asyncio.create_task(mounter.mount([Mount("fuse3.x", "slow")], target))
    await started(slow_helper)
    for _ in range(cancels):
        mounting.cancel()
        await asyncio.sleep(0.01)
    assert not mounting.done()
    slow_helper.touch()
    with pytest.raises(asyncio.CancelledError):
        await mounting
    sources = [m.source for m in _native.mountinfo() if m.mount_point == str(target)]
    assert sources == ["before"]
    await mounter.unmount(target)


async def test_a_temporary_mount_that_nobody_waits_for_is_taken_back(
    mounter: LinuxMounter, tmp_path: Path, slow_helper: Path
) -> None:
    async def use() -> None:
        async with mounter.temporary([Mount("fuse3.x", "slow")]):
            pytest.fail("not reached")

    user = asyncio.create_task(use())
    await started(slow_helper)
    user.cancel()
    slow_helper.touch()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert names(tmp_path / "temporary") == []


async def test_leftovers_of_a_killed_process_are_swept_and_other_folders_are_not(
    mounter: LinuxMounter, tmp_path: Path
) -> None:
    base, source = tmp_path / "temporary", make(tmp_path / "source", "precious")
    script = f"""
import os, signal
from containerd_hybrid import _native
mounts = [("bind", {str(source)!r}, "", ["bind"]), ("tmpfs", "t", "", [])]
for _ in range(3):
    _native.mount_temporary(mounts, {str(base)!r})
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], check=False)
    assert killed.returncode == -9
    assert len(names(base)) == 3
    make(base / "somebody-else", "f")
    make(base / "mount-full", "f")
    problems = await mounter.sweep()
    assert [str(base / "mount-full") in str(problem) for problem in problems] == [True]
    assert names(base) == ["mount-full", "somebody-else"]
    assert names(source) == ["precious"]


async def test_sweeping_before_anything_was_mounted(mounter: LinuxMounter) -> None:
    assert await mounter.sweep() == []


async def test_many_temporary_mounts_at_once(mounter: LinuxMounter, tmp_path: Path) -> None:
    async def one(n: int) -> Path:
        async with mounter.temporary([Mount("tmpfs", f"t{n}")]) as folder:
            (folder / str(n)).touch()
            await asyncio.sleep(0)
            assert names(folder) == [str(n)]
            return folder

    folders = await asyncio.gather(*(one(n) for n in range(30)))
    assert len(set(folders)) == 30
    assert names(tmp_path / "temporary") == []
