"""Records of what is mounted by name: who holds them, and that the collector has the rest unmounted."""

from __future__ import annotations

import pytest
from tests.unit.metadata.support import World, digest_of

from containerd_hybrid.containers.api import Container
from containerd_hybrid.errors import AlreadyExistsError, NotFoundError
from containerd_hybrid.leases.api import Lease
from containerd_hybrid.metadata.activations import MetadataActivationStore
from containerd_hybrid.metadata.api import CollectedNode
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.gc import MetadataCollector
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.mounts.api import Activation, ActiveMount
from containerd_hybrid.sandbox.api import Sandbox

NS = Scope("default")
ACTIVE = ActiveMount(Mount("ext4", "/img", ("ro", "a=b"), "sub"), "/t/1/1", 42, {"k": "v"})
SYSTEM = Mount("bind", "/t/1/1", ("rbind",), "x")
BREF = "containerd.io/gc.bref."


@pytest.fixture
def store(database: SqliteDatabase) -> MetadataActivationStore:
    return MetadataActivationStore(database)


async def active(
    store: MetadataActivationStore, name: str, labels: dict[str, str] | None = None, scope: Scope = NS
) -> int:
    number = await store.begin(scope, name, labels or {})
    await store.complete(number, [ACTIVE], [SYSTEM])
    return number


async def collected(world: World) -> set[tuple[str, str]]:
    return {(node.type, node.key) for node in (await world.collector.collect()).removed}


async def test_a_record_comes_back_whole(store: MetadataActivationStore) -> None:
    number = await active(store, "a", {"l": "1"})
    assert await store.get(NS, "a") == Activation("a", (ACTIVE,), (SYSTEM,), {"l": "1"})
    (stored,) = await store.everything()
    assert (stored.id, stored.scope, stored.name) == (number, NS, "a")
    removed = await store.remove(NS, "a")
    assert removed == stored
    assert await store.everything() == []


async def test_while_it_is_made_it_has_no_mounts(store: MetadataActivationStore) -> None:
    await store.begin(Scope("default", "l"), "a", {})
    assert await store.get(NS, "a") == Activation("a")
    (stored,) = await store.everything()
    assert stored.activation is None
    assert stored.scope.lease == "l"


async def test_a_name_is_taken_until_it_is_removed(store: MetadataActivationStore) -> None:
    first = await active(store, "a")
    with pytest.raises(AlreadyExistsError, match='mount "a": already exists'):
        await store.begin(NS, "a", {})
    await store.forget(first)
    second = await store.begin(NS, "a", {})
    # A record that was not completed is nobody's.
    third = await store.begin(NS, "a", {})
    assert first < second < third


@pytest.mark.parametrize("method", ["get", "remove"])
async def test_unknown_names(store: MetadataActivationStore, method: str) -> None:
    await active(store, "a", scope=Scope("other"))
    with pytest.raises(NotFoundError, match='mount "a": not found'):
        await getattr(store, method)(NS, "a")


async def test_completing_what_is_gone_fails(store: MetadataActivationStore) -> None:
    with pytest.raises(NotFoundError):
        await store.complete(7, [ACTIVE], [])


async def test_what_nobody_holds_is_garbage(store: MetadataActivationStore, world: World) -> None:
    await active(store, "a")
    await store.begin(NS, "in-the-making", {})
    assert await collected(world) == {("mounts", "a")}
    assert [one.name for one in await store.everything()] == ["in-the-making"]


async def test_a_lease_holds_what_was_made_under_it(store: MetadataActivationStore, world: World) -> None:
    lease: Lease = await world.leases.create(NS, "l", {"containerd.io/gc.flat": "true"})
    await active(store, "held", scope=Scope("default", "l"))
    await active(store, "other-namespace", scope=Scope("other", "l"))
    await active(store, "no-such-lease", scope=Scope("default", "gone"))
    assert await collected(world) == {("mounts", "other-namespace"), ("mounts", "no-such-lease")}
    assert await world.collector.why("default", "mounts", "held") == [
        CollectedNode("default", "leases", lease.id),
        CollectedNode("default", "mounts", "held"),
    ]
    # It is no resource of the lease that a client sees.
    assert await world.leases.list_resources(NS, "l") == []
    await world.leases.delete(NS, "l")
    assert await collected(world) == {("mounts", "held")}


async def test_labels_tie_it_to_what_it_is_for(store: MetadataActivationStore, world: World) -> None:
    await world.containers.create(NS, Container("c", runtime_name="r", spec=AnyValue("s", b"{}")))
    await active(store, "c-root", {f"{BREF}container": "c"})
    await active(store, "c-more", {f"{BREF}container.x": "c"})
    await active(store, "d-root", {f"{BREF}container": "d"})
    await active(store, "of-content", {f"{BREF}content": str(digest_of("nothing"))})
    assert await collected(world) == {("mounts", "d-root"), ("mounts", "of-content")}
    assert (await world.collector.why("default", "mounts", "c-root"))[0].type == "containers"
    await world.containers.delete(NS, "c")
    assert await collected(world) == {("mounts", "c-root"), ("mounts", "c-more")}
    assert await world.rows("SELECT * FROM refs WHERE to_type = 'mounts'") == []


async def test_other_things_hold_it_by_their_labels(store: MetadataActivationStore, world: World) -> None:
    await world.sandboxes.create(
        NS, Sandbox("s", runtime_name="r", labels={"containerd.io/gc.ref.mount": "held"})
    )
    await active(store, "held")
    assert await collected(world) == set()
    await world.sandboxes.delete(NS, "s")
    assert await collected(world) == {("mounts", "held")}


async def test_its_own_labels_hold_nothing(store: MetadataActivationStore, world: World) -> None:
    await active(store, "a", {"containerd.io/gc.ref.image": "i"})
    assert await world.rows("SELECT * FROM refs") == []


class Unmounting:
    def __init__(self) -> None:
        self.cleanups = 0

    async def cleanup(self) -> None:
        self.cleanups += 1


async def test_a_collection_has_mounts_taken_away(store: MetadataActivationStore, world: World) -> None:
    mounts = Unmounting()
    collector = MetadataCollector(
        world.database,
        world.recorder,
        world.blobs,  # type: ignore[arg-type]
        world.locks,
        {},
        mounts,  # type: ignore[arg-type]
    )
    await active(store, "a")
    report = await collector.collect()
    assert [node.key for node in report.removed] == ["a"]
    assert mounts.cleanups == 1
    # Also when there was no garbage: what could not be unmounted the last time has no record any more.
    await collector.collect()
    assert mounts.cleanups == 2
