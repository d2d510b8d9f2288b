"""Image records: what is checked, what an update replaces, what a delete looks at."""

from __future__ import annotations

import dataclasses

import pytest
from tests.unit.metadata.support import MANIFEST, World, descriptor_of, digest_of

from containerd_hybrid.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from containerd_hybrid.events.api import ImageCreate, ImageDelete, ImageUpdate
from containerd_hybrid.images.api import Image
from containerd_hybrid.model import Descriptor, Platform, Scope

SECOND = 1_000_000_000


def image(name: str = "docker.io/library/busybox:latest", target: str = "one", **labels: str) -> Image:
    return Image(name, descriptor_of(target), labels)


async def test_what_is_stored_comes_back(world: World, scope: Scope) -> None:
    target = Descriptor(
        MANIFEST, digest_of("one"), 2**40, {"note": "kept", "empty": ""}, Platform("linux", "amd64"), ("u",)
    )
    created = await world.images.create(scope, Image("x", target, {"a": "1"}))
    # A record keeps the descriptor's name for the bytes, not how to get or to choose them.
    assert created.target == Descriptor(MANIFEST, digest_of("one"), 2**40, {"note": "kept"})
    assert created.created_at == created.updated_at > 0
    assert await world.images.get(scope, "x") == created
    assert await world.images.list(scope) == [created]


