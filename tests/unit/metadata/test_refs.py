"""The graph that labels draw, and the part of it that is kept by the schema's triggers."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.metadata.support import World, descriptor_of, digest_of

from containerd_hybrid.containers.api import Container
from containerd_hybrid.images.api import Image
from containerd_hybrid.metadata.refs import Condition, LabelGraph, parse_duration, read_labels, write_graph
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue

HOUR = 3600 * 10**9
REF, BREF = "containerd.io/gc.ref.", "containerd.io/gc.bref."


@pytest.mark.parametrize(
    ("label", "holds"),
    [
        ("content", ("content", "v")),
        ("content.l.0", ("content", "v")),
        ("content/l.0", ("content", "v")),
        ("contentious", None),
        ("image", ("images", "v")),
        ("image.name", ("images", "v")),
        ("images", None),
        ("snapshot.overlayfs", ("snapshots/overlayfs", "v")),
        ("snapshot.overlayfs/upper", ("snapshots/overlayfs", "v")),
        ("snapshot.over.lay", ("snapshots/over.lay", "v")),
        ("snapshot", None),
        ("snapshot/overlayfs", None),
        ("container", None),
        ("bogus", None),
    ],
)
def test_reference_labels(label: str, holds: tuple[str, str] | None) -> None:
    expected = LabelGraph(holds=frozenset({holds} if holds else ()))
    assert read_labels({REF + label: "v"}) == expected


@pytest.mark.parametrize(
    ("label", "held_by"),
    [
        ("content", ("content", "v")),
        ("container.x", ("containers", "v")),
        ("image/x", ("images", "v")),
        ("snapshot.native", ("snapshots/native", "v")),
        ("snapshot", None),
        ("sandbox", None),
    ],
)
def test_back_reference_labels(label: str, held_by: tuple[str, str] | None) -> None:
    expected = LabelGraph(held_by=frozenset({held_by} if held_by else ()))
    assert read_labels({BREF + label: "v"}) == expected


def test_roots_and_other_labels() -> None:
    assert read_labels({"containerd.io/gc.root": "any value"}).root
    assert read_labels({"containerd.io/gc.root.x": "1"}).root
    assert not read_labels({"containerd.io/gc.root": ""}).root
    nothing = {"containerd.io/distribution.source.x": "y", "gc.ref.content": "z", "app": "1"}
    assert read_labels(nothing) == LabelGraph()


@pytest.mark.parametrize(
    ("label", "value", "expected"),
    [
        ("snapshot.overlayfs", "usedat<24h|k", [Condition("snapshots/overlayfs", "k", "<", 24 * HOUR)]),
        ("snapshot/native/x", "usedat>1h30m|k|l", [Condition("snapshots/native", "k|l", ">", HOUR * 3 // 2)]),
        (
            "snapshot.n",
            "usedat<1h,other=2,usedat>2h|k",
            [Condition("snapshots/n", "k", "<", HOUR), Condition("snapshots/n", "k", ">", 2 * HOUR)],
        ),
        ("snapshot.n", "usedat<=1h|k", []),
        ("snapshot.n", "usedat=1h|k", []),
        ("snapshot.n", "usedat<soon|k", []),
        ("snapshot.n", "usedat<1h", []),
        ("snapshot.n", "", []),
    ],
)
def test_conditions(label: str, value: str, expected: list[Condition]) -> None:
    assert read_labels({"containerd.io/gc.cond." + label: value}).conditions == frozenset(expected)


def test_used_at() -> None:
    labels = {
        "containerd.io/gc.cond.value-usedat": "1970-01-01T00:00:01Z",
        "containerd.io/gc.cond.value-usedat.other": "1970-01-01T00:00:02Z",
        "containerd.io/gc.cond.value-usedat.wrong": "then",
    }
    assert read_labels(labels).used_at == frozenset({10**9, 2 * 10**9})


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1ns", 1),
        ("1us", 1000),
        ("1µs", 1000),
        ("1.5s", 1_500_000_000),
        (".5m", 30 * 10**9),
        ("1h2m3s4ms", HOUR + 123 * 10**9 + 4_000_000),
        ("-1h", -HOUR),
        ("+1h", HOUR),
        ("1", None),
        ("", None),
        ("h", None),
        ("1d", None),
        ("1h 2m", None),
        ("9999999999h", None),
    ],
)
def test_durations_as_go_writes_them(text: str, nanoseconds: int | None) -> None:
    assert parse_duration(text) == nanoseconds


@given(
    st.dictionaries(
        st.sampled_from([REF, BREF, "containerd.io/gc."]).flatmap(
            lambda prefix: st.text(max_size=12).map(prefix.__add__)
        ),
        st.text(max_size=12),
    )
)
def test_any_labels_can_be_read(labels: dict[str, str]) -> None:
    graph = read_labels(labels)
    assert len(graph.holds) + len(graph.held_by) <= len(labels)


async def graph(world: World) -> set[tuple[object, ...]]:
    query = "SELECT from_type, from_key, to_type, to_key, kind FROM refs"
    return set(await world.rows(query))


async def test_an_image_holds_its_target(world: World, scope: Scope) -> None:
    one, two = str(digest_of("one")), str(digest_of("two"))
    await world.images.create(scope, Image("x", descriptor_of("one")))
    assert await graph(world) == {("images", "x", "content", one, "field")}
    await world.images.update(scope, Image("x", descriptor_of("two")), ["target"])
    assert await graph(world) == {("images", "x", "content", two, "field")}
    await world.images.delete(scope, "x")
    assert await graph(world) == set()


async def test_a_container_holds_its_snapshot(world: World, scope: Scope) -> None:
    container = Container(
        "c", runtime_name="r", spec=AnyValue("s", b""), snapshotter="native", snapshot_key="k"
    )
    await world.containers.create(scope, container)
    await world.containers.create(scope, Container("d", runtime_name="r", spec=AnyValue("s", b"")))
    assert await graph(world) == {("containers", "c", "snapshots/native", "k", "field")}
    await world.containers.update(scope, dataclasses.replace(container, snapshot_key="l"), ["snapshotkey"])
    assert await graph(world) == {("containers", "c", "snapshots/native", "l", "field")}
    await world.containers.delete(scope, "c")
    assert await graph(world) == set()


async def test_an_ingest_holds_the_blob_it_stands_for(world: World) -> None:
    insert = "INSERT INTO ingests (namespace, ref, expected, started_at) VALUES ('default', ?, ?, 1)"
    await world.change(insert, "shared", "sha256:1")
    await world.change(insert, "own", None)
    assert await graph(world) == {("ingests", "shared", "content", "sha256:1", "field")}
    await world.change("UPDATE ingests SET expected = NULL WHERE ref = 'shared'")
    await world.change("UPDATE ingests SET expected = 'sha256:2' WHERE ref = 'own'")
    assert await graph(world) == {("ingests", "own", "content", "sha256:2", "field")}
    await world.change("DELETE FROM ingests")
    assert await graph(world) == set()


async def snapshot(world: World, name: str, parent: str | None = None) -> None:
    await world.change(
        "INSERT INTO snapshots (namespace, snapshotter, name, parent, kind, created_at, updated_at)"
        " VALUES ('default', 'native', ?, (SELECT id FROM snapshots WHERE name = ?), 'active', 1, 1)",
        name,
        parent,
    )


NATIVE = "snapshots/native"


async def test_a_snapshot_holds_its_parent_also_under_a_new_name(world: World) -> None:
    await snapshot(world, "base")
    await snapshot(world, "child", "base")
    assert await graph(world) == {(NATIVE, "child", NATIVE, "base", "field")}
    await world.database.write(
        lambda tx: write_graph(
            tx.connection,
            "default",
            NATIVE,
            "child",
            {REF + "content": "sha256:1", BREF + "image": "i", "containerd.io/gc.root": "1"},
        )
    )
    await world.change("UPDATE snapshots SET name = 'kept', kind = 'committed' WHERE name = 'child'")
    # Labels are written anew by who renames; what the old name said is gone.
    assert await graph(world) == {(NATIVE, "kept", NATIVE, "base", "field")}
    assert await world.rows("SELECT * FROM roots") == []
    await world.change("UPDATE snapshots SET parent = NULL WHERE name = 'kept'")
    assert await graph(world) == set()
    await world.change(
        "UPDATE snapshots SET parent = (SELECT id FROM snapshots WHERE name = 'base') WHERE name = 'kept'"
    )
    assert await graph(world) == {(NATIVE, "kept", NATIVE, "base", "field")}
    await world.change("DELETE FROM snapshots WHERE name = 'kept'")
    assert await graph(world) == set()


ALL = {
    REF + "content": "sha256:1",
    BREF + "container": "c",
    "containerd.io/gc.root": "1",
    "containerd.io/gc.cond.snapshot.n": "usedat<1h|k",
    "containerd.io/gc.cond.value-usedat": "1970-01-01T00:00:01Z",
}


@pytest.mark.parametrize(
    ("type", "kinds", "roots", "used"),
    [
        ("content", {"label", "back", "cond"}, 1, 0),
        ("images", {"label", "back", "cond"}, 0, 0),
        ("snapshots/native", {"label", "back"}, 1, 1),
        ("containers", {"label", "back"}, 0, 0),
        ("sandboxes", {"label"}, 0, 0),
    ],
)
async def test_each_type_has_the_labels_containerd_reads_of_it(
    world: World, type: str, kinds: set[str], roots: int, used: int
) -> None:
    async def counts() -> tuple[set[object], int, int]:
        found = {kind for *_, kind in await graph(world)}
        return (
            found,
            len(await world.rows("SELECT 1 FROM roots")),
            len(await world.rows("SELECT 1 FROM used_at")),
        )

    def write(labels: dict[str, str]) -> object:
        return world.database.write(lambda tx: write_graph(tx.connection, "default", type, "k", labels))

    await write(ALL)  # type: ignore[misc]
    assert await counts() == (kinds, roots, used)
    await write(ALL)  # type: ignore[misc]
    assert await counts() == (kinds, roots, used)
    await write({})  # type: ignore[misc]
    assert await counts() == (set(), 0, 0)
