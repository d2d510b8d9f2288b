"""When a shim dies: clean-up by its program, events in its name, answers to whoever waits."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.unit.tasks.kit import DELETED_AT, SCOPE, World
from tests.unit.tasks.test_manager import PROCESS_SPEC, run

from containerd_hybrid.errors import AlreadyExistsError, NotFoundError, UnavailableError
from containerd_hybrid.events.api import Envelope, TaskDelete, TaskExit
from containerd_hybrid.events.encode import encode
from containerd_hybrid.tasks import launcher
from containerd_hybrid.tasks.api import CreateTask, Exit, Stdio

KILLED = Exit(77, 137, DELETED_AT)


async def gone(world: World, id: str = "c1") -> None:
    """Wait until a task has disappeared."""
    while world.launcher.table.find(SCOPE.namespace, id) is not None or world.bundle(id).exists():
        await asyncio.sleep(0.005)


async def asked(world: World, method: str) -> None:
    """Wait until the shim has been asked."""
    while method not in world.shim("c1").calls:
        await asyncio.sleep(0.005)


async def test_what_is_left_is_cleaned_and_told(world: World) -> None:
    await run(world)
    world.shim("c1").die()
    await gone(world)
    assert world.mark("delete.args").split() == [
        *(
            "-namespace",
            "ns",
            "-address",
            "/run/x.sock",
            "-publish-binary",
            "/usr/bin/publisher",
            "-id",
            "c1",
        ),
        *("-bundle", str(world.bundle("c1")), "delete"),
    ]
    assert world.mark("delete.cwd").strip() == str(world.bundle("c1"))
    assert world.events.published == [
        ("ns", TaskExit("c1", "c1", 77, 137, DELETED_AT)),
        ("ns", TaskDelete("c1", 77, 137, DELETED_AT)),
    ]
    assert world.bundle("c1") / "rootfs" in world.mounter.unmounted
    assert not (world.root / "ns" / "c1").exists()
    with pytest.raises(NotFoundError, match=r"^task c1 not found$"):
        await world.tasks.get(SCOPE, "c1")
    world.shims.clear()
    await world.tasks.create(SCOPE, CreateTask("c1"))


async def test_who_waits_for_the_task_gets_its_end(world: World) -> None:
    await run(world)
    waiting = [asyncio.ensure_future(world.tasks.wait(SCOPE, "c1")) for _ in range(3)]
    await asyncio.sleep(0)
    await asked(world, "Wait")
    world.shim("c1").die()
    assert await asyncio.gather(*waiting) == [KILLED] * 3


async def test_who_waits_for_an_exec_is_told_that_nobody_knows(world: World) -> None:
    await run(world)
    await world.tasks.exec(SCOPE, "c1", "e1", PROCESS_SPEC, Stdio())
    await world.tasks.start(SCOPE, "c1", "e1")
    waiting = asyncio.ensure_future(world.tasks.wait(SCOPE, "c1", "e1"))
    await asked(world, "Wait")
    world.shim("c1").die()
    with pytest.raises(UnavailableError, match="died before process e1 was seen to end"):
        await waiting


async def test_who_deletes_meanwhile_gets_the_end(world: World) -> None:
    await run(world)
    await world.tasks.kill(SCOPE, "c1", 9)
    world.shim("c1").hang.add("Delete")
    deleting = asyncio.ensure_future(world.tasks.delete(SCOPE, "c1"))
    await asked(world, "Delete")
    world.shim("c1").die()
    assert await deleting == KILLED


async def test_other_calls_meanwhile(world: World) -> None:
    go = world.marks / "go"
    world.write_program(delete=f"while [ ! -e {go} ]; do sleep 0.01; done; exit 1")
    await run(world)
    world.shim("c1").die()
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="the shim of task c1 does not answer"):
        await world.tasks.pause(SCOPE, "c1")
    with pytest.raises(NotFoundError, match="task c1 not found"):
        await world.tasks.get(SCOPE, "c1")
    assert await world.tasks.list(SCOPE) == []
    with pytest.raises(AlreadyExistsError):
        await world.tasks.create(SCOPE, CreateTask("c1"))
    go.touch()
    await gone(world)


@pytest.mark.parametrize("delete", ["echo 'no such container' >&2; exit 1", "printf rubbish", "sleep 100"])
async def test_when_the_program_cannot_clean_up_the_end_is_unknown_but_told(
    world: World, delete: str
) -> None:
    world.launcher.programs.settings = type(world.launcher.programs.settings)(
        **{
            name: getattr(world.launcher.programs.settings, name)
            for name in ("address", "ttrpc_address", "publish_binary", "env")
        },
        timeouts=type(world.timeouts)(cleanup=0.3),
    )
    world.write_program(delete=delete)
    await run(world)
    before = time.time_ns()
    world.shim("c1").die()
    await gone(world)
    (_, exited), (_, deleted) = world.events.published
    assert isinstance(exited, TaskExit)
    assert isinstance(deleted, TaskDelete)
    assert (exited.pid, exited.exit_status) == (0, 255)
    assert exited.exited_at == deleted.exited_at > before


async def test_a_proper_end_is_not_a_death(world: World) -> None:
    await run(world)
    await world.tasks.kill(SCOPE, "c1", 9)
    await world.tasks.delete(SCOPE, "c1")
    await asyncio.sleep(0.05)
    assert world.events.published == []
    assert not (world.marks / "delete.args").exists()


async def test_a_foreign_programs_delete_action_is_part_of_every_end(world: World) -> None:
    program = world.write_program(path=world.folder / "containerd-shim-other-v1")
    world.containers.add("c1", runtime_name=str(program))
    await world.tasks.create(SCOPE, CreateTask("c1"))
    await world.tasks.delete(SCOPE, "c1")
    assert world.mark("delete.args").endswith("delete\n")


async def test_a_foreign_shim_is_given_the_time_to_tell_of_the_delete(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_FAREWELL", 600.0)
    program = world.write_program(path=world.folder / "containerd-shim-runc-v2")
    await run(world, runtime_path=str(program))
    await world.tasks.kill(SCOPE, "c1", 9)
    deleting = asyncio.ensure_future(world.tasks.delete(SCOPE, "c1"))
    while "Delete" not in world.shim("c1").calls:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    assert "Shutdown" not in world.shim("c1").calls
    world.events.forward(Envelope(1, "ns", "/tasks/delete", encode(TaskDelete("other", 1, 0, 1))))
    await asyncio.sleep(0.02)
    assert "Shutdown" not in world.shim("c1").calls
    world.events.forward(Envelope(1, "ns", "/tasks/delete", encode(TaskDelete("c1", 1, 0, 1))))
    assert (await deleting).status == 137
    assert world.shim("c1").stopped
    # The exchange has forgotten the one who listened.
    assert world.events.subscriptions == 0


async def test_a_shim_that_does_not_shut_down_does_not_keep_the_caller(world: World) -> None:
    await run(world)
    await world.tasks.kill(SCOPE, "c1", 9)
    world.shim("c1").hang.add("Shutdown")
    assert (await world.tasks.delete(SCOPE, "c1")).status == 137
    assert not world.bundle("c1").exists()


async def test_each_task_of_a_group_gets_its_own_end(world: World) -> None:
    world.write_program(start='printf "unix:///fake/group"')
    for name in ("c1", "c2"):
        await run(world, name)
    world.shim("group").die()
    await gone(world, "c1")
    await gone(world, "c2")
    exits = {event.container_id for _, event in world.events.published if isinstance(event, TaskExit)}
    assert exits == {"c1", "c2"}


async def test_a_task_of_a_group_leaves_the_others_alone(world: World) -> None:
    world.write_program(start='printf "unix:///fake/group"')
    for name in ("c1", "c2"):
        await run(world, name)
    await world.tasks.kill(SCOPE, "c1", 9)
    await world.tasks.delete(SCOPE, "c1")
    assert not world.shim("group").gone.is_set()
    assert [p.container_id for p in await world.tasks.list(SCOPE)] == ["c2"]
    await world.tasks.kill(SCOPE, "c2", 9)
    await world.tasks.delete(SCOPE, "c2")
    assert world.shim("group").stopped
