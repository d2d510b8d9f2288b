"""Names, kinds, parents, labels, leases and events of snapshots, whatever the driver."""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from pathlib import Path

import pytest
from tests.contract.snapshots.world import NS, World
from tests.contract.support import RecordingPublisher

from containerd_hybrid.content.local import LocalBlobStore
from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidFilterError,
    NotFoundError,
)
from containerd_hybrid.events.api import SnapshotCommit, SnapshotPrepare, SnapshotRemove
from containerd_hybrid.metadata.gc import MetadataCollector
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.model import Scope
from containerd_hybrid.snapshots.api import DriverSnapshot, Kind, SnapshotInfo, Usage


async def _base(world: World) -> None:
    """c1 ← c2 ← a1 (active), v1 (view); a2 and v2 without a parent."""
    await world.commit("c1")
    await world.commit("c2", "c1")
    await world.snapshotter.prepare(NS, "a1", "c2")
    await world.snapshotter.prepare(NS, "a2")
    await world.snapshotter.view(NS, "v1", "c2")
    await world.snapshotter.view(NS, "v2")


_BASE = {
    "a1": (Kind.ACTIVE, "c2"),
    "a2": (Kind.ACTIVE, ""),
    "c1": (Kind.COMMITTED, ""),
    "c2": (Kind.COMMITTED, "c1"),
    "v1": (Kind.VIEW, "c2"),
    "v2": (Kind.VIEW, ""),
}


async def test_kinds_and_parents(world: World) -> None:
    before = time.time_ns()
    await _base(world)
    after = time.time_ns()
    walked = [info async for info in world.snapshotter.walk(NS)]
    assert {info.name: (info.kind, info.parent) for info in walked} == _BASE
    assert [info.name for info in walked] == sorted(_BASE)
    for info in walked:
        assert await world.snapshotter.stat(NS, info.name) == info
        assert before <= info.created_at == info.updated_at <= after
        assert dict(info.labels) == {}
    assert await world.rows("SELECT name FROM namespaces") == [("default",)]


async def test_after_a_commit_the_key_is_gone_and_free(world: World) -> None:
    await world.snapshotter.prepare(NS, "key", "", {"of": "active"})
    await world.snapshotter.commit(NS, "name", "key", {"of": "committed"})
    info = await world.snapshotter.stat(NS, "name")
    assert (info.kind, info.labels) == (Kind.COMMITTED, {"of": "committed"})
    with pytest.raises(NotFoundError, match="snapshot key does not exist: not found"):
        await world.snapshotter.stat(NS, "key")
    await world.snapshotter.prepare(NS, "key", "name")


async def test_what_is_not_there_is_not_found(world: World) -> None:
    await world.commit("c1")
    sn = world.snapshotter
    missing = r"^snapshot x does not exist: not found$"
    for method in (sn.stat, sn.usage, sn.mounts, sn.remove, partial(sn.update, labels={})):
        with pytest.raises(NotFoundError, match=missing):
            await method(NS, "x")
    with pytest.raises(NotFoundError, match=missing):
        await sn.commit(NS, "name", "x")
    with pytest.raises(NotFoundError, match=missing):
        await sn.stat(Scope("other"), "x")
    for create in (sn.prepare, sn.view):
        with pytest.raises(NotFoundError, match=r"^parent snapshot x does not exist: not found$"):
            await create(NS, "y", "x")
        with pytest.raises(NotFoundError, match=r"^parent snapshot c1 does not exist: not found$"):
            await create(Scope("other"), "y", "c1")
    assert await world.names() == ["c1"]
    assert len(world.driver.ids()) == 1


async def test_keys_and_names_share_one_space(world: World) -> None:
    await _base(world)
    sn = world.snapshotter
    for taken in _BASE:
        for create in (sn.prepare, sn.view):
            with pytest.raises(AlreadyExistsError, match=f'^snapshot "{taken}": already exists$'):
                await create(NS, taken, "c1")
        with pytest.raises(AlreadyExistsError, match=f'^snapshot "{taken}": already exists$'):
            await sn.commit(NS, taken, "a1")
    await sn.prepare(Scope("other"), "a1")
    assert {name: (await sn.stat(NS, name)).kind for name in _BASE} == {n: k for n, (k, _) in _BASE.items()}


