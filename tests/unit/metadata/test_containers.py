"""Container records: what is checked, what can change, what a list costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.unit.metadata.support import World

from containerd_hybrid.containers.api import Container
from containerd_hybrid.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from containerd_hybrid.events.api import (
    ContainerCreate,
    ContainerCreateRuntime,
    ContainerDelete,
    ContainerUpdate,
)
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue

SPEC = AnyValue("types.containerd.io/opencontainers/runtime-spec/1/Spec", b'{"ociVersion":"1.1.0"}')
FULL = Container(
    id="c",
    image="docker.io/library/busybox:latest",
    runtime_name="io.containerd.runc.v2",
    runtime_options=AnyValue("containerd.runc.v1.Options", b"\x08\x01"),
    spec=SPEC,
    snapshotter="overlayfs",
    snapshot_key="c",
    sandbox="pod",
    labels={"a": "1"},
    extensions={"io.x": AnyValue("t", bytes(range(256))), "empty": AnyValue("", b"")},
)


async def test_what_is_stored_comes_back(world: World, scope: Scope) -> None:
    created = await world.containers.create(scope, FULL)
    assert dataclasses.replace(created, created_at=0, updated_at=0) == FULL
    assert created.created_at == created.updated_at > 0
    assert await world.containers.get(scope, "c") == created
    assert await world.containers.list(scope) == [created]


async def test_the_least_container(world: World, scope: Scope) -> None:
    least = Container("c", runtime_name="r", spec=AnyValue("", b""))
    created = await world.containers.create(scope, least)
    assert await world.containers.get(scope, "c") == created
    assert created.spec == AnyValue("", b"")
    assert created.runtime_options is None


async def test_messages_that_clients_read(world: World, scope: Scope) -> None:
    with pytest.raises(NotFoundError) as missing:
        await world.containers.get(scope, "c")
    assert missing.value.message == 'container "c" in namespace "default": not found'
    with pytest.raises(NotFoundError) as missing:
        await world.containers.update(scope, FULL)
    assert missing.value.message == 'container "c": not found'
    with pytest.raises(NotFoundError) as missing:
        await world.containers.delete(scope, "c")
    assert missing.value.message == "container c: not found"
    await world.containers.create(scope, FULL)
    with pytest.raises(AlreadyExistsError) as taken:
        await world.containers.create(scope, FULL)
    assert taken.value.message == 'container "c": already exists'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "container.ID: identifier must not be empty"),
        ({"id": "a b"}, 'container.ID: identifier "a b" must match'),
        ({"id": "x" * 77}, "greater than maximum length"),
        ({"runtime_name": ""}, "container.Runtime.Name must be set"),
        ({"spec": None}, "container.Spec must be set"),
        ({"snapshotter": ""}, "container.Snapshotter must be set if container.SnapshotKey is set"),
        ({"extensions": {"": SPEC}}, "container.Extension keys must not be zero-length"),
        ({"labels": {"k": "v" * 4096}}, "containers.Labels: label key and value length"),
    ],
)
async def test_what_cannot_be_a_container(
    world: World, scope: Scope, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        await world.containers.create(scope, dataclasses.replace(FULL, **change))  # type: ignore[arg-type]
    assert raised.value.message.startswith("create container failed validation: ")
    assert message in raised.value.message
    assert raised.value.message.endswith(": invalid argument")
    assert await world.containers.list(scope) == []


async def test_update_without_paths(world: World, scope: Scope) -> None:
    created = await world.containers.create(scope, FULL)
    other = AnyValue("other", b"spec")
    updated = await world.containers.update(
        scope,
        Container(
            "c",
            image="new",
            runtime_name=FULL.runtime_name,
            spec=other,
            snapshotter="overlayfs",
            snapshot_key="new",
            sandbox="ignored",
            extensions={"io.y": other},
        ),
    )
    assert updated == dataclasses.replace(
        created,
        image="new",
        spec=other,
        snapshot_key="new",
        labels={},
        # Added, as containerd does it; options and sandbox stay what they were.
        extensions={**FULL.extensions, "io.y": other},
        updated_at=updated.updated_at,
    )
    assert updated.updated_at > created.updated_at
    assert await world.containers.get(scope, "c") == updated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"snapshotter": "native"}, "container.Snapshotter field is immutable"),
        ({"runtime_name": "other"}, "container.Runtime.Name field is immutable"),
        ({"spec": None}, "update failed validation: container.Spec must be set"),
    ],
)
async def test_what_cannot_change(
    world: World, scope: Scope, change: dict[str, object], message: str
) -> None:
    created = await world.containers.create(scope, FULL)
    with pytest.raises(InvalidArgumentError, match=message):
        await world.containers.update(scope, dataclasses.replace(FULL, **change))  # type: ignore[arg-type]
    assert await world.containers.get(scope, "c") == created


async def test_update_by_paths(world: World, scope: Scope) -> None:
    await world.containers.create(scope, FULL)
    given = Container("c", image="new", snapshot_key="k", spec=None, extensions={"io.y": SPEC})

    async def after(*paths: str) -> Container:
        return await world.containers.update(scope, given, paths)

    assert (await after("image")).image == "new"
    assert (await after("snapshotkey")).snapshot_key == "k"
    assert (await after("extensions.io.y")).extensions == {**FULL.extensions, "io.y": SPEC}
    assert (await after("extensions.io.x")).extensions == {"empty": AnyValue("", b""), "io.y": SPEC}
    with pytest.raises(InvalidArgumentError, match=r"container\.Spec must be set"):
        await after("spec")
    for path in ("runtime", "snapshotter", "snapshot_key", "id", "sandbox"):
        with pytest.raises(InvalidArgumentError, match=f'cannot update "{path}" field on "c"'):
            await after(path)
    with pytest.raises(InvalidArgumentError, match="must specify a container id"):
        await world.containers.update(scope, Container(""))


async def test_filter_fields(world: World, scope: Scope) -> None:
    await world.containers.create(scope, FULL)
    await world.containers.create(scope, Container("d", runtime_name="r", spec=SPEC))

    async def ids(filter: str) -> list[str]:
        return [found.id for found in await world.containers.list(scope, [filter])]

    assert await ids("runtime.name==io.containerd.runc.v2") == ["c"]
    assert await ids("image") == ["c"]
    assert await ids("image!=x") == ["c", "d"]
    for absent in ("runtime", "runtime.options", "snapshotter", "spec"):
        assert await ids(absent) == []


async def test_events_tell_what_was_stored(world: World, scope: Scope) -> None:
    await world.containers.create(scope, FULL)
    await world.containers.update(scope, dataclasses.replace(FULL, image="new", labels={"b": "", "c": "3"}))
    await world.containers.delete(scope, "c")
    runtime = ContainerCreateRuntime(FULL.runtime_name, FULL.runtime_options)
    assert world.recorder.events == [
        ("default", ContainerCreate("c", FULL.image, runtime)),
        ("default", ContainerUpdate("c", "new", {"c": "3"}, "c")),
        ("default", ContainerDelete("c")),
    ]


async def test_a_list_and_a_look_up_are_one_select_each(tmp_path: Path, scope: Scope) -> None:
    # With one reader, its connection sees every statement.
    async with SqliteDatabase(tmp_path / "one-reader.db", no_sync=True, readers=1) as database:
        world = World.over(database)
        for number in range(20):
            await world.containers.create(scope, dataclasses.replace(FULL, id=f"c{number}"))
        statements: list[str] = []
        await database.read(lambda connection: connection.set_trace_callback(statements.append))
        assert len(await world.containers.list(scope)) == 20
        assert len(await world.containers.list(scope, ["id==c1", "id==c2"])) == 2
        await world.containers.get(scope, "c7")
        assert len([text for text in statements if text.startswith("SELECT")]) == 3


async def test_a_list_by_id_is_a_look_up(world: World, scope: Scope) -> None:
    plan = await world.rows(
        "EXPLAIN QUERY PLAN SELECT * FROM containers WHERE namespace = ? AND id IN (?)", "d", "c"
    )
    assert "SEARCH" in str(plan)
    assert "namespace=? AND id=?" in str(plan)
