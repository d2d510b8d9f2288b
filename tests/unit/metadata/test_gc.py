"""What the collector keeps and what it takes, and that it never takes bytes somebody relies on."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.metadata.support import World, descriptor_of, digest_of

from containerd_hybrid.containers.api import Container
from containerd_hybrid.events.api import ImageDelete, SnapshotRemove
from containerd_hybrid.images.api import Image
from containerd_hybrid.leases.api import LeaseResource
from containerd_hybrid.metadata.api import CollectedNode
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.refs import write_graph
from containerd_hybrid.metadata.rows import ingest_key, now
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.sandbox.api import Sandbox

SCOPE = Scope("default")
HOUR = 3600 * 10**9
EXPIRE, FLAT = "containerd.io/gc.expire", "containerd.io/gc.flat"


def at(offset: int) -> str:
    """RFC 3339 for now and so many seconds."""
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=offset)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def ref(type: str, name: str = "") -> str:
    return f"containerd.io/gc.ref.{type}{name}"


@dataclass
class Graph:
    """Makes things by short names; blobs are called by what :func:`digest_of` makes of theirs."""

    world: World
    namespace: str = "default"

    async def blob(self, name: str, labels: dict[str, str] | None = None) -> str:
        digest = digest_of(name)
        await self._insert(
            "INSERT INTO content VALUES (?, ?, 1, '{}', 1, 1)", (str(digest),), "content", str(digest), labels
        )
        self.world.blobs.blobs.add(digest)
        return str(digest)

    async def snapshot(
        self, name: str, parent: str | None = None, labels: dict[str, str] | None = None
    ) -> None:
        statement = (
            "INSERT INTO snapshots (namespace, snapshotter, name, parent, kind, created_at, updated_at)"
            " VALUES (?, 'native', ?, (SELECT id FROM snapshots WHERE name = ?), 'committed', 1, 1)"
        )
        await self._insert(statement, (name, parent), "snapshots/native", name, labels)

    async def ingest(self, ref: str, expires_at: int | None, expected: str | None = None) -> None:
        statement = (
            "INSERT INTO ingests (namespace, ref, expires_at, expected, started_at) VALUES (?, ?, ?, ?, 1)"
        )
        await self.world.change(statement, self.namespace, ref, expires_at, expected)
        (row,) = await self.world.rows("SELECT id FROM ingests WHERE ref = ?", ref)
        self.world.blobs.ingests.add(ingest_key(int(str(row[0])), self.namespace, ref))

    async def image(self, name: str, target: str, labels: dict[str, str] | None = None) -> None:
        await self.world.images.create(
            Scope(self.namespace), Image(name, descriptor_of(target), labels or {})
        )

    async def container(self, id: str, snapshot: str = "", labels: dict[str, str] | None = None) -> None:
        await self.world.containers.create(
            Scope(self.namespace),
            Container(
                id,
                runtime_name="r",
                spec=AnyValue("s", b""),
                snapshotter="native" if snapshot else "",
                snapshot_key=snapshot,
                labels=labels or {},
            ),
        )

    async def lease(self, id: str, *resources: tuple[str, str], **labels: str) -> None:
        await self.world.leases.create(
            Scope(self.namespace), id, {f"containerd.io/gc.{key}": value for key, value in labels.items()}
        )
        for resource in resources:
            await self.world.leases.add_resource(Scope(self.namespace), id, LeaseResource(*resource))

    async def _insert(
        self, statement: str, values: tuple[object, ...], type: str, key: str, labels: dict[str, str] | None
    ) -> None:
        def work(tx: object) -> None:
            tx.connection.execute(statement, (self.namespace, *values))  # type: ignore[attr-defined]
            write_graph(tx.connection, self.namespace, type, key, labels or {}, fresh=True)  # type: ignore[attr-defined]

        await self.world.database.write(work)

    async def collected(self) -> set[tuple[str, str]]:
        report = await self.world.collector.collect()
        return {(node.type, node.key) for node in report.removed}


@pytest.fixture
def graph(world: World) -> Graph:
    return Graph(world)


async def test_nothing_is_collected_of_nothing(graph: Graph) -> None:
    assert await graph.collected() == set()


async def test_an_image_keeps_what_it_reaches_and_deleting_it_frees_that(graph: Graph) -> None:
    config = await graph.blob("config", {ref("snapshot.native"): "top"})
    layer = await graph.blob("layer")
    manifest = await graph.blob("manifest", {ref("content.config"): config, ref("content.l.0"): layer})
    await graph.snapshot("base")
    await graph.snapshot("top", "base")
    await graph.image("x", "manifest")
    stray = await graph.blob("stray")
    assert await graph.collected() == {("content", stray)}
    await graph.world.images.delete(SCOPE, "x")
    assert await graph.collected() == {
        ("content", manifest),
        ("content", config),
        ("content", layer),
        ("snapshots/native", "base"),
        ("snapshots/native", "top"),
    }
    assert graph.world.blobs.blobs == set()
    assert await graph.world.rows("SELECT * FROM refs") == []


async def test_containers_and_sandboxes_are_roots(graph: Graph) -> None:
    await graph.snapshot("used")
    await graph.snapshot("unused")
    blob = await graph.blob("kept")
    await graph.container("c", "used")
    await graph.world.sandboxes.create(SCOPE, Sandbox("pod", "r", labels={ref("content"): blob}))
    assert await graph.collected() == {("snapshots/native", "unused")}
    await graph.world.containers.delete(SCOPE, "c")
    await graph.world.sandboxes.delete(SCOPE, "pod")
    assert await graph.collected() == {("snapshots/native", "used"), ("content", blob)}


async def test_the_root_label(graph: Graph) -> None:
    below = await graph.blob("below")
    await graph.blob("kept", {"containerd.io/gc.root": "2026", ref("content"): below})
    await graph.snapshot("base")
    await graph.snapshot("top", "base", {"containerd.io/gc.root": "1"})
    assert await graph.collected() == set()


async def test_a_lease_keeps_what_it_names_and_what_that_reaches(graph: Graph) -> None:
    layer = await graph.blob("layer")
    manifest = await graph.blob("manifest", {ref("content.0"): layer})
    await graph.snapshot("base")
    await graph.snapshot("top", "base", {ref("content"): await graph.blob("extra")})
    await graph.ingest("download", None)
    await graph.image("old", "manifest", {EXPIRE: at(-10)})
    await graph.lease(
        "l",
        ("content", manifest),
        ("snapshots/native", "top"),
        ("ingests", "download"),
        ("images", "old"),
    )
    assert await graph.collected() == set()
    await graph.world.leases.delete(SCOPE, "l")
    assert await graph.collected() == {
        ("content", manifest),
        ("content", layer),
        ("content", str(digest_of("extra"))),
        ("snapshots/native", "base"),
        ("snapshots/native", "top"),
        ("ingests", "download"),
        ("images", "old"),
    }
    assert graph.world.blobs.ingests == set()


async def test_a_flat_lease_keeps_parents_and_targets_but_nothing_by_labels(graph: Graph) -> None:
    config = await graph.blob("config")
    manifest = await graph.blob("manifest", {ref("content.config"): config})
    child = await graph.blob("child")
    leased = await graph.blob("leased", {ref("content"): child})
    await graph.snapshot("base")
    await graph.snapshot("other")
    await graph.snapshot("top", "base", {ref("snapshot.native"): "other"})
    await graph.image("x", "manifest", {EXPIRE: at(-10)})
    shared = await graph.blob("shared", {ref("content"): await graph.blob("under-shared")})
    await graph.ingest("download", None, shared)
    await graph.lease(
        "l",
        ("content", leased),
        ("snapshots/native", "top"),
        ("images", "x"),
        ("ingests", "download"),
        flat="true",
    )
    assert await graph.collected() == {
        ("content", child),
        ("content", config),
        ("snapshots/native", "other"),
    }
    # An ingest is followed as ever.
    assert {digest_of("shared"), digest_of("under-shared"), digest_of("manifest")} <= graph.world.blobs.blobs
    assert manifest


async def test_a_full_lease_beside_a_flat_one_wins(graph: Graph) -> None:
    child = await graph.blob("child")
    parent = await graph.blob("parent", {ref("content"): child})
    await graph.lease("flat", ("content", parent), flat="1")
    await graph.lease("full", ("content", parent))
    assert await graph.collected() == set()


async def test_expired_leases_and_images_go(graph: Graph) -> None:
    blob = await graph.blob("blob")
    await graph.lease("gone", ("content", blob), expire=at(-10))
    await graph.lease("here", expire=at(3600))
    await graph.lease("odd", expire="some day")
    await graph.image("gone", "g", {EXPIRE: at(-10)})
    await graph.image("here", "h", {EXPIRE: at(3600)})
    await graph.image("odd", "o", {EXPIRE: "some day"})
    assert await graph.collected() == {("leases", "gone"), ("images", "gone"), ("content", blob)}
    assert await graph.world.rows("SELECT * FROM lease_resources") == []


async def test_an_expired_image_lives_while_something_holds_it(graph: Graph) -> None:
    await graph.image("held", "m1", {EXPIRE: at(-10)})
    await graph.container("c", labels={ref("image"): "held"})
    await graph.image("bound", "m2", {EXPIRE: at(-10), "containerd.io/gc.bref.container": "c"})
    await graph.image("loose", "m3", {EXPIRE: at(-10), "containerd.io/gc.bref.container": "nobody"})
    assert await graph.collected() == {("images", "loose")}


async def test_back_references_hold_like_forward_ones(graph: Graph) -> None:
    await graph.image("x", "m")
    await graph.container("c", "s")
    await graph.snapshot("s")
    a = await graph.blob("a", {"containerd.io/gc.bref.image": "x"})
    await graph.blob("b", {"containerd.io/gc.bref.content.x": a})
    await graph.snapshot("d", None, {"containerd.io/gc.bref.snapshot.native": "s"})
    await graph.snapshot("e", None, {"containerd.io/gc.bref.snapshot.overlayfs": "s"})
    assert await graph.collected() == {("snapshots/native", "e")}
    await graph.world.images.delete(SCOPE, "x")
    assert await graph.collected() == {("content", a), ("content", str(digest_of("b")))}


async def test_a_flat_hold_does_not_follow_back_references(graph: Graph) -> None:
    parent = await graph.blob("parent")
    child = await graph.blob("child", {"containerd.io/gc.bref.content": parent})
    await graph.lease("l", ("content", parent), flat="1")
    assert await graph.collected() == {("content", child)}


@pytest.mark.parametrize(
    ("condition", "used", "kept"),
    [
        ("usedat<1h", -60, True),
        ("usedat<1h", -7200, False),
        ("usedat>1h", -60, False),
        ("usedat>1h", -7200, True),
        ("usedat>5h,usedat<1h", -60, True),
        ("usedat<1h", None, False),
    ],
)
async def test_conditional_references(graph: Graph, condition: str, used: int | None, kept: bool) -> None:
    labels = {} if used is None else {"containerd.io/gc.cond.value-usedat": at(used)}
    await graph.snapshot("s", None, labels)
    await graph.image("x", "m", {"containerd.io/gc.cond.snapshot.native": f"{condition}|s"})
    assert (await graph.collected() == set()) is kept


async def test_ingests_live_until_they_expire(graph: Graph) -> None:
    await graph.ingest("fresh", now() + HOUR)
    await graph.ingest("stale", now() - HOUR)
    await graph.ingest("unleased", None)
    assert await graph.collected() == {("ingests", "stale"), ("ingests", "unleased")}
    assert len(graph.world.blobs.ingests) == 1


async def test_a_namespace_holds_nothing_in_another(graph: Graph) -> None:
    blob = await graph.blob("blob")
    await Graph(graph.world, "other").image("x", "blob")
    assert await graph.collected() == {("content", blob)}


async def test_bytes_stay_while_a_namespace_has_them(graph: Graph) -> None:
    other = Graph(graph.world, "other")
    await graph.blob("blob")
    await other.blob("blob")
    await other.image("x", "blob")
    await graph.collected()
    assert graph.world.blobs.blobs == {digest_of("blob")}
    await graph.world.images.delete(Scope("other"), "x")
    await graph.collected()
    assert graph.world.blobs.blobs == set()


async def test_bytes_stay_while_an_ingest_stands_for_them(graph: Graph) -> None:
    other = Graph(graph.world, "other")
    digest = await graph.blob("blob")
    await other.ingest("shared", now() + HOUR, digest)
    assert await graph.collected() == {("content", digest)}
    assert graph.world.blobs.blobs == {digest_of("blob")}
    await graph.world.change("DELETE FROM ingests")
    await graph.collected()
    assert graph.world.blobs.blobs == set()


async def test_bytes_of_a_record_that_was_deleted_by_hand_go_too(graph: Graph) -> None:
    await graph.collected()  # the first looks at whole stores; this is about the later ones
    await graph.blob("blob")
    await graph.world.change("DELETE FROM content")
    assert await graph.collected() == set()
    assert graph.world.blobs.blobs == set()


async def test_a_blob_that_is_written_again_in_time_keeps_its_bytes(graph: Graph) -> None:
    await graph.collected()
    await graph.blob("blob")
    await graph.world.change("DELETE FROM content")
    await graph.blob("blob", {"containerd.io/gc.root": "1"})
    await graph.collected()
    assert graph.world.blobs.blobs == {digest_of("blob")}


async def test_the_first_collection_finds_what_a_crash_left(graph: Graph) -> None:
    graph.world.blobs.blobs |= {digest_of("left"), digest_of("known")}
    graph.world.blobs.ingests.add("7/default/left")
    await graph.blob("known", {"containerd.io/gc.root": "1"})
    await graph.ingest("known", now() + HOUR)
    assert await graph.collected() == set()
    assert graph.world.blobs.blobs == {digest_of("known")}
    assert [key.rpartition("/")[2] for key in graph.world.blobs.ingests] == ["known"]
    assert [one.cleanups for one in graph.world.snapshotters.values()] == [1, 1]
    graph.world.blobs.blobs.add(digest_of("foreign"))
    await graph.collected()
    assert digest_of("foreign") in graph.world.blobs.blobs


async def test_a_commit_that_holds_the_lock_wins_over_the_removal(graph: Graph) -> None:
    """A commit found the bytes, the collector swept the old record: the bytes must not go."""
    await graph.collected()
    await graph.blob("blob")
    async with graph.world.locks.hold(digest_of("blob")):
        await graph.world.change("DELETE FROM content")
        collecting = asyncio.create_task(graph.world.collector.collect())
        while await graph.world.rows("SELECT 1 FROM released"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert not collecting.done()
        await graph.blob("blob", {"containerd.io/gc.root": "1"})
    await collecting
    assert graph.world.blobs.blobs == {digest_of("blob")}


async def test_the_folders_of_swept_snapshots_are_cleaned_up_once(graph: Graph) -> None:
    await graph.collected()
    before = {name: one.cleanups for name, one in graph.world.snapshotters.items()}
    await graph.snapshot("a")
    await graph.snapshot("b", "a")
    await graph.collected()
    after = {name: one.cleanups - before[name] for name, one in graph.world.snapshotters.items()}
    assert after == {"native": 1, "overlayfs": 0}


async def test_a_parent_that_is_younger_than_its_child(graph: Graph) -> None:
    await graph.snapshot("child")
    await graph.snapshot("parent")
    await graph.world.change(
        "UPDATE snapshots SET parent = (SELECT id FROM snapshots WHERE name = 'parent') WHERE name = 'child'"
    )
    assert await graph.collected() == {("snapshots/native", "child"), ("snapshots/native", "parent")}


async def test_a_removal_that_fails_is_tried_again(graph: Graph, caplog: pytest.LogCaptureFixture) -> None:
    await graph.collected()
    await graph.blob("stuck")
    await graph.blob("loose")
    await graph.snapshot("s")
    graph.world.blobs.stuck.add(digest_of("stuck"))
    graph.world.snapshotters["native"].failures = 1
    await graph.collected()
    assert graph.world.blobs.blobs == {digest_of("stuck")}
    assert "is busy" in caplog.text
    assert "device or resource busy" in caplog.text
    graph.world.blobs.stuck.clear()
    before = graph.world.snapshotters["native"].cleanups
    await graph.collected()
    assert graph.world.blobs.blobs == set()
    assert graph.world.snapshotters["native"].cleanups == before + 1


async def test_a_cancelled_collection_is_finished_by_the_next(graph: Graph) -> None:
    await graph.collected()
    await graph.blob("blob")
    async with graph.world.locks.hold(digest_of("blob")):
        collecting = asyncio.create_task(graph.world.collector.collect())
        while await graph.world.rows("SELECT 1 FROM content"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        collecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await collecting
    assert graph.world.blobs.blobs == {digest_of("blob")}
    await graph.collected()
    assert graph.world.blobs.blobs == set()


async def test_a_dry_run_tells_and_touches_nothing(graph: Graph) -> None:
    digest = await graph.blob("blob")
    report = await graph.world.collector.collect(dry_run=True)
    assert report.removed == (CollectedNode("default", "content", digest),)
    assert graph.world.blobs.blobs == {digest_of("blob")}
    assert len(await graph.world.rows("SELECT 1 FROM content")) == 1


async def test_a_collection_without_garbage_writes_nothing(graph: Graph) -> None:
    await graph.image("x", "m")
    await graph.collected()
    writes: list[int] = []
    graph.world.database.on_commit(lambda count, deletions: writes.append(count))
    await graph.collected()
    assert writes == []


async def test_events_of_images_and_snapshots(graph: Graph) -> None:
    await graph.image("x", "m", {EXPIRE: at(-10)})
    await graph.snapshot("s")
    await graph.blob("b")
    graph.world.recorder.events.clear()
    await graph.collected()
    assert graph.world.recorder.events == [
        ("default", ImageDelete("x")),
        ("default", SnapshotRemove("s", "native")),
    ]


async def why(graph: Graph, type: str, key: str) -> list[tuple[str, str]]:
    return [(node.type, node.key) for node in await graph.world.collector.why("default", type, key)]


async def test_why_names_a_chain_from_a_root(graph: Graph) -> None:
    layer = await graph.blob("layer")
    manifest = await graph.blob("manifest", {ref("content"): layer})
    stray = await graph.blob("stray")
    await graph.image("x", "manifest")
    await graph.snapshot("base")
    await graph.snapshot("top", "base")
    await graph.container("c", "top")
    assert await why(graph, "content", layer) == [("images", "x"), ("content", manifest), ("content", layer)]
    assert await why(graph, "images", "x") == [("images", "x")]
    assert await why(graph, "snapshots/native", "base") == [
        ("containers", "c"),
        ("snapshots/native", "top"),
        ("snapshots/native", "base"),
    ]
    assert await why(graph, "content", stray) == []
    await graph.lease("l", ("content", stray))
    assert await why(graph, "content", stray) == [("leases", "l"), ("content", stray)]


async def test_why_knows_flat_leases(graph: Graph) -> None:
    child = await graph.blob("child")
    parent = await graph.blob("parent", {ref("content"): child})
    await graph.lease("l", ("content", parent), flat="1")
    assert await why(graph, "content", parent) == [("leases", "l"), ("content", parent)]
    assert await why(graph, "content", child) == []


async def test_why_gets_out_of_circles(graph: Graph) -> None:
    a, b = str(digest_of("a")), str(digest_of("b"))
    await graph.blob("a", {ref("content"): b})
    await graph.blob("b", {ref("content"): a})
    assert await why(graph, "content", a) == []
    assert await graph.collected() == {("content", a), ("content", b)}


BLOBS = [f"b{number}" for number in range(6)]
SNAPSHOTS = [f"s{number}" for number in range(4)]


Edges = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Plan:
    """A small world; edges go from holder to held."""

    blob_refs: Edges
    back_refs: Edges
    to_snapshots: Edges
    parents: tuple[str | None, ...]
    images: frozenset[str]
    containers: frozenset[str]
    roots: frozenset[str]
    leased: frozenset[str]
    flat: frozenset[str]

    def labels(self, name: str) -> dict[str, str]:
        """Those of a blob."""
        labels = {"containerd.io/gc.root": "1"} if name in self.roots else {}
        for holder, held in self.blob_refs:
            if holder == name:
                labels[ref("content.", held)] = str(digest_of(held))
        for holder, held in self.back_refs:
            if held == name:
                labels[f"containerd.io/gc.bref.content.{holder}"] = str(digest_of(holder))
        for holder, held in self.to_snapshots:
            if holder == name:
                labels[ref("snapshot.native/", held)] = held
        return labels

    def reachable(self) -> frozenset[str]:
        """The rules once more, in the plainest way: sets that grow until they do not."""
        parents = frozenset(
            (child, parent) for child, parent in zip(SNAPSHOTS, self.parents, strict=True) if parent
        )
        edges = self.blob_refs | self.back_refs | self.to_snapshots | parents
        full = closure(self.images | self.containers | self.roots | self.leased, edges)
        return full | closure(self.flat, parents)


def closure(start: frozenset[str], edges: Edges) -> frozenset[str]:
    while more := {held for holder, held in edges if holder in start} - start:
        start |= more
    return start


def sets(*choices: list[str], most: int) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from([name for choice in choices for name in choice]), max_size=most)


def pairs(first: list[str], second: list[str], most: int) -> st.SearchStrategy[Edges]:
    return st.frozensets(st.tuples(st.sampled_from(first), st.sampled_from(second)), max_size=most)


PLANS = st.builds(
    Plan,
    blob_refs=pairs(BLOBS, BLOBS, 8),
    back_refs=pairs(BLOBS, BLOBS, 4),
    to_snapshots=pairs(BLOBS, SNAPSHOTS, 4),
    parents=st.tuples(*(st.sampled_from([None, *SNAPSHOTS[:n]]) for n in range(len(SNAPSHOTS)))),
    images=sets(BLOBS, most=2),
    containers=sets(SNAPSHOTS, most=1),
    roots=sets(BLOBS, most=1),
    leased=sets(BLOBS, SNAPSHOTS, most=2),
    flat=sets(BLOBS, SNAPSHOTS, most=2),
)


def node(name: str) -> tuple[str, str]:
    return ("content", str(digest_of(name))) if name in BLOBS else ("snapshots/native", name)


async def make(graph: Graph, plan: Plan) -> None:
    for table in ("images", "containers", "content", "snapshots", "leases"):
        await graph.world.change(f"DELETE FROM {table}")
    for name in BLOBS:
        await graph.blob(name, plan.labels(name))
    for name, parent in zip(SNAPSHOTS, plan.parents, strict=True):
        await graph.snapshot(name, parent)
    for name in plan.images:
        await graph.image(name, name)
    for name in plan.containers:
        await graph.container(name, name)
    await graph.lease("full", *map(node, plan.leased))
    await graph.lease("flat", *map(node, plan.flat), flat="1")


@settings(max_examples=60)
@given(plan=PLANS)
async def test_it_keeps_exactly_what_the_rules_say(database: SqliteDatabase, plan: Plan) -> None:
    graph = Graph(World.over(database))
    await make(graph, plan)
    kept = {node(name) for name in plan.reachable()}
    everything = {node(name) for name in BLOBS + SNAPSHOTS}
    # "Why" and the collection are two programs for one question.
    assert {one for one in everything if await why(graph, *one)} == kept
    assert await graph.collected() == everything - kept
    bytes_left = {("content", str(digest)) for digest in graph.world.blobs.blobs}
    assert bytes_left == {one for one in kept if one[0] == "content"}