async def test_of_many_who_prepare_one_key_one_may(world: World) -> None:
    async def prepare() -> bool:
        try:
            await world.snapshotter.prepare(NS, "key")
        except AlreadyExistsError:
            return False
        return True

    assert sum(await asyncio.gather(*(prepare() for _ in range(10)))) == 1
    assert len(world.driver.ids()) == 1


async def test_only_a_committed_snapshot_is_a_parent(world: World) -> None:
    await _base(world)
    for parent in ("a1", "v1"):
        with pytest.raises(InvalidArgumentError, match=f'parent "{parent}" is not committed snapshot'):
            await world.snapshotter.prepare(NS, "x", parent)


async def test_only_an_active_snapshot_is_committed(world: World) -> None:
    await _base(world)
    for key in ("v1", "c1"):
        with pytest.raises(FailedPreconditionError, match=f'snapshot "{key}" is not active'):
            await world.snapshotter.commit(NS, "x", key)


async def test_a_committed_snapshot_has_no_mounts(world: World) -> None:
    await _base(world)
    with pytest.raises(FailedPreconditionError, match="requested snapshot c1 not active or view"):
        await world.snapshotter.mounts(NS, "c1")


async def test_mounts_are_as_they_were_when_it_was_made(world: World) -> None:
    await world.commit("c1")
    await world.commit("c2", "c1")
    for parent in ("", "c1", "c2"):
        prepared = await world.snapshotter.prepare(NS, f"a-{parent}", parent)
        viewed = await world.snapshotter.view(NS, f"v-{parent}", parent)
        assert await world.snapshotter.mounts(NS, f"a-{parent}") == prepared
        assert await world.snapshotter.mounts(NS, f"v-{parent}") == viewed
        assert not prepared[-1].read_only
        assert viewed[-1].type.endswith("overlay") or viewed[-1].read_only


async def test_a_snapshot_with_children_stays(world: World) -> None:
    await _base(world)
    for parent in ("c1", "c2"):
        with pytest.raises(
            FailedPreconditionError, match=r"^cannot remove snapshot with child: failed precondition$"
        ):
            await world.snapshotter.remove(NS, parent)
    for name in ("a1", "v1", "c2", "c1", "a2", "v2"):
        await world.snapshotter.remove(NS, name)
    assert await world.names() == []
    await world.snapshotter.close()
    assert world.driver.ids() == []


async def test_a_removed_key_can_be_used_at_once(world: World) -> None:
    sn = world.snapshotter
    await world.commit("committed")
    for create, parent in ((sn.prepare, "committed"), (sn.view, "committed"), (sn.prepare, "")):
        await create(NS, "reuse", parent)
        await sn.remove(NS, "reuse")
    await sn.prepare(NS, "reuse")
    await sn.remove(NS, "committed")
    await sn.commit(NS, "committed", "reuse")


async def test_events_are_published_when_it_is_done(world: World) -> None:
    await world.commit("c1")
    await world.snapshotter.view(NS, "v", "c1")
    await world.snapshotter.remove(NS, "v")
    with pytest.raises(AlreadyExistsError):
        await world.snapshotter.prepare(NS, "c1")
    name = world.snapshotter.name
    assert world.events == [
        ("default", SnapshotPrepare("c1-active", "", name)),
        ("default", SnapshotCommit("c1-active", "c1", name)),
        ("default", SnapshotRemove("v", name)),
    ]


