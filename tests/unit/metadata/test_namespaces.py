"""Namespaces: names, what keeps one from being deleted, what goes with it."""

from __future__ import annotations

import pytest
from tests.unit.metadata.support import World, descriptor_of

from containerd_hybrid.containers.api import Container
from containerd_hybrid.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from containerd_hybrid.events.api import NamespaceCreate, NamespaceDelete, NamespaceUpdate
from containerd_hybrid.images.api import Image
from containerd_hybrid.metadata.api import Namespace
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.sandbox.api import Sandbox

SCOPE = Scope("work")


@pytest.mark.parametrize("name", ["", "a b", "-x", "a..b", "é", "x" * 77, "../up"])
async def test_names_are_identifiers(world: World, name: str) -> None:
    for call in (world.namespaces.create(name), world.namespaces.update(name, {"a": "1"})):
        with pytest.raises(InvalidArgumentError, match=r"identifier .*: invalid argument"):
            await call
    assert await world.namespaces.list() == []


async def test_a_namespace_that_does_not_exist_has_no_labels(world: World) -> None:
    assert await world.namespaces.get("nowhere") == Namespace("nowhere")
    with pytest.raises(NotFoundError, match='namespace "nowhere": not found'):
        await world.namespaces.delete("nowhere")


async def test_deleting_names_the_kinds_of_things_inside(world: World) -> None:
    await world.images.create(SCOPE, Image("x", descriptor_of("x")))
    await world.containers.create(SCOPE, Container("c", runtime_name="r", spec=AnyValue("s", b"")))
    await world.change("INSERT INTO content VALUES ('work', 'sha256:0', 1, '{}', 1, 1)")
    for snapshotter in ("overlayfs", "native"):
        await world.change(
            "INSERT INTO snapshots (namespace, snapshotter, name, kind, created_at, updated_at)"
            " VALUES ('work', ?, 'k', 'active', 1, 1)",
            snapshotter,
        )
    with pytest.raises(FailedPreconditionError) as raised:
        await world.namespaces.delete("work")
    assert raised.value.message == (
        'namespace "work" must be empty, but it still has images, blobs, containers, '
        'snapshots on "native" snapshotter, snapshots on "overlayfs" snapshotter: failed precondition'
    )
    await world.images.delete(SCOPE, "x")
    await world.change("DELETE FROM content")
    await world.change("DELETE FROM snapshots")
    with pytest.raises(FailedPreconditionError, match="it still has containers: "):
        await world.namespaces.delete("work")
    await world.containers.delete(SCOPE, "c")
    await world.namespaces.delete("work")
    assert await world.namespaces.list() == []


async def test_leases_sandboxes_and_ingests_go_with_their_namespace(world: World) -> None:
    other = Scope("other")
    for scope in (SCOPE, other):
        await world.leases.create(scope, "l")
        await world.sandboxes.create(scope, Sandbox("s", "r"))
        await world.change(
            "INSERT INTO ingests (namespace, ref, started_at, expires_at) VALUES (?, 'layer', 1, ?)",
            scope.namespace,
            2**62,
        )
    await world.namespaces.delete("work")
    assert await world.leases.list(SCOPE) == []
    assert await world.sandboxes.list(SCOPE) == []
    report = await world.collector.collect()
    assert [(node.namespace, node.type, node.key) for node in report.removed] == [
        ("work", "ingests", "layer")
    ]
    assert [one.name for one in await world.namespaces.list()] == ["other"]
    assert len(await world.leases.list(other)) == 1
    assert len(await world.sandboxes.list(other)) == 1


async def test_events_are_in_the_namespace_itself(world: World) -> None:
    await world.namespaces.create("work", {"a": "1", "b": ""})
    await world.namespaces.update("work", {"a": "2"}, ["labels.a"])
    await world.namespaces.delete("work")
    assert world.recorder.events == [
        ("work", NamespaceCreate("work", {"a": "1"})),
        ("work", NamespaceUpdate("work", {"a": "2"})),
        ("work", NamespaceDelete("work")),
    ]
