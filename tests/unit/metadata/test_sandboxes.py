"""Sandbox records: what is checked and what can change."""

from __future__ import annotations

import dataclasses

import pytest
from tests.unit.metadata.support import World

from containerd_hybrid.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.sandbox.api import Sandbox

FULL = Sandbox(
    id="pod",
    runtime_name="io.containerd.runc.v2",
    runtime_options=AnyValue("options", b"1"),
    spec=AnyValue("spec", b"{}"),
    sandboxer="shim",
    labels={"a": "1"},
    extensions={"meta": AnyValue("m", b"\x00\xff")},
)


async def test_what_is_stored_comes_back(world: World, scope: Scope) -> None:
    created = await world.sandboxes.create(scope, FULL)
    assert dataclasses.replace(created, created_at=0, updated_at=0) == FULL
    assert created.created_at == created.updated_at > 0
    assert await world.sandboxes.get(scope, "pod") == created
    assert await world.sandboxes.list(scope) == [created]


async def test_messages(world: World, scope: Scope) -> None:
    for call in (
        world.sandboxes.get(scope, "pod"),
        world.sandboxes.update(scope, FULL),
        world.sandboxes.delete(scope, "pod"),
    ):
        with pytest.raises(NotFoundError, match='sandbox "pod": not found'):
            await call
    await world.sandboxes.create(scope, FULL)
    with pytest.raises(AlreadyExistsError, match='sandbox "pod": already exists'):
        await world.sandboxes.create(scope, FULL)
    with pytest.raises(InvalidArgumentError, match="invalid sandbox ID: identifier"):
        await world.sandboxes.create(scope, Sandbox("a b"))
    with pytest.raises(InvalidArgumentError, match="zero-length"):
        await world.sandboxes.create(scope, Sandbox("b", extensions={"": AnyValue("", b"")}))


async def test_update_without_paths(world: World, scope: Scope) -> None:
    created = await world.sandboxes.create(scope, FULL)
    extra = AnyValue("n", b"2")
    updated = await world.sandboxes.update(
        scope, Sandbox("pod", FULL.runtime_name, labels={"b": "2"}, extensions={"new": extra})
    )
    # None leaves a spec and options, extensions add up, the sandboxer never changes.
    assert updated == dataclasses.replace(
        created,
        labels={"b": "2"},
        extensions={**FULL.extensions, "new": extra},
        updated_at=updated.updated_at,
    )
    assert await world.sandboxes.get(scope, "pod") == updated
    with pytest.raises(InvalidArgumentError, match=r"sandbox\.Runtime\.Name field is immutable"):
        await world.sandboxes.update(scope, dataclasses.replace(FULL, runtime_name="other"))


async def test_update_by_paths(world: World, scope: Scope) -> None:
    await world.sandboxes.create(scope, FULL)
    given = Sandbox("pod", "kata", AnyValue("k", b"2"), AnyValue("spec2", b"3"), "other")

    async def after(*paths: str) -> Sandbox:
        return await world.sandboxes.update(scope, given, paths)

    assert (await after("spec")).spec == given.spec
    changed = await after("runtime")
    assert (changed.runtime_name, changed.runtime_options) == ("kata", AnyValue("k", b"2"))
    assert (await after("extensions.meta")).extensions == {}
    for path in ("sandboxer", "id", "bogus"):
        with pytest.raises(InvalidArgumentError, match=f'cannot update "{path}" field on sandbox "pod"'):
            await after(path)