@pytest.mark.parametrize("name", sorted(_BASE))
async def test_labels_change_and_nothing_else(world: World, name: str) -> None:
    await _base(world)
    sn = world.snapshotter
    created = (await sn.stat(NS, name)).created_at
    kind, parent = _BASE[name]
    before = time.time_ns()
    info = await sn.update(NS, name, {"l1": "v1", "l2": "v2", "l3": "v3"})
    assert before <= info.updated_at <= time.time_ns()
    assert info == SnapshotInfo(
        kind, name, parent, created, info.updated_at, {"l1": "v1", "l2": "v2", "l3": "v3"}
    )
    info = await sn.update(NS, name, {"l1": "updated", "l4": "v4"}, ["labels.l1", "labels.l2"])
    assert info.labels == {"l1": "updated", "l3": "v3"}
    info = await sn.update(NS, name, {"l4": "v4"}, ["labels"])
    assert info.labels == {"l4": "v4"}
    assert await sn.stat(NS, name) == info
    with pytest.raises(InvalidArgumentError, match=f'cannot update "parent" field on snapshot "{name}"'):
        await sn.update(NS, name, {"l5": "v5"}, ["labels", "parent"])
    with pytest.raises(InvalidArgumentError, match=r"info\.Labels: label key and value length"):
        await sn.update(NS, name, {"l5": "v" * 5000})
    assert await sn.stat(NS, name) == info


async def test_labels_of_the_driver_are_shown_and_not_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.driver, "labels", lambda number: {"driver/folder": f"/{number}"})
    await world.snapshotter.prepare(NS, "a", "", {"mine": "1"})
    [(number,)] = await world.rows("SELECT id FROM snapshots")
    shown = {"mine": "1", "driver/folder": f"/{number}"}
    assert (await world.snapshotter.stat(NS, "a")).labels == shown
    assert await world.names('labels."driver/folder"') == ["a"]
    assert (await world.snapshotter.update(NS, "a", {"mine": "2"})).labels == {**shown, "mine": "2"}
    assert await world.rows("SELECT labels FROM snapshots") == [('{"mine":"2"}',)]


async def test_labels_for_the_driver_reach_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = world.driver.create

    def create(snapshot: DriverSnapshot) -> None:
        seen.append(dict(snapshot.labels))
        original(snapshot)

    monkeypatch.setattr(world.driver, "create", create)
    labels = {
        "containerd.io/snapshot/note": "1",
        "containerd.io/snapshot.ref": "target",
        "containerd.io/gc.root": "yes",
        "containerd.io/snapshot/empty": "",
    }
    await world.snapshotter.prepare(NS, "a", "", labels)
    assert seen == [{"containerd.io/snapshot/note": "1", "containerd.io/snapshot.ref": "target"}]


async def test_labels_too_long_make_nothing(world: World) -> None:
    labels = {"k": "v" * 5000}
    await world.snapshotter.prepare(NS, "a")
    for call in (
        world.snapshotter.prepare(NS, "x", "", labels),
        world.snapshotter.view(NS, "x", "", labels),
        world.snapshotter.commit(NS, "x", "a", labels),
    ):
        with pytest.raises(InvalidArgumentError, match=r"info\.Labels"):
            await call
    assert await world.names() == ["a"]


async def test_a_snapshot_needs_a_name(world: World) -> None:
    await world.snapshotter.prepare(NS, "a")
    for call in (
        world.snapshotter.prepare(NS, ""),
        world.snapshotter.view(NS, ""),
        world.snapshotter.commit(NS, "", "a"),
    ):
        with pytest.raises(InvalidArgumentError, match="must not be empty"):
            await call


