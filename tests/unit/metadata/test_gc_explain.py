"""What an operator is told about why things live, and what a collection frees."""

from __future__ import annotations

import datetime
import json

import pytest
from tests.unit.metadata.support import World, descriptor_of, digest_of
from tests.unit.metadata.test_gc import Graph, at, ref

from containerd_hybrid.images.api import Image
from containerd_hybrid.metadata.api import CollectedNode
from containerd_hybrid.metadata.gc_explain import GarbageExplainer
from containerd_hybrid.model import Scope

SCOPE = Scope("default")


class LabelledGraph(Graph):
    """Its blobs have their labels in their rows too, where their names are looked up."""

    async def blob(self, name: str, labels: dict[str, str] | None = None) -> str:
        digest = await super().blob(name, labels)
        await self.world.change(
            "UPDATE content SET labels = ? WHERE digest = ?", json.dumps(labels or {}), digest
        )
        return digest


@pytest.fixture
def graph(world: World) -> Graph:
    return LabelledGraph(world)


@pytest.fixture
def explainer(world: World) -> GarbageExplainer:
    return GarbageExplainer(world.database)


async def chain(explainer: GarbageExplainer, key: str, type: str = "") -> list[tuple[str, str]]:
    """Types and reasons of the only finding."""
    (finding,) = await explainer.why("default", key, type)
    assert not finding.chain or finding.chain[-1].node == finding.node
    return [(link.node.type, link.reason) for link in finding.chain]


async def test_from_an_image_down_to_a_layer_by_the_names_of_the_labels(
    graph: Graph, explainer: GarbageExplainer, world: World
) -> None:
    layer = await graph.blob("layer")
    await graph.blob("manifest", {ref("content", ".l.0"): layer, ref("content", ".other"): "sha256:0"})
    await world.images.create(SCOPE, Image("app", descriptor_of("manifest")))
    assert await chain(explainer, layer) == [
        ("images", "an image"),
        ("content", "its target"),
        ("content", "label containerd.io/gc.ref.content.l.0"),
    ]
    digits = layer.removeprefix("sha256:")
    assert [f.node.key for f in await explainer.why("default", digits[:12])] == [layer]
    assert [f.node.key for f in await explainer.why("default", f"sha256:{digits[:12]}")] == [layer]
    assert await explainer.why("default", digits[:3]) == []
    assert await explainer.why("default", "") == []
    assert await explainer.why("elsewhere", layer) == []


async def test_a_container_its_snapshot_and_the_parents(
    graph: Graph, explainer: GarbageExplainer, world: World
) -> None:
    await graph.snapshot("base")
    await graph.snapshot("top", "base")
    await graph.container("c", "top")
    snapshots = "snapshots/native"
    expected = [("containers", "a container"), (snapshots, "its snapshot"), (snapshots, "its parent")]
    assert await chain(explainer, "base") == expected
    assert await chain(explainer, "base", snapshots) == expected
    assert await explainer.why("default", "base", "content") == []


async def test_a_lease_says_until_when(graph: Graph, explainer: GarbageExplainer, world: World) -> None:
    blob = await graph.blob("b")
    until = at(3600)
    await graph.lease("l", ("content", blob), expire=until)
    assert await chain(explainer, blob) == [
        ("leases", f"a lease until {until}"),
        ("content", "held by the lease"),
    ]


async def test_what_lives_by_a_label_of_its_own(graph: Graph, explainer: GarbageExplainer) -> None:
    root = await graph.blob("root", {"containerd.io/gc.root": at(0)})
    child = await graph.blob("child", {"containerd.io/gc.bref.content": root})
    assert await chain(explainer, root) == [("content", "label containerd.io/gc.root")]
    assert await chain(explainer, child) == [
        ("content", "label containerd.io/gc.root"),
        ("content", "its own label containerd.io/gc.bref.content"),
    ]


async def test_a_condition_is_told_as_one(graph: Graph, explainer: GarbageExplainer) -> None:
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    await graph.snapshot("s", labels={"containerd.io/gc.cond.value-usedat": moment})
    condition = {"containerd.io/gc.cond.snapshot.native": "usedat<1h|s"}
    await graph.blob("b", {"containerd.io/gc.root": moment, **condition})
    links = await chain(explainer, "s")
    assert links[-1] == (
        "snapshots/native",
        "label containerd.io/gc.cond.snapshot.…: used less than 3600s ago",
    )


async def test_what_nothing_holds_has_no_chain(graph: Graph, explainer: GarbageExplainer) -> None:
    blob = await graph.blob("lost")
    (finding,) = await explainer.why("default", blob)
    assert finding.chain == ()


async def test_bytes_count_when_their_last_record_goes(world: World, explainer: GarbageExplainer) -> None:
    here, there = Graph(world), Graph(world, "other")
    shared = await here.blob("shared")
    await there.blob("shared")
    own = await here.blob("own")
    await world.change("UPDATE content SET size = 70 WHERE digest = ?", own)
    await world.change("UPDATE content SET size = 5 WHERE digest = ?", shared)
    nodes = [CollectedNode("default", "content", shared), CollectedNode("default", "content", own)]
    removal = await explainer.measure(nodes)
    assert removal.sizes == {nodes[0]: 5, nodes[1]: 70}
    assert removal.content_bytes == 70
    both = await explainer.measure([*nodes, CollectedNode("other", "content", shared)])
    assert both.content_bytes == 75
    assert str(digest_of("own")) == own
