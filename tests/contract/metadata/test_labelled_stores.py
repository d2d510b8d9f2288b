"""What all stores of labelled things have in common: one suite over every one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.metadata.subjects import SUBJECTS, Subject
from tests.contract.support import RecordingPublisher

from containerd_hybrid.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    InvalidFilterError,
    NotFoundError,
)
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.model import Scope

SCOPE = Scope("default")
OTHER = Scope("other")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with SqliteDatabase(tmp_path / "meta.db", no_sync=True) as opened:
        yield opened


def _build(request: pytest.FixtureRequest, database: SqliteDatabase, tmp_path: Path) -> Subject:
    kind: type[Subject] = request.param
    return kind(database, RecordingPublisher(), tmp_path)


def _over(*, where: Callable[[type[Subject]], bool] = lambda kind: True) -> Any:
    """A fixture that gives each store the condition holds for in turn."""
    kinds = [kind for kind in SUBJECTS if where(kind)]
    return pytest.fixture(params=kinds, ids=lambda kind: kind.__name__.lower())(_build)


subject = _over()
updatable = _over(where=lambda kind: kind.updates)
timed = _over(where=lambda kind: kind.updates and kind.times is not Subject.times)
filterable = _over(where=lambda kind: kind.filters)
sized = _over(where=lambda kind: kind.sized)
node = _over(where=lambda kind: bool(kind.node))


async def test_labels_are_kept_but_those_without_a_value(subject: Subject) -> None:
    labels = {"plain": "1", "with.dots/and/slash": "ü \n \U0001f433", "empty": ""}
    expected = {"plain": "1", "with.dots/and/slash": "ü \n \U0001f433"}
    assert await subject.create(SCOPE, "a", labels) == expected
    assert await subject.labels(SCOPE, "a") == expected


async def test_a_name_is_taken_once_in_each_namespace(subject: Subject) -> None:
    await subject.create(SCOPE, "a", {"from": "first"})
    with pytest.raises(AlreadyExistsError, match="already exists"):
        await subject.create(SCOPE, "a", {"from": "second"})
    assert await subject.labels(SCOPE, "a") == {"from": "first"}
    await subject.create(OTHER, "a", {"from": "other"})
    assert await subject.labels(SCOPE, "a") == {"from": "first"}
    await subject.delete(OTHER, "a")
    assert await subject.list(SCOPE) == [subject.key("a")]


async def test_lists_are_in_order_of_their_keys(subject: Subject) -> None:
    for name in ("c", "a", "b"):
        await subject.create(SCOPE, name, {})
    assert await subject.list(SCOPE) == [subject.key(name) for name in ("a", "b", "c")]
    assert await subject.list(OTHER) == []


async def test_what_is_not_there_is_not_found(subject: Subject) -> None:
    if subject.filters:  # a namespace that does not exist has no labels, as in containerd
        with pytest.raises(NotFoundError, match="not found"):
            await subject.labels(SCOPE, "a")
    with pytest.raises(NotFoundError, match="not found"):
        await subject.delete(SCOPE, "a")
    await subject.create(SCOPE, "a", {})
    await subject.delete(SCOPE, "a")
    assert await subject.list(SCOPE) == []
    with pytest.raises(NotFoundError):
        await subject.delete(SCOPE, "a")


async def test_updating_what_is_not_there(updatable: Subject) -> None:
    if not updatable.filters:
        # containerd makes the namespace.
        await updatable.update(SCOPE, "a", {"x": "1"}, ["labels.x"])
        assert await updatable.list(SCOPE) == ["a"]
        return
    with pytest.raises(NotFoundError, match="not found"):
        await updatable.update(SCOPE, "a", {"x": "1"}, ["labels.x"])


async def test_an_update_without_paths_replaces_all_labels(updatable: Subject) -> None:
    await updatable.create(SCOPE, "a", {"x": "1", "y": "2"})
    assert await updatable.update(SCOPE, "a", {"y": "3", "z": ""}, []) == {"y": "3"}
    assert await updatable.labels(SCOPE, "a") == {"y": "3"}


async def test_the_path_labels_replaces_all_of_them(updatable: Subject) -> None:
    await updatable.create(SCOPE, "a", {"x": "1", "y": "2"})
    if not updatable.replaces_labels_path:
        with pytest.raises(InvalidArgumentError, match='cannot update "labels" field'):
            await updatable.update(SCOPE, "a", {"z": "3"}, ["labels"])
        return
    assert await updatable.update(SCOPE, "a", {"z": "3"}, ["labels"]) == {"z": "3"}
    assert await updatable.labels(SCOPE, "a") == {"z": "3"}


async def test_a_path_with_a_key_touches_that_label_only(updatable: Subject) -> None:
    await updatable.create(SCOPE, "a", {"x": "1", "y.z/w": "2", "gone": "3", "emptied": "4"})
    given = {"x": "9", "y.z/w": "8", "new": "7", "emptied": ""}
    paths = ["labels.y.z/w", "labels.gone", "labels.new", "labels.emptied"]
    expected = {"x": "1", "y.z/w": "8", "new": "7"}
    assert await updatable.update(SCOPE, "a", given, paths) == expected
    assert await updatable.labels(SCOPE, "a") == expected


@pytest.mark.parametrize("path", ["bogus", "name", "label", "labels2.x", "created_at"])
async def test_other_paths_are_refused_and_change_nothing(updatable: Subject, path: str) -> None:
    await updatable.create(SCOPE, "a", {"x": "1"})
    with pytest.raises(InvalidArgumentError, match=f'cannot update "{path}" field'):
        await updatable.update(SCOPE, "a", {"x": "2"}, ["labels.x", path])
    assert await updatable.labels(SCOPE, "a") == {"x": "1"}


async def test_labels_have_a_size(sized: Subject) -> None:
    assert await sized.create(SCOPE, "a", {"k": "v" * 4095}) == {"k": "v" * 4095}
    with pytest.raises(
        InvalidArgumentError, match=r"\(4097 bytes\) greater than maximum size \(4096 bytes\)"
    ):
        await sized.create(SCOPE, "b", {"k": "v" * 4096})
    # Bytes, not characters.
    with pytest.raises(InvalidArgumentError, match=r"\(4101 bytes\)"):
        await sized.update(SCOPE, "a", {"k": "é" * 2050}, ["labels.k"])
    assert await sized.list(SCOPE) == [sized.key("a")]


async def test_times(timed: Subject) -> None:
    await timed.create(SCOPE, "a", {})
    times = await timed.times(SCOPE, "a")
    assert times is not None
    created, updated = times
    assert created == updated > 1_700_000_000_000_000_000
    await timed.update(SCOPE, "a", {"x": "1"}, ["labels.x"])
    later = await timed.times(SCOPE, "a")
    assert later is not None
    assert later[0] == created
    assert later[1] > updated


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([""], "abc"),
        (["labels.color"], "ab"),
        (["labels.color==red"], "a"),
        (["labels.color!=red"], "bc"),
        (["labels.color~=^(red|blue)$"], "ab"),
        (['labels."dotted.key/x"==yes'], "b"),
        (["labels.color==red", "labels.size==big"], "ac"),
        (["labels.color,labels.size"], ""),
        (["labels.nothing"], ""),
        (["nothing"], ""),
        (["labels"], ""),
    ],
)
async def test_filters(filterable: Subject, filters: list[str], expected: str) -> None:
    await filterable.create(SCOPE, "a", {"color": "red"})
    await filterable.create(SCOPE, "b", {"color": "blue", "dotted.key/x": "yes"})
    await filterable.create(SCOPE, "c", {"size": "big"})
    assert await filterable.list(SCOPE, filters) == [filterable.key(name) for name in expected]


async def test_filters_on_the_key(filterable: Subject) -> None:
    for name in "abc":
        await filterable.create(SCOPE, name, {"name": name})
    field, keys = filterable.key_field, {name: filterable.key(name) for name in "abc"}
    assert await filterable.list(SCOPE, [f"{field}=={keys['b']}"]) == [keys["b"]]
    both = [f"{field}=={keys['c']}", f"{field}=={keys['a']},labels.name==a"]
    assert await filterable.list(SCOPE, both) == [keys["a"], keys["c"]]
    assert await filterable.list(SCOPE, [f"{field}=={keys['a']},labels.name==b"]) == []
    assert await filterable.list(SCOPE, [f"{field}!={keys['b']}"]) == [keys["a"], keys["c"]]
    assert await filterable.list(SCOPE, [f"{field}~={keys['b'][-6:]}$"]) == [keys["b"]]
    assert await filterable.list(SCOPE, [field]) == [keys[name] for name in "abc"]


async def test_a_filter_that_cannot_be_parsed_is_named(filterable: Subject) -> None:
    with pytest.raises(
        InvalidFilterError, match=r"filters: parse error: \[labels\.]: expected field or quoted"
    ):
        await filterable.list(SCOPE, ["labels."])


async def test_writing_makes_the_namespace(filterable: Subject, database: SqliteDatabase) -> None:
    async def namespaces() -> list[str]:
        return await database.read(
            lambda connection: [row[0] for row in connection.execute("SELECT name FROM namespaces")]
        )

    await filterable.create(SCOPE, "a", {})
    assert await namespaces() == ["default"]
    await filterable.delete(SCOPE, "a")
    assert await namespaces() == ["default"]


async def test_events_follow_what_happened_and_nothing_else(subject: Subject) -> None:
    events = subject.publisher.events
    await subject.create(SCOPE, "a", {"x": "1"})
    with pytest.raises(AlreadyExistsError):
        await subject.create(SCOPE, "a", {})
    if subject.updates:
        await subject.update(SCOPE, "a", {"x": "2"}, ["labels.x"])
        with pytest.raises(InvalidArgumentError):
            await subject.update(SCOPE, "a", {}, ["bogus"])
    await subject.delete(SCOPE, "a")
    with pytest.raises(NotFoundError):
        await subject.delete(SCOPE, "a")
    expected = subject.events("a")
    order = [expected[step] for step in ("create", "update", "delete") if step in expected]
    assert [type(event) for _, event in events] == order
    home = "default.a" if not subject.filters else "default"
    assert {namespace for namespace, _ in events} <= {home}


async def test_labels_draw_the_graph_and_take_it_with_them(node: Subject, database: SqliteDatabase) -> None:
    async def edges() -> set[tuple[str, ...]]:
        query = "SELECT from_type, from_key, to_type, to_key FROM refs WHERE kind = 'label'"
        return await database.read(lambda connection: set(connection.execute(query)))

    key = node.key("a")
    await node.create(SCOPE, "a", {"containerd.io/gc.ref.content.l0": "sha256:0", "other": "x"})
    assert await edges() == {(node.node, key, "content", "sha256:0")}
    await node.update(
        SCOPE,
        "a",
        {"containerd.io/gc.ref.content.l1": "sha256:1", "containerd.io/gc.ref.snapshot.overlayfs": "s"},
        [
            "labels.containerd.io/gc.ref.content.l0",
            "labels.containerd.io/gc.ref.content.l1",
            "labels.containerd.io/gc.ref.snapshot.overlayfs",
        ],
    )
    assert await edges() == {
        (node.node, key, "content", "sha256:1"),
        (node.node, key, "snapshots/overlayfs", "s"),
    }
    await node.delete(SCOPE, "a")
    assert await edges() == set()