async def test_filters(world: World) -> None:
    sn = world.snapshotter
    root = {"containerd.io/gc.root": "check-walk"}
    await sn.prepare(NS, "a-np", "", root)
    await world.commit("p")
    await sn.update(NS, "p", root)
    await sn.prepare(NS, "a", "p", root)
    await sn.view(NS, "v", "p", root)
    await world.commit("p-wl")
    await sn.update(NS, "p-wl", {**root, "l": "1"})
    await sn.prepare(NS, "a-wl", "p-wl", {**root, "l": "2"})
    await sn.view(NS, "v-wl", "p-wl", {**root, "l": "3"})
    await sn.prepare(NS, "a-np-wl", "", {**root, "l": "2"})
    await sn.prepare(Scope("other"), "a", "", root)
    for filters, names in (
        (['labels."containerd.io/gc.root"==check-walk'], "a a-np a-np-wl a-wl p p-wl v v-wl"),
        (['kind==active,labels."containerd.io/gc.root"==check-walk'], "a a-np a-np-wl a-wl"),
        (["kind==view"], "v v-wl"),
        (["kind==committed"], "p p-wl"),
        (["name==p", "name==a-np-wl", "name==nobody"], "a-np-wl p"),
        (["name==a-wl,labels.l"], "a-wl"),
        (["name==a,labels.l"], ""),
        (["parent==p"], "a v"),
        (['parent!=""'], "a a-wl v v-wl"),
        (["labels.l"], "a-np-wl a-wl p-wl v-wl"),
        (["labels.l==2"], "a-np-wl a-wl"),
        (["labels.l~=[23]"], "a-np-wl a-wl v-wl"),
        (["name~=^p"], "p p-wl"),
    ):
        assert await world.names(*filters) == names.split(), filters
    with pytest.raises(InvalidFilterError):
        sn.walk(NS, ["name=="])


async def test_walking_is_page_by_page(world: World) -> None:
    names = [f"s{number:03}" for number in range(250 if world.driver.name != "proxy" else 110)]
    for name in names:
        await world.snapshotter.view(NS, name)
    walked = []
    async for info in world.snapshotter.walk(NS):
        assert await world.snapshotter.stat(NS, info.name) == info
        await world.snapshotter.remove(NS, info.name)
        walked.append(info.name)
    assert walked == names
    assert await world.names() == []


async def test_usage_of_a_view_is_nothing(world: World) -> None:
    await world.commit("c1", "", lambda root: _write(root / "file", 100_000))
    await world.snapshotter.view(NS, "v", "c1")
    assert await world.snapshotter.usage(NS, "v") == Usage(0, 0)


async def test_usage_is_counted_until_the_commit(world: World, driver_name: str) -> None:
    images = driver_name in {"blockfile", "erofs-block"}
    mounts = await world.snapshotter.prepare(NS, "a")
    empty = await world.snapshotter.usage(NS, "a")
    with world.mounted(mounts) as root:
        _write(root / "one", 100_000)
        (root / "two").hardlink_to(root / "one")
        (root / "hole").touch()
    filled = await world.snapshotter.usage(NS, "a")
    if images:
        assert (empty.inodes, filled.inodes) == (1, 1)
        assert filled.size - empty.size >= 100_000
    else:
        assert filled.inodes == empty.inodes + 2
        assert 100_000 <= filled.size - empty.size < 120_000
    await world.snapshotter.commit(NS, "c", "a")
    committed_as = await world.snapshotter.usage(NS, "c")
    if world.driver.name == "erofs":  # which makes an image of it
        assert committed_as.inodes == 1
        assert 100_000 <= committed_as.size < 120_000
    elif images:  # in which the kernel may write a block or two of its own as it lets go of them
        assert committed_as.inodes == 1
        assert abs(committed_as.size - filled.size) <= 65_536
    else:
        assert committed_as == filled


def _write(path: Path, size: int) -> None:
    path.write_bytes(b"x" * size)


# --- leases and the label that names the target


async def _held(world: World) -> list[tuple[object, ...]]:
    return await world.rows("SELECT lease, type, key FROM lease_resources ORDER BY lease, key")


async def test_snapshots_are_under_the_lease(world: World) -> None:
    await world.leases.create(NS, "lease")
    leased = Scope("default", "lease")
    kind = f"snapshots/{world.snapshotter.name}"
    await world.snapshotter.prepare(leased, "a")
    await world.snapshotter.view(leased, "v")
    assert await _held(world) == [("lease", kind, "a"), ("lease", kind, "v")]
    await world.snapshotter.commit(leased, "c", "a")
    assert await _held(world) == [("lease", kind, "c"), ("lease", kind, "v")]
    await world.snapshotter.remove(leased, "v")
    assert await _held(world) == [("lease", kind, "c")]