async def test_messages_that_clients_read(world: World, scope: Scope) -> None:
    with pytest.raises(NotFoundError) as missing:
        await world.images.get(scope, 'a"b')
    assert missing.value.message == 'image "a\\"b": not found'
    await world.images.create(scope, image("x"))
    with pytest.raises(AlreadyExistsError) as taken:
        await world.images.create(scope, image("x"))
    assert taken.value.message == 'image "x": already exists'


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (image(""), "image name must not be empty: invalid argument"),
        (
            Image("x", Descriptor(MANIFEST, digest_of("one"), 0)),
            "target.Size must be greater than zero: invalid argument",
        ),
        (
            Image("x", Descriptor(MANIFEST, digest_of("one"), -1)),
            "target.Size must be greater than zero: invalid argument",
        ),
        (Image("x", Descriptor("", digest_of("one"), 1)), "target.MediaType must be set: invalid argument"),
    ],
)
async def test_what_cannot_be_an_image(world: World, scope: Scope, wrong: Image, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        await world.images.create(scope, wrong)
    assert raised.value.message == message
    assert world.recorder.events == []


async def test_update_without_paths_replaces_everything_but_the_creation(world: World, scope: Scope) -> None:
    created = await world.images.create(scope, image("x", a="1"))
    updated = await world.images.update(scope, image("x", "two", b="2"))
    assert (updated.target, updated.labels) == (descriptor_of("two"), {"b": "2"})
    assert updated.created_at == created.created_at < updated.updated_at
    assert await world.images.get(scope, "x") == updated


async def test_update_by_paths(world: World, scope: Scope) -> None:
    first = Descriptor(MANIFEST, digest_of("one"), 1, {"k": "1", "l": "2"})
    second = Descriptor("other", digest_of("two"), 2, {"k": "3"})
    await world.images.create(scope, Image("x", first, {"a": "1"}))
    given = Image("x", second, {"b": "2"})

    async def after(*paths: str) -> Image:
        return await world.images.update(scope, given, paths)

    assert (await after("annotations.k")).target == dataclasses.replace(
        first, annotations={"k": "3", "l": "2"}
    )
    assert (await after("annotations.l")).target.annotations == {"k": "3"}
    assert (await after("labels.b")).labels == {"a": "1", "b": "2"}
    both = await after("target", "labels")
    assert (both.target, both.labels) == (second, {"b": "2"})
    with pytest.raises(InvalidArgumentError, match=r'cannot update "target\.digest" field on image "x"'):
        await after("target.digest")
    with pytest.raises(InvalidArgumentError, match="image name is required for update"):
        await world.images.update(scope, image(""))


async def test_an_update_is_checked_as_a_whole(world: World, scope: Scope) -> None:
    await world.images.create(scope, image("x"))
    with pytest.raises(InvalidArgumentError, match=r"target\.Size"):
        await world.images.update(scope, Image("x", Descriptor(MANIFEST, digest_of("two"), 0)), ["target"])
    assert (await world.images.get(scope, "x")).target == descriptor_of("one")


async def test_delete_with_a_target_only_while_it_points_there(world: World, scope: Scope) -> None:
    await world.images.create(scope, image("x", "one"))
    with pytest.raises(NotFoundError) as raised:
        await world.images.delete(scope, "x", target=descriptor_of("two"))
    assert raised.value.message == (
        f'image "x" has target {digest_of("one")}, not {digest_of("two")}: not found'
    )
    await world.images.delete(scope, "x", target=descriptor_of("one"))
    with pytest.raises(NotFoundError, match='image "x": not found'):
        await world.images.delete(scope, "x", target=descriptor_of("one"))


async def test_filter_fields(world: World, scope: Scope) -> None:
    one = Descriptor(MANIFEST, digest_of("one"), 1, {"note": "n"})
    await world.images.create(scope, Image("x", one))
    await world.images.create(scope, image("y", "two"))

    async def names(filter: str) -> list[str]:
        return [found.name for found in await world.images.list(scope, [filter])]

    assert await names(f"target.digest=={digest_of('two')}") == ["y"]
    assert await names("target.digest~=^sha256:") == ["x", "y"]
    assert await names(f"target.mediatype=={MANIFEST}") == ["x", "y"]
    assert await names("annotations.note==n") == ["x"]
    for absent in ("target", "target.size", "size", "annotations"):
        assert await names(absent) == []


async def test_events_tell_what_was_stored(world: World, scope: Scope) -> None:
    await world.images.create(scope, image("x", a="1", b=""))
    await world.images.update(scope, image("x", a="2"), ["labels.a"])
    await world.images.delete(scope, "x")
    assert world.recorder.events == [
        ("default", ImageCreate("x", {"a": "1"})),
        ("default", ImageUpdate("x", {"a": "2"})),
        ("default", ImageDelete("x")),
    ]


async def test_a_source_date_epoch_stands_for_the_clock(world: World, scope: Scope) -> None:
    created = await world.images.create(scope, image("x"), source_date_epoch=SECOND)
    assert created.created_at == created.updated_at == SECOND
    updated = await world.images.update(scope, image("x", a="1"), source_date_epoch=2 * SECOND)
    assert (updated.created_at, updated.updated_at) == (SECOND, 2 * SECOND)


async def test_only_an_image_that_can_expire_is_put_under_the_lease(world: World, scope: Scope) -> None:
    await world.leases.create(scope, "l")
    leased = Scope("default", "l")
    await world.images.create(leased, image("stays"))
    await world.images.create(leased, Image("goes", descriptor_of("x"), {"containerd.io/gc.expire": "z"}))
    assert [resource.id for resource in await world.leases.list_resources(scope, "l")] == ["goes"]
    await world.images.update(
        leased, Image("stays", descriptor_of("x"), {"containerd.io/gc.expire": "2001-01-01T00:00:00Z"})
    )
    await world.images.delete(leased, "goes")
    assert [resource.id for resource in await world.leases.list_resources(scope, "l")] == ["stays"]
    with pytest.raises(NotFoundError, match="lease does not exist"):
        await world.images.create(
            Scope("default", "gone"), Image("y", descriptor_of("x"), {"containerd.io/gc.expire": "z"})
        )


@pytest.mark.parametrize("name", ["a\0b", "  ", "\n", "…", "x" * 10_000, "'; DROP TABLE images; --"])
async def test_any_name_can_be_stored(world: World, scope: Scope, name: str) -> None:
    await world.images.create(scope, image(name))
    assert (await world.images.get(scope, name)).name == name
    assert [found.name for found in await world.images.list(scope)] == [name]
    await world.images.delete(scope, name)


async def test_what_no_column_can_hold_is_the_callers_mistake(world: World, scope: Scope) -> None:
    with pytest.raises(InvalidArgumentError, match="not valid Unicode"):
        await world.images.get(scope, "\ud800")
    with pytest.raises(InvalidArgumentError, match="not valid Unicode"):
        await world.images.create(scope, image("\ud800"))
    with pytest.raises(InvalidArgumentError, match="more than 64 bits"):
        await world.images.create(scope, image("x"), source_date_epoch=2**63)
    forever = Image("x", descriptor_of("x"), {"containerd.io/gc.expire": "9999-12-31T23:59:59Z"})
    assert await world.images.create(scope, forever)
    assert (await world.collector.collect()).removed == ()
