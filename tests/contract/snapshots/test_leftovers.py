"""Folders without a record go, and no others."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from tests.contract.snapshots.world import NS, World, open_world

from containerd_hybrid import _native
from containerd_hybrid.errors import HybridError
from containerd_hybrid.metadata.api import Transaction
from containerd_hybrid.snapshots.api import DriverSnapshot, Kind

pytestmark = pytest.mark.root


async def test_orphans_are_removed_and_what_is_known_stays(world: World) -> None:
    await world.commit("c1")
    await world.snapshotter.prepare(NS, "a", "c1")
    known = world.driver.ids()
    for number in (1000, 1001):
        orphan = DriverSnapshot(number, Kind.ACTIVE, (known[0],), namespace=NS.namespace)
        await asyncio.to_thread(world.driver.create, orphan)
    assert set(world.driver.ids()) == {*known, 1000, 1001}
    await asyncio.gather(world.snapshotter.cleanup(), world.snapshotter.cleanup())
    assert world.driver.ids() == known
    with world.mounted(await world.snapshotter.mounts(NS, "a")):
        pass


async def test_rows_that_the_collector_deleted_free_their_folders(world: World) -> None:
    await world.commit("c1")
    await world.commit("c2", "c1")

    def delete(transaction: Transaction) -> None:
        transaction.connection.execute("DELETE FROM snapshots")

    await world.database.write(delete)
    assert len(world.driver.ids()) == 2
    await world.snapshotter.cleanup()
    assert world.driver.ids() == []


async def test_half_made_and_half_removed_folders_go(world: World, tmp_path: Path) -> None:
    if world.driver.name == "proxy":
        pytest.skip("its folders are somebody else's")
    await world.snapshotter.prepare(NS, "a")
    known = world.driver.ids()
    folder = tmp_path / world.driver.name / "snapshots"
    for name in ("new-70", "rm-71", "72"):
        (folder / name / "deep" / "er").mkdir(parents=True)
        (folder / name / "deep" / "file").write_text("x")
    (folder / "notes.txt").write_text("somebody else's")
    assert set(world.driver.ids()) == {*known, 70, 71, 72}
    await world.snapshotter.cleanup()
    assert sorted(path.name for path in folder.iterdir()) == sorted(["notes.txt", *map(str, known)])


async def test_making_and_cleaning_at_once(world: World) -> None:
    """A snapshot that is being made has a folder and no record yet."""
    await world.commit("base", "", lambda root: [(root / str(n)).write_text("x") for n in range(30)])
    finished = asyncio.Event()

    async def clean() -> None:
        while not finished.is_set():
            await world.snapshotter.cleanup()

    cleaner = asyncio.create_task(clean())
    keys = [f"a{number}" for number in range(40)]
    await asyncio.gather(*(world.snapshotter.prepare(NS, key, "base") for key in keys))
    for key in keys[::2]:
        await world.snapshotter.remove(NS, key)
    finished.set()
    await cleaner
    await world.snapshotter.close()
    assert await world.names("kind==active") == sorted(keys[1::2])
    assert len(world.driver.ids()) == 21
    for key in keys[1::2]:
        with world.mounted(await world.snapshotter.mounts(NS, key)) as root:
            assert len(list(root.iterdir())) == 30


async def test_a_removal_that_fails_is_tried_again(world: World, tmp_path: Path) -> None:
    if world.driver.name == "proxy":
        pytest.skip("its folders are somebody else's")
    if world.driver.name == "btrfs":
        pytest.skip("what is mounted in a subvolume does not hold it: the kernel takes both away")
    await world.snapshotter.prepare(NS, "a")
    [number] = world.driver.ids()
    folder = tmp_path / world.driver.name / "snapshots" / str(number)
    inner = folder / "mounted"
    inner.mkdir()
    _native.mount_all([("tmpfs", "tmpfs", "", ["size=4k"])], inner)
    try:
        await world.snapshotter.remove(NS, "a")
        await world.snapshotter.close()
        assert await world.names() == []
        assert world.driver.ids() == [number]
        with pytest.raises(HybridError, match="mount"):
            await world.snapshotter.cleanup()
        assert world.driver.ids() == [number]
    finally:
        for path in folder.parent.rglob("mounted"):
            _native.unmount_all(path)
    await world.snapshotter.cleanup()
    assert world.driver.ids() == []


async def test_removing_may_be_waited_for(driver_name: str, tmp_path: Path, leak_check: object) -> None:
    async with open_world(driver_name, tmp_path, sync_remove=True) as world:
        await world.snapshotter.prepare(NS, "a")
        await world.snapshotter.remove(NS, "a")
        assert world.driver.ids() == []


async def test_a_failing_driver_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(snapshot: DriverSnapshot) -> None:
        raise HybridError("the disk is on fire")

    await world.commit("base")
    before = world.driver.ids()
    with monkeypatch.context() as patch:
        patch.setattr(world.driver, "mounts", fail)
        with pytest.raises(HybridError, match="on fire"):
            await world.snapshotter.prepare(NS, "a", "base")
        patch.setattr(world.driver, "create", fail)
        with pytest.raises(HybridError, match="on fire"):
            await world.snapshotter.prepare(NS, "a", "base")
    await world.snapshotter.prepare(NS, "b", "base")
    with monkeypatch.context() as patch:
        patch.setattr(world.driver, "commit", fail)
        with pytest.raises(HybridError, match="on fire"):
            await world.snapshotter.commit(NS, "c", "b")
    assert await world.names() == ["b", "base"]
    await world.snapshotter.commit(NS, "c", "b")
    assert len(world.driver.ids()) == len(before) + 1


async def test_a_failing_database_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.commit("base")
    before = world.driver.ids()

    def fail(transaction: Transaction) -> None:
        raise sqlite3.OperationalError("no such luck")

    original = world.database.write

    async def write(work: object) -> object:
        return await original(fail)

    with monkeypatch.context() as patch:
        patch.setattr(world.database, "write", write)
        with pytest.raises(HybridError, match="no such luck"):
            await world.snapshotter.prepare(NS, "a", "base")
    assert world.driver.ids() == before
    assert world.events[2:] == []


async def test_numbers_are_never_used_twice(driver_name: str, tmp_path: Path, leak_check: object) -> None:
    if driver_name == "proxy":
        pytest.skip("numbers come from the database, and each would be a call")
    seen: set[int] = set()
    for _ in range(3):
        async with open_world(driver_name, tmp_path) as world:
            for number in range(70):
                await world.snapshotter.prepare(NS, f"a{number}")
            numbers = {int(str(number)) for (number,) in await world.rows("SELECT id FROM snapshots")}
            assert numbers == set(world.driver.ids())
            assert not numbers & seen
            seen |= numbers
            for number in range(70):
                await world.snapshotter.remove(NS, f"a{number}")


async def test_two_snapshotters_share_one_database(tmp_path: Path, leak_check: object) -> None:
    async with open_world("native", tmp_path) as one:
        from tests.contract.support import RecordingPublisher

        from containerd_hybrid.metadata.snapshots import MetadataSnapshotter
        from containerd_hybrid.snapshots.overlayfs import OverlaySnapshotDriver

        driver = OverlaySnapshotDriver(tmp_path / "overlayfs")
        other = MetadataSnapshotter(one.database, driver, RecordingPublisher())
        for number in range(5):
            await one.snapshotter.prepare(NS, f"a{number}")
            await other.prepare(NS, f"a{number}")
        assert not set(one.driver.ids()) & set(driver.ids())
        await one.snapshotter.cleanup()
        await other.cleanup()
        assert (len(one.driver.ids()), len(driver.ids())) == (5, 5)
        assert await one.names() == [info.name async for info in other.walk(NS)]