async def test_what_exists_already_comes_under_the_lease(world: World) -> None:
    await world.leases.create(NS, "lease")
    leased = Scope("default", "lease")
    kind = f"snapshots/{world.snapshotter.name}"
    await world.commit("c1")
    await world.commit("c2")
    await world.snapshotter.prepare(NS, "a")
    with pytest.raises(AlreadyExistsError):
        await world.snapshotter.prepare(leased, "c1")
    with pytest.raises(AlreadyExistsError):
        await world.snapshotter.commit(leased, "c2", "a")
    assert await _held(world) == [("lease", kind, "c1"), ("lease", kind, "c2")]


async def test_a_lease_that_is_not_there_is_refused_and_nothing_stays(world: World) -> None:
    leased = Scope("default", "nope")
    for create in (world.snapshotter.prepare, world.snapshotter.view):
        with pytest.raises(NotFoundError, match="lease does not exist: not found"):
            await create(leased, "a")
    assert await world.names() == []
    assert world.driver.ids() == []
    assert world.events == []


async def test_a_target_that_is_there_needs_no_preparing(world: World) -> None:
    await world.leases.create(NS, "lease")
    target = {"containerd.io/snapshot.ref": "layer"}
    await world.snapshotter.prepare(NS, "extract", "", target)
    await world.snapshotter.commit(NS, "layer", "extract", target)
    for create in (world.snapshotter.prepare, world.snapshotter.view):
        with pytest.raises(AlreadyExistsError, match=re.escape('target snapshot "layer": already exists')):
            await create(Scope("default", "lease"), "again", "", target)
    assert await _held(world) == [("lease", f"snapshots/{world.snapshotter.name}", "layer")]
    assert await world.names() == ["layer"]
    await world.snapshotter.prepare(Scope("other"), "again", "", target)


async def test_another_parent_on_commit_is_refused(world: World) -> None:
    await _base(world)
    with pytest.raises(InvalidArgumentError, match='cannot change parent of active snapshot "a1" on commit'):
        await world.snapshotter.commit(NS, "x", "a1", {}, "c1")
    if "rebase" not in world.snapshotter.capabilities:
        with pytest.raises(FailedPreconditionError, match="cannot give snapshot"):
            await world.snapshotter.commit(NS, "x", "a2", {}, "c1")
    await world.snapshotter.commit(NS, "x", "a1", {}, "c2")


async def test_what_nobody_holds_is_collected_with_its_folder(world: World, tmp_path: Path) -> None:
    blobs = await asyncio.to_thread(LocalBlobStore, tmp_path / "content", sync=False)
    collector = MetadataCollector(
        world.database,
        RecordingPublisher(),
        blobs,
        BlobLocks(),
        {world.snapshotter.name: world.snapshotter},
    )
    await world.leases.create(NS, "lease")
    leased = Scope("default", "lease")
    await world.commit("base")
    await world.commit("forgotten", "base")
    await world.snapshotter.prepare(leased, "held", "base")
    await world.snapshotter.prepare(NS, "rooted-active", "base")
    await world.snapshotter.commit(NS, "rooted", "rooted-active", {"containerd.io/gc.root": "yes"})
    await collector.collect()
    assert await world.names() == ["base", "held", "rooted"]
    assert len(world.driver.ids()) == 3
    await world.leases.delete(NS, "lease")
    await world.snapshotter.update(NS, "rooted", {})
    await collector.collect()
    assert await world.names() == []
    assert world.driver.ids() == []


# --- what is left behind


async def test_a_cancelled_prepare_leaves_all_or_nothing(world: World) -> None:
    await world.commit("c1", "", lambda root: [_write(root / str(n), 1000) for n in range(50)])
    for delay in range(12):
        task = asyncio.create_task(world.snapshotter.prepare(NS, "a", "c1"))
        await asyncio.sleep(delay / 4000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if await world.names("name==a"):
            await world.snapshotter.remove(NS, "a")
        await world.snapshotter.close()
        assert len(world.driver.ids()) == 1
