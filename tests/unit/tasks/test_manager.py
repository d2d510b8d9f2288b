"""The task manager: what it asks shims, what it tells clients, and in whose words."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.tasks.kit import SCOPE, World

from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidFilterError,
    NotFoundError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2 as pb
from containerd_hybrid.tasks.api import CreateTask, Exit, Process, ProcessInfo, Status, Stdio

PROCESS_SPEC = AnyValue("types.containerd.io/opencontainers/runtime-spec/1/Process", b"{}")
ENDED_AT = 1_800_000_000_000_000_000


async def run(world: World, id: str = "c1", **fields: object) -> int:
    world.containers.add(id)
    pid = await world.tasks.create(SCOPE, CreateTask(id, **fields))  # type: ignore[arg-type]
    assert await world.tasks.start(SCOPE, id) == pid
    return pid


async def test_the_life_of_a_task(world: World) -> None:
    world.containers.add("c1")
    stdio = Stdio("/f/in", "/f/out", "/f/err", True)
    pid = await world.tasks.create(SCOPE, CreateTask("c1", stdio=stdio))
    created = await world.tasks.get(SCOPE, "c1")
    assert created == Process("c1", "", pid, Status.CREATED, stdio)
    assert await world.tasks.start(SCOPE, "c1") == pid
    assert (await world.tasks.get(SCOPE, "c1")).status is Status.RUNNING
    waiting = asyncio.ensure_future(world.tasks.wait(SCOPE, "c1"))
    await world.tasks.kill(SCOPE, "c1", 15)
    assert await waiting == Exit(pid, 143, ENDED_AT)
    stopped = await world.tasks.get(SCOPE, "c1")
    assert (stopped.status, stopped.exit_status, stopped.exited_at) == (Status.STOPPED, 143, ENDED_AT)
    assert await world.tasks.wait(SCOPE, "c1") == Exit(pid, 143, ENDED_AT)
    assert await world.tasks.delete(SCOPE, "c1") == Exit(pid, 143, ENDED_AT)
    assert world.shim("c1").stopped
    assert not world.bundle("c1").exists()
    assert not (world.root / "ns" / "c1").exists()
    with pytest.raises(NotFoundError, match=r"^task c1 not found$"):
        await world.tasks.get(SCOPE, "c1")
    # The shim publishes a task's events; ours would be a second telling.
    assert world.events.published == []


async def test_what_a_shim_is_asked_to_create(world: World) -> None:
    from containerd_hybrid.model import Mount

    world.containers.add("c1", runtime_options=AnyValue("containerd.runc.v1.Options", b"\x0a\x00"))
    rootfs = (Mount("overlay", "overlay", ("lowerdir=/a:/b", "upperdir=/u"), "sub"),)
    options = AnyValue("containerd.runc.v1.Options", b"\x3a\x02/r")
    await world.tasks.create(SCOPE, CreateTask("c1", rootfs, Stdio(stdout="/o"), "/cp", options))
    (request,) = (m for m in world.shim("c1").messages if isinstance(m, pb.CreateTaskRequest))
    assert (request.id, request.bundle) == ("c1", str(world.bundle("c1")))
    assert (request.stdout, request.terminal, request.checkpoint) == ("/o", False, "/cp")
    assert (request.options.type_url, request.options.value) == (options.type_url, options.value)
    (mount,) = request.rootfs
    assert (mount.type, mount.source, mount.target, list(mount.options)) == (
        *("overlay", "overlay", "sub"),
        ["lowerdir=/a:/b", "upperdir=/u"],
    )
    assert world.clients[0].metadata == {"containerd-namespace-ttrpc": "ns"}


async def test_without_options_of_its_own_a_task_has_those_of_its_container(world: World) -> None:
    own = AnyValue("containerd.runc.v1.Options", b"\x3a\x02/r")
    world.containers.add("c1", runtime_options=own)
    empty = AnyValue("containerd.runc.v1.Options", b"")
    await world.tasks.create(SCOPE, CreateTask("c1", options=empty))
    (request,) = (m for m in world.shim("c1").messages if isinstance(m, pb.CreateTaskRequest))
    assert request.options.value == own.value


async def test_runc_options_can_name_a_checkpoint(world: World) -> None:
    from containerd_hybrid.proto.types.runc.options_pb2 import Options

    world.containers.add("c1")
    value = Options(criu_image_path="/images/cp").SerializeToString()
    await world.tasks.create(SCOPE, CreateTask("c1", options=AnyValue("containerd.runc.v1.Options", value)))
    (request,) = (m for m in world.shim("c1").messages if isinstance(m, pb.CreateTaskRequest))
    assert request.checkpoint == "/images/cp"


async def test_unknown_containers_are_unknown_everywhere(world: World) -> None:
    calls = [
        world.tasks.create(SCOPE, CreateTask("nope")),
        world.tasks.start(SCOPE, "nope"),
        world.tasks.get(SCOPE, "nope"),
        world.tasks.exec(SCOPE, "nope", "e", PROCESS_SPEC, Stdio()),
        world.tasks.wait(SCOPE, "nope"),
        world.tasks.kill(SCOPE, "nope", 9),
        world.tasks.delete(SCOPE, "nope"),
        world.tasks.delete_process(SCOPE, "nope", "e"),
        world.tasks.pause(SCOPE, "nope"),
        world.tasks.resume(SCOPE, "nope"),
        world.tasks.resize_pty(SCOPE, "nope", "", 1, 1),
        world.tasks.close_io(SCOPE, "nope", "", stdin=True),
        world.tasks.pids(SCOPE, "nope"),
        world.tasks.update(SCOPE, "nope", PROCESS_SPEC, {}),
        world.tasks.checkpoint(SCOPE, "nope", "/x", None),
    ]
    for call in calls:
        with pytest.raises(NotFoundError, match=r'^container "nope" in namespace "ns": not found$'):
            await call


async def test_a_container_without_a_task(world: World) -> None:
    world.containers.add("c1")
    for call in (
        world.tasks.start(SCOPE, "c1"),
        world.tasks.kill(SCOPE, "c1", 9),
        world.tasks.delete(SCOPE, "c1"),
        world.tasks.wait(SCOPE, "c1"),
    ):
        with pytest.raises(NotFoundError, match=r"^task c1 not found$"):
            await call


async def test_a_second_task_is_refused(world: World) -> None:
    await run(world)
    with pytest.raises(AlreadyExistsError, match=r"^task c1: already exists$"):
        await world.tasks.create(SCOPE, CreateTask("c1"))


async def test_of_two_creations_at_once_one_wins(world: World) -> None:
    world.containers.add("c1")
    results = await asyncio.gather(
        *(world.tasks.create(SCOPE, CreateTask("c1")) for _ in range(5)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExistsError"] * 4 + ["int"]
    assert world.bundle("c1").exists()


async def test_a_name_can_be_used_again(world: World) -> None:
    for _ in range(3):
        world.shims.clear()
        await run(world)
        await world.tasks.kill(SCOPE, "c1", 9)
        await world.tasks.delete(SCOPE, "c1")


async def test_namespaces_do_not_see_each_other(world: World) -> None:
    await run(world)
    world.containers.add("c1", namespace="other")
    with pytest.raises(NotFoundError, match="task c1 not found"):
        await world.tasks.get(Scope("other"), "c1")
    assert await world.tasks.list(Scope("other")) == []
    assert [p.container_id for p in await world.tasks.list(SCOPE)] == ["c1"]


async def test_execs(world: World) -> None:
    await run(world)
    stdio = Stdio(stdout="/o")
    await world.tasks.exec(SCOPE, "c1", "e1", PROCESS_SPEC, stdio)
    assert (await world.tasks.get(SCOPE, "c1", "e1")).status is Status.CREATED
    with pytest.raises(AlreadyExistsError, match="id e1: already exists"):
        await world.tasks.exec(SCOPE, "c1", "e1", PROCESS_SPEC, stdio)
    pid = await world.tasks.start(SCOPE, "c1", "e1")
    assert await world.tasks.get(SCOPE, "c1", "e1") == Process("c1", "e1", pid, Status.RUNNING, stdio)
    with pytest.raises(UnknownError, match="cannot delete a running process"):
        await world.tasks.delete_process(SCOPE, "c1", "e1")
    await world.tasks.kill(SCOPE, "c1", 9, "e1", all=True)
    assert world.shim("c1").tasks["c1"]["e1"].signals == [(9, False)]
    assert await world.tasks.wait(SCOPE, "c1", "e1") == Exit(pid, 137, ENDED_AT)
    assert await world.tasks.delete_process(SCOPE, "c1", "e1") == Exit(pid, 137, ENDED_AT)
    with pytest.raises(NotFoundError, match="process does not exist e1"):
        await world.tasks.get(SCOPE, "c1", "e1")
    assert (await world.tasks.get(SCOPE, "c1")).status is Status.RUNNING


async def test_exec_ids_are_checked(world: World) -> None:
    await run(world)
    with pytest.raises(InvalidArgumentError, match=r"^exec id cannot be empty$"):
        await world.tasks.exec(SCOPE, "c1", "", PROCESS_SPEC, Stdio())
    with pytest.raises(InvalidArgumentError, match=r'^invalid exec id a/b: identifier "a/b" must match'):
        await world.tasks.exec(SCOPE, "c1", "a/b", PROCESS_SPEC, Stdio())
    with pytest.raises(InvalidArgumentError, match=r"^exec id cannot be empty$"):
        await world.tasks.delete_process(SCOPE, "c1", "")


async def test_signals_to_all(world: World) -> None:
    await run(world)
    await world.tasks.kill(SCOPE, "c1", 9, all=True)
    assert world.shim("c1").tasks["c1"][""].signals == [(9, True)]
    with pytest.raises(NotFoundError, match="process already finished"):
        await world.tasks.kill(SCOPE, "c1", 9)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_running_task_is_not_deleted(world: World, paused: bool) -> None:
    await run(world)
    if paused:
        await world.tasks.pause(SCOPE, "c1")
    with pytest.raises(
        FailedPreconditionError, match=r"^failed to delete task: cannot delete a running process"
    ):
        await world.tasks.delete(SCOPE, "c1")
    assert (await world.tasks.get(SCOPE, "c1")).pid


async def test_a_shims_own_trouble_with_deleting_is_passed_on(world: World) -> None:
    await run(world)
    await world.tasks.kill(SCOPE, "c1", 9)
    world.shim("c1").fail["Delete"] = UnknownError("device or resource busy: unknown")
    with pytest.raises(UnknownError, match=r"^failed to delete task: device or resource busy"):
        await world.tasks.delete(SCOPE, "c1")
    del world.shim("c1").fail["Delete"]
    await world.tasks.delete(SCOPE, "c1")


async def test_a_task_that_its_shim_has_lost_is_taken_away(world: World) -> None:
    await run(world)
    world.shim("c1").tasks.clear()
    with pytest.raises(NotFoundError, match=r"^failed to delete task: container not created"):
        await world.tasks.delete(SCOPE, "c1")
    assert not world.bundle("c1").exists()
    with pytest.raises(NotFoundError, match="task c1 not found"):
        await world.tasks.delete(SCOPE, "c1")


async def test_the_plain_calls(world: World) -> None:
    await run(world)
    await world.tasks.pause(SCOPE, "c1")
    assert (await world.tasks.get(SCOPE, "c1")).status is Status.PAUSED
    await world.tasks.resume(SCOPE, "c1")
    await world.tasks.resize_pty(SCOPE, "c1", "", 80, 24)
    await world.tasks.close_io(SCOPE, "c1", "", stdin=False)
    await world.tasks.close_io(SCOPE, "c1", "", stdin=True)
    resources = AnyValue("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", b"{}")
    await world.tasks.update(SCOPE, "c1", resources, {"a": "b"})
    await world.tasks.checkpoint(SCOPE, "c1", "/cp", AnyValue("containerd.runc.v1.CheckpointOptions", b""))
    said = {type(message): message for message in world.shim("c1").messages}
    assert said[pb.ResizePtyRequest] == pb.ResizePtyRequest(id="c1", width=80, height=24)
    assert said[pb.CloseIORequest] == pb.CloseIORequest(id="c1", stdin=True)
    assert world.shim("c1").calls.count("CloseIO") == 1
    update = said[pb.UpdateTaskRequest]
    assert isinstance(update, pb.UpdateTaskRequest)
    assert (update.resources.type_url, dict(update.annotations)) == (resources.type_url, {"a": "b"})
    assert getattr(said[pb.CheckpointTaskRequest], "path", "") == "/cp"
    with pytest.raises(InvalidArgumentError, match="a path is required"):
        await world.tasks.checkpoint(SCOPE, "c1", "", None)


async def test_pids(world: World) -> None:
    pid = await run(world)
    details = AnyValue("containerd.runc.v1.ProcessDetails", b"\x0a\x01e")
    assert await world.tasks.pids(SCOPE, "c1") == [ProcessInfo(pid), ProcessInfo(pid + 1, details)]


async def test_metrics_are_passed_on_as_they_are(world: World) -> None:
    for name in ("c1", "c2", "c3"):
        await run(world, name)
    world.shim("c2").fail["Stats"] = UnknownError("cgroup is gone: unknown")
    world.shim("c3").hang.add("Stats")
    (metric,) = await world.tasks.metrics(SCOPE)
    assert (metric.id, metric.data) == ("c1", AnyValue("io.containerd.cgroups.v2.Metrics", b"m"))
    assert metric.timestamp > 0
    assert [m.id for m in await world.tasks.metrics(SCOPE, ["id==c1", "namespace==nope"])] == ["c1"]
    assert await world.tasks.metrics(SCOPE, ["id==nope"]) == []
    with pytest.raises(InvalidFilterError):
        await world.tasks.metrics(SCOPE, ["id=="])


async def test_all_metrics_are_those_of_every_namespace(world: World) -> None:
    other = Scope("other")
    await run(world, "c1")
    world.containers.add("c2", namespace="other", runtime_name="io.containerd.hybrid.v2")
    await world.tasks.create(other, CreateTask("c2"))
    await run(world, "slow")
    world.shim("slow").hang.add("Stats")
    found = await world.tasks.all_metrics()
    assert {(one.namespace, one.metric.id, one.runtime) for one in found} == {
        ("ns", "c1", "io.containerd.hybrid.v2"),
        ("other", "c2", "io.containerd.hybrid.v2"),
    }


async def test_listing_survives_every_kind_of_shim(world: World) -> None:
    for name in ("good", "slow", "strange", "lost"):
        await run(world, name)
    world.shim("slow").hang.add("State")
    world.shim("strange").fail["State"] = UnknownError("boom")
    world.shim("lost").tasks.clear()
    listed = {p.container_id: p.status for p in await world.tasks.list(SCOPE)}
    assert listed == {"good": Status.RUNNING, "strange": Status.UNKNOWN}
    assert [p.container_id for p in await world.tasks.list(SCOPE, ["status==running"])] == ["good"]
    assert [p.container_id for p in await world.tasks.list(SCOPE, ["id==strange"])] == ["strange"]


async def test_a_thousand_waiters_share_one_call(world: World) -> None:
    await run(world)
    waiting = [asyncio.ensure_future(world.tasks.wait(SCOPE, "c1")) for _ in range(1000)]
    while "Wait" not in world.shim("c1").calls:
        await asyncio.sleep(0)
    assert world.shim("c1").calls.count("Wait") == 1
    for one in waiting[:500]:
        one.cancel()
    await world.tasks.kill(SCOPE, "c1", 9)
    assert {ended.status for ended in await asyncio.gather(*waiting[500:])} == {137}
    assert world.shim("c1").calls.count("Wait") == 1


async def test_waiting_for_a_process_that_is_not_there(world: World) -> None:
    await run(world)
    with pytest.raises(NotFoundError, match="process does not exist zz"):
        await world.tasks.wait(SCOPE, "c1", "zz")


async def test_a_shim_that_says_unavailable_itself_is_not_taken_for_dead(world: World) -> None:
    await run(world)
    world.shim("c1").fail["Pause"] = UnavailableError("try again")
    with pytest.raises(UnavailableError, match="the shim of task c1 does not answer: try again"):
        await world.tasks.pause(SCOPE, "c1")
    assert world.bundle("c1").exists()


async def test_closing_leaves_shims_and_bundles_and_ends_waits(world: World) -> None:
    await run(world)
    waiting = asyncio.ensure_future(world.tasks.wait(SCOPE, "c1"))
    while "Wait" not in world.shim("c1").calls:
        await asyncio.sleep(0)
    await world.tasks.close()
    with pytest.raises(UnavailableError, match="the daemon is stopping"):
        await waiting
    assert world.bundle("c1").exists()
    assert not world.shim("c1").stopped
    assert world.shim("c1").calls.count("Delete") == 0
