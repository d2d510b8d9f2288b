"""Root file systems with mounts that a manager has to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from tests.unit.tasks.kit import RUNTIME, SCOPE, World

from containerd_hybrid.errors import AlreadyExistsError, NotFoundError, UnavailableError, UnknownError
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.mounts.api import Activation
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2
from containerd_hybrid.proto.types import introspection_pb2
from containerd_hybrid.tasks.api import CreateTask
from containerd_hybrid.tasks.manager import ShimTaskManager

FORMATTED = (Mount("bind", "/lower"), Mount("format/overlay", "overlay", ("lowerdir={{ mount 0 }}",)))
PLAIN = (Mount("overlay", "overlay", ("lowerdir=/a:/b",)),)
LEFT = Mount("overlay", "overlay", ("lowerdir=/t/1/1",))


class FakeMounts:
    """A mount manager in memory: formatted mounts are its own unless the caller takes them."""

    def __init__(self) -> None:
        self.active: dict[str, Mapping[str, str]] = {}
        self.allowed: Sequence[str] = ()
        self.fail: Exception | None = None

    def handles(self, mounts: Sequence[Mount], allowed: Sequence[str] = ()) -> bool:
        return any("/" in mount.type for mount in mounts) and "format/*" not in allowed

    async def activate(
        self,
        scope: Scope,
        name: str,
        mounts: Sequence[Mount],
        *,
        labels: Mapping[str, str] | None = None,
        temporary: bool = False,
        allowed: Sequence[str] = (),
    ) -> Activation:
        if self.fail is not None:
            raise self.fail
        if name in self.active:
            raise AlreadyExistsError(name)
        self.active[name] = labels or {}
        return Activation(name, (), (LEFT,))

    async def info(self, scope: Scope, name: str) -> Activation:
        return Activation(name, (), (LEFT,))

    async def deactivate(self, scope: Scope, name: str) -> None:
        if name not in self.active:
            raise NotFoundError(name)
        del self.active[name]
        if self.fail is not None:
            raise self.fail


@pytest.fixture
def mounts(world: World) -> FakeMounts:
    mounts = FakeMounts()
    world.tasks = ShimTaskManager(world.containers, world.runtimes, world.launcher, mounts)  # type: ignore[arg-type]
    world.containers.add("c1")
    return mounts


def given(world: World) -> list[tuple[str, list[str]]]:
    """The root file system's mounts that the shim was given."""
    create = next(m for m in world.shim("c1").messages if isinstance(m, shim_pb2.CreateTaskRequest))
    return [(mount.type, list(mount.options)) for mount in create.rootfs]


async def test_the_shim_is_given_what_is_left(world: World, mounts: FakeMounts) -> None:
    await world.tasks.create(SCOPE, CreateTask("c1", FORMATTED))
    assert mounts.active == {"c1": {"containerd.io/gc.bref.container": "c1"}}
    assert given(world) == [("overlay", ["lowerdir=/t/1/1"])]
    await world.tasks.delete(SCOPE, "c1")
    assert mounts.active == {}


async def test_plain_mounts_are_the_shims(world: World, mounts: FakeMounts) -> None:
    await world.tasks.create(SCOPE, CreateTask("c1", PLAIN))
    assert mounts.active == {}
    assert given(world) == [("overlay", ["lowerdir=/a:/b"])]


async def test_mounts_end_with_a_task_that_cannot_be_made(world: World, mounts: FakeMounts) -> None:
    world.shim("c1").fail["Create"] = UnknownError("no")
    with pytest.raises(UnknownError, match="no"):
        await world.tasks.create(SCOPE, CreateTask("c1", FORMATTED))
    assert mounts.active == {}
    world.write_program(start="exit 1")
    with pytest.raises(UnknownError):
        await world.tasks.create(SCOPE, CreateTask("c1", FORMATTED))
    assert mounts.active == {}


async def test_a_mount_that_fails_leaves_no_task(world: World, mounts: FakeMounts) -> None:
    mounts.fail = UnavailableError("device away")
    with pytest.raises(UnavailableError, match="device away"):
        await world.tasks.create(SCOPE, CreateTask("c1", FORMATTED))
    assert not world.bundle("c1").exists()
    mounts.fail = None
    await world.tasks.create(SCOPE, CreateTask("c1", FORMATTED))


async def test_mounts_of_a_lost_task_are_used_again(world: World, mounts: FakeMounts) -> None:
    mounts.active["c1"] = {}
    await world.tasks.create(SCOPE, CreateTask("c1", FORMATTED))
    assert given(world) == [("overlay", ["lowerdir=/t/1/1"])]


async def test_a_task_is_deleted_though_its_mounts_stay(world: World, mounts: FakeMounts) -> None:
    await world.tasks.create(SCOPE, CreateTask("c1", FORMATTED))
    mounts.fail = UnavailableError("busy")
    await world.tasks.delete(SCOPE, "c1")
    assert not world.bundle("c1").exists()


async def test_a_runtime_may_take_the_mounts_itself(world: World, mounts: FakeMounts) -> None:
    info = introspection_pb2.RuntimeInfo(
        name="mine", annotations={"containerd.io/runtime-allow-mounts": "mkdir/*,format/*"}
    )
    (world.marks / "info").write_bytes(info.SerializeToString())
    program = world.write_program(path=world.folder / "containerd-shim-mine-v1")
    text = program.read_text().replace("esac", f"-info) cat {world.marks}/info ;;\nesac")
    program.write_text(text.replace('"$MARKS', f'"{world.marks}'))
    await world.tasks.create(SCOPE, CreateTask("c1", FORMATTED, runtime_path=str(program)))
    assert mounts.active == {}
    assert [kind for kind, _ in given(world)] == ["bind", "format/overlay"]


async def test_a_runtime_that_says_nothing_takes_none(world: World, mounts: FakeMounts) -> None:
    program = world.write_program(path=world.folder / "containerd-shim-mine-v1")
    await world.tasks.create(SCOPE, CreateTask("c1", FORMATTED, runtime_path=str(program)))
    assert set(mounts.active) == {"c1"}
    assert RUNTIME not in str(program)
