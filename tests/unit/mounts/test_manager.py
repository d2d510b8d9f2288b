"""The mount manager on the real kernel: activations, their clean-up, restarts and collection."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from containerd_hybrid import _native
from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
)
from containerd_hybrid.metadata.activations import MetadataActivationStore
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.mounts.api import ActiveMount
from containerd_hybrid.mounts.linux import LinuxMounter
from containerd_hybrid.mounts.loop import LoopHandler
from containerd_hybrid.mounts.manager import ActivatingMountManager

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.usefixtures("leak_check"),
]

NS = Scope("ns")
TMPFS = Mount("tmpfs", "tmpfs")
BOUND = Mount("format/bind", "{{ mount 0 }}", ("rbind",))


class Marker:
    """A handler whose mounts are files."""

    def __init__(self) -> None:
        self.fail_mount = False
        self.fail_unmount = False

    def mount(self, mount: Mount, mount_point: Path, active: Sequence[ActiveMount]) -> ActiveMount:
        if self.fail_mount:
            raise UnavailableError("the device is away")
        mount_point.write_text(mount.source)
        return ActiveMount(mount, str(mount_point), 7, {"seen": str(len(active))})

    def unmount(self, mount_point: Path) -> None:
        if self.fail_unmount:
            raise UnavailableError("the device is away")
        mount_point.unlink(missing_ok=True)

    def alive(self, mount_point: Path) -> bool:
        return mount_point.exists()


@pytest.fixture
def marker() -> Marker:
    return Marker()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with SqliteDatabase(tmp_path / "meta.db", no_sync=True) as opened:
        yield opened


@pytest.fixture
async def manager(
    database: SqliteDatabase, marker: Marker, tmp_path: Path
) -> AsyncIterator[ActivatingMountManager]:
    made = await start(database, marker, tmp_path)
    yield made
    await made.close()
    marker.fail_unmount = False
    for one in await MetadataActivationStore(database).everything():
        with suppress(HybridError):
            await made.deactivate(one.scope, one.name)
    await made.cleanup()


async def start(database: SqliteDatabase, marker: Marker, tmp_path: Path) -> ActivatingMountManager:
    manager = ActivatingMountManager(
        MetadataActivationStore(database),
        LinuxMounter(tmp_path / "temporary"),
        tmp_path / "t",
        roots=[tmp_path / "root"],
        handlers={"marker": marker, "loop": LoopHandler()},
    )
    await manager.restore()
    return manager


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "t").iterdir())


async def released(device: str, file: Path) -> None:
    """Until a loop device stands on the file no more: when others (udev, perhaps) have looked at it."""
    while True:
        try:
            backing = Path("/sys/block", device, "loop", "backing_file").read_text().strip()
        except OSError:
            return
        if backing != str(file):
            return  # somebody else's already
        await asyncio.sleep(0.01)


async def test_mounts_are_made_and_the_rest_is_told(manager: ActivatingMountManager, tmp_path: Path) -> None:
    mounts = [TMPFS, Mount("marker", "m"), BOUND]
    made = await manager.activate(NS, "a", mounts, labels={"x": "y", "empty": ""})
    assert made.labels == {"x": "y", "empty": ""}
    tmpfs, marker = made.active
    assert tmpfs.mount == TMPFS
    assert marker.data == {"seen": "1"}
    assert _native.mounted(Path(tmpfs.mount_point))
    assert made.system == (Mount("bind", tmpfs.mount_point, ("rbind",)),)
    info = await manager.info(NS, "a")
    assert (info.active, info.system, info.labels) == (made.active, made.system, {"x": "y"})
    # As containerd lays it out: a folder of its own, mount points in the order of unmounting.
    assert folders(tmp_path) == ["1"]
    assert {p.name for p in (tmp_path / "t" / "1").iterdir()} == {"1", "1-type", "2", "2-type"}
    assert (tmp_path / "t" / "1" / "1-type").read_text() == "marker"

    await manager.deactivate(NS, "a")
    assert folders(tmp_path) == []
    with pytest.raises(NotFoundError, match='mount "a": not found'):
        await manager.info(NS, "a")
    with pytest.raises(NotFoundError, match='mount "a": not found'):
        await manager.deactivate(NS, "a")


async def test_a_temporary_one_can_be_looked_at(manager: ActivatingMountManager) -> None:
    made = await manager.activate(NS, "a", [TMPFS], temporary=True)
    assert made.system == (Mount("bind", made.active[0].mount_point, ("rbind",)),)
    await manager.deactivate(NS, "a")


async def test_names_belong_to_namespaces(manager: ActivatingMountManager) -> None:
    marker = [Mount("marker", "m")]
    await manager.activate(NS, "a", marker, labels={"k": "v"})
    with pytest.raises(AlreadyExistsError, match='mount "a": already exists'):
        await manager.activate(NS, "a", marker)
    await manager.activate(Scope("other"), "a", marker)
    await manager.activate(NS, "b", marker)
    assert [one.name for one in await manager.list(NS)] == ["a", "b"]
    assert [one.name for one in await manager.list(NS, ["name==b"])] == ["b"]
    assert [one.name for one in await manager.list(NS, ["labels.k==v"])] == ["a"]
    assert len(await manager.list(Scope("third"))) == 0


async def test_mounts_that_need_no_manager_are_refused(manager: ActivatingMountManager) -> None:
    with pytest.raises(UnimplementedError):
        await manager.activate(NS, "a", [TMPFS])
    assert not manager.handles([TMPFS])
    assert manager.handles([TMPFS, BOUND])
    assert not manager.handles([TMPFS, BOUND], ["format/*"])
    with pytest.raises(InvalidArgumentError, match="name required"):
        await manager.activate(NS, "", [TMPFS, BOUND])


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (Mount("marker", "m"), UnavailableError),
        (Mount("format/bind", "{{ mount 9 }}"), InvalidArgumentError),
        # Not Unimplemented, which to a caller means that the mounts need no manager.
        (Mount("format/no-such-file-system", "s"), FailedPreconditionError),
        (Mount("mkdir/bind", "s", ("X-containerd.mkdir.path=/etc/x",)), UnimplementedError),
    ],
)
async def test_nothing_is_left_of_one_that_fails(
    manager: ActivatingMountManager, marker: Marker, tmp_path: Path, last: Mount, error: type[Exception]
) -> None:
    marker.fail_mount = True
    with pytest.raises(error):
        await manager.activate(NS, "a", [TMPFS, last, BOUND])
    assert folders(tmp_path) == []
    assert await manager.list(NS) == []
    marker.fail_mount = False
    await manager.activate(NS, "a", [TMPFS, Mount("marker", "m")])


async def test_nothing_is_left_of_one_that_is_cancelled(
    manager: ActivatingMountManager, tmp_path: Path
) -> None:
    activating = asyncio.create_task(manager.activate(NS, "a", [TMPFS, Mount("marker", "m")]))
    while not folders(tmp_path):
        await asyncio.sleep(0)
    activating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await activating
    await manager.close()
    assert folders(tmp_path) == []
    assert await manager.list(NS) == []


async def test_one_at_a_time_has_a_name(manager: ActivatingMountManager, tmp_path: Path) -> None:
    tries = [manager.activate(NS, "a", [Mount("marker", "m")]) for _ in range(5)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, AlreadyExistsError) for result in results) == 4
    assert len(folders(tmp_path)) == 1


async def test_what_cannot_be_unmounted_is_tried_again(
    manager: ActivatingMountManager, marker: Marker, tmp_path: Path
) -> None:
    await manager.activate(NS, "a", [TMPFS, Mount("marker", "m")])
    marker.fail_unmount = True
    with pytest.raises(UnavailableError, match="the device is away"):
        await manager.deactivate(NS, "a")
    assert await manager.list(NS) == []
    with pytest.raises(UnavailableError, match="the device is away"):
        await manager.cleanup()
    assert folders(tmp_path) == ["1"]
    marker.fail_unmount = False
    await manager.cleanup()
    assert folders(tmp_path) == []


async def test_a_restarted_daemon_keeps_what_is_mounted(
    manager: ActivatingMountManager, database: SqliteDatabase, marker: Marker, tmp_path: Path
) -> None:
    await manager.activate(NS, "lives", [TMPFS, Mount("marker", "m"), BOUND])
    gone = await manager.activate(NS, "gone", [TMPFS, Mount("marker", "m")])
    _native.unmount_all(Path(gone.active[0].mount_point))
    # Of a daemon that was killed while it mounted.
    store = MetadataActivationStore(database)
    half = tmp_path / "t" / str(await store.begin(NS, "half", {}))
    half.mkdir()
    (half / "2-type").write_text("tmpfs")
    (half / "2").mkdir()
    _native.mount_all([("tmpfs", "tmpfs", "", [])], half / "2")

    again = ActivatingMountManager(
        store, LinuxMounter(tmp_path / "temporary"), tmp_path / "t", handlers={"marker": marker}
    )
    report = await again.restore()
    assert report.kept == ("ns/lives",)
    assert set(report.lost) == {"ns/gone", "ns/half"}
    assert folders(tmp_path) == ["1"]
    assert [one.name for one in await again.list(NS)] == ["lives"]
    await again.deactivate(NS, "lives")
    assert folders(tmp_path) == []


async def test_a_loop_device_and_a_folder_for_what_follows(
    manager: ActivatingMountManager, tmp_path: Path
) -> None:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    (tmp_path / "root").mkdir()
    image = tmp_path / "root" / "image"
    source = tmp_path / "layer"
    source.mkdir()
    (source / "file").write_text("below")
    mounts = [
        Mount("bind", str(source), ("rbind", "ro")),
        Mount("mkfs/loop", str(image), ("X-containerd.mkfs.size=8MiB", "X-containerd.mkfs.fs=ext4")),
        Mount("format/ext4", "{{ mount 1 }}"),
        Mount(
            "format/mkdir/overlay",
            "overlay",
            (
                "X-containerd.mkdir.path={{ mount 2 }}/upper:755",
                "X-containerd.mkdir.path={{ mount 2 }}/work",
                "upperdir={{ mount 2 }}/upper",
                "workdir={{ mount 2 }}/work",
                "lowerdir={{ mount 0 }}",
                "index=off",
            ),
        ),
    ]
    made = await manager.activate(NS, "a", mounts, temporary=True)
    device = Path(made.active[1].mount_point).readlink()
    merged = Path(made.system[0].source)
    assert (merged / "file").read_text() == "below"
    (merged / "new").write_text("kept")
    await manager.deactivate(NS, "a")
    await released(device.name, image)
    assert image.stat().st_size == 8 << 20
    # The image is used again as it is.
    again = await manager.activate(NS, "a", mounts, temporary=True)
    assert (Path(again.system[0].source) / "new").read_text() == "kept"
    await manager.deactivate(NS, "a")


async def test_a_loop_device_of_somebody_else_is_left_alone(
    manager: ActivatingMountManager, database: SqliteDatabase, marker: Marker, tmp_path: Path
) -> None:
    files = [tmp_path / "mine", tmp_path / "theirs"]
    for file in files:
        file.write_bytes(bytes(1 << 20))
    mine, theirs = [
        (await manager.activate(NS, file.name, [Mount("loop", str(file))])).active[0] for file in files
    ]
    # As after a reboot: the link leads to a device that stands on another file.
    handler = LoopHandler()
    device = Path(mine.mount_point).readlink()
    link, note = Path(mine.mount_point), Path(mine.mount_point + "-loop").read_text()
    handler.unmount(link)
    link.symlink_to(Path(theirs.mount_point).readlink())
    Path(f"{link}-loop").write_text(note)
    assert not handler.alive(link)
    assert handler.alive(Path(theirs.mount_point))
    await manager.deactivate(NS, "mine")
    assert handler.alive(Path(theirs.mount_point))
    await released(device.name, files[0])
    await manager.deactivate(NS, "theirs")


async def test_a_loop_device_needs_its_file(manager: ActivatingMountManager, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing: no such file"):
        await manager.activate(NS, "a", [Mount("loop", str(tmp_path / "nothing"))])
    assert folders(tmp_path) == []
