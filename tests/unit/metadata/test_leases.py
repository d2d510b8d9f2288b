"""Leases: their ids, what may be put under them, what they say about expiry."""

from __future__ import annotations

import re

import pytest
from tests.unit.metadata.support import World, digest_of

from containerd_hybrid.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    UnimplementedError,
)
from containerd_hybrid.leases.api import LeaseResource
from containerd_hybrid.model import Scope

CONTENT = LeaseResource("content", str(digest_of("one")))


async def test_an_empty_id_is_filled_with_a_fresh_one(world: World, scope: Scope) -> None:
    first, second = await world.leases.create(scope), await world.leases.create(scope)
    assert first.id != second.id
    assert re.fullmatch(r"\d{1,9}-[\w-]{4}", first.id)


async def test_ids_are_free(world: World, scope: Scope) -> None:
    lease = await world.leases.create(scope, "we ird/../id")
    assert await world.leases.list(scope) == [lease]
    assert lease.created_at > 0


async def test_messages_that_clients_read(world: World, scope: Scope) -> None:
    await world.leases.create(scope, "l")
    with pytest.raises(AlreadyExistsError) as taken:
        await world.leases.create(scope, "l")
    assert taken.value.message == 'lease "l": already exists'
    for call in (
        world.leases.delete(scope, "x"),
        world.leases.add_resource(scope, "x", CONTENT),
        world.leases.delete_resource(scope, "x", CONTENT),
        world.leases.list_resources(scope, "x"),
    ):
        with pytest.raises(NotFoundError) as missing:
            await call
        assert missing.value.message == 'lease "x": not found'


async def test_resources_are_a_set_in_the_order_of_types(world: World, scope: Scope) -> None:
    await world.leases.create(scope, "l")
    resources = [
        LeaseResource("snapshots/overlayfs", "k"),
        LeaseResource("ingests", "layer-0"),
        LeaseResource("images", "x:latest"),
        LeaseResource("snapshots/native", "k"),
        CONTENT,
        CONTENT,
    ]
    for resource in resources:
        await world.leases.add_resource(scope, "l", resource)
    assert await world.leases.list_resources(scope, "l") == [
        CONTENT,
        LeaseResource("images", "x:latest"),
        LeaseResource("ingests", "layer-0"),
        LeaseResource("snapshots/native", "k"),
        LeaseResource("snapshots/overlayfs", "k"),
    ]
    for resource in resources:
        await world.leases.delete_resource(scope, "l", resource)
    assert await world.leases.list_resources(scope, "l") == []


@pytest.mark.parametrize(
    ("resource", "kind", "message"),
    [
        (LeaseResource("content", "x"), InvalidArgumentError, "invalid content resource id x"),
        (LeaseResource("content/x", CONTENT.id), InvalidArgumentError, "invalid resource type content/x"),
        (LeaseResource("images/x", "i"), InvalidArgumentError, "invalid resource type images/x"),
        (LeaseResource("snapshots", "k"), InvalidArgumentError, "invalid snapshot resource type snapshots"),
        (LeaseResource("snapshots/a/b", "k"), InvalidArgumentError, "invalid snapshot resource type"),
        (LeaseResource("bogus", "x"), UnimplementedError, "resource type bogus not supported yet"),
        (LeaseResource("", "x"), UnimplementedError, "resource type  not supported yet"),
    ],
)
async def test_what_cannot_be_put_under_a_lease(
    world: World, scope: Scope, resource: LeaseResource, kind: type[Exception], message: str
) -> None:
    await world.leases.create(scope, "l")
    with pytest.raises(kind, match=message):
        await world.leases.add_resource(scope, "l", resource)
    with pytest.raises(kind, match=message):
        await world.leases.delete_resource(scope, "l", resource)
    assert await world.leases.list_resources(scope, "l") == []


async def test_a_deleted_lease_takes_its_resources_with_it(world: World, scope: Scope) -> None:
    await world.leases.create(scope, "l")
    await world.leases.add_resource(scope, "l", CONTENT)
    await world.leases.delete(scope, "l")
    assert await world.rows("SELECT * FROM lease_resources") == []
    await world.leases.create(scope, "l")
    assert await world.leases.list_resources(scope, "l") == []


async def test_expiry_and_flatness_are_read_from_labels(world: World, scope: Scope) -> None:
    await world.leases.create(scope, "a", {"containerd.io/gc.expire": "1970-01-01T00:00:01Z"})
    await world.leases.create(scope, "b", {"containerd.io/gc.expire": "soon", "containerd.io/gc.flat": "x"})
    await world.leases.create(scope, "c", {"containerd.io/gc.flat": ""})
    assert await world.rows("SELECT id, expires_at, flat FROM leases") == [
        ("a", 1_000_000_000, 0),
        ("b", None, 1),
        ("c", None, 0),
    ]
