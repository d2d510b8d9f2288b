"""The task manager with real shims: ours, and containerd's as Debian has it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.tasks.real import PATIENT, RealWorld, can_run_containers, exec_spec

from containerd_hybrid import _programs
from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HybridError,
    NotFoundError,
)
from containerd_hybrid.events.encode import parse
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.tasks.api import CreateTask, Status, Stdio
from containerd_hybrid.testing.leaks import LeakCheck

PROBLEM = can_run_containers()
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "none")]


def go_shim() -> Path:
    found = shutil.which("containerd-shim-runc-v2")
    if found is None:
        pytest.skip("containerd-shim-runc-v2 is not installed (apt-get install containerd)")
    return Path(found)


def own_shim() -> Path:
    try:
        return _programs.shim_path()
    except NotFoundError as error:
        pytest.skip(error.message)


@pytest.fixture(params=[own_shim, go_shim], ids=["own", "go"])
async def world(
    request: pytest.FixtureRequest, leak_check: LeakCheck, short_folder: Path, token: str
) -> AsyncIterator[RealWorld]:
    async with RealWorld(short_folder, token, request.param()).serving() as world:
        yield world


def output(folder: Path, name: str) -> Stdio:
    # Go's shim of 1.6 crashes on a file without one for errors.
    return Stdio(stdout=f"file://{folder / name}", stderr=f"file://{folder / name}")


async def test_from_create_to_delete(world: RealWorld) -> None:
    stdio = output(world.folder, "out")
    pid = await world.create("c1", "sh", "-c", "echo hello; exit 7", stdio=stdio)
    created = await world.tasks.get(world.scope, "c1")
    assert (created.pid, created.status, created.stdio) == (pid, Status.CREATED, stdio)
    assert await world.tasks.start(world.scope, "c1") == pid
    ended = await world.tasks.wait(world.scope, "c1")
    assert (ended.pid, ended.status) == (pid, 7)
    assert ended.exited_at > 0
    stopped = await world.tasks.get(world.scope, "c1")
    assert (stopped.status, stopped.exit_status, stopped.exited_at) == (Status.STOPPED, 7, ended.exited_at)
    assert await world.tasks.delete(world.scope, "c1") == ended
    assert world.nothing_is_left("c1")
    assert (world.folder / "out").read_text() == "hello\n"
    with pytest.raises(NotFoundError, match="task c1 not found"):
        await world.tasks.delete(world.scope, "c1")


async def test_its_events_come_from_the_shim_and_come_once(world: RealWorld) -> None:
    await world.run("c1", "true")
    await world.tasks.wait(world.scope, "c1")
    await world.tasks.delete(world.scope, "c1")
    topics = await world.topics("c1", "/tasks/delete")
    await asyncio.sleep(0.2)
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert {envelope.namespace for envelope in world.seen} == {world.scope.namespace}


async def test_signals(world: RealWorld) -> None:
    script = "trap 'exit 3' TERM; echo ready; sleep 1000 & wait"
    await world.run("c1", "sh", "-c", script, stdio=output(world.folder, "out"))
    # Until then a process 1 has no handler, and does not get the signal at all.
    while (world.folder / "out").read_text() != "ready\n":
        await asyncio.sleep(0.01)
    await world.tasks.kill(world.scope, "c1", 15)
    assert (await world.tasks.wait(world.scope, "c1")).status == 3
    with pytest.raises(NotFoundError):
        await world.tasks.kill(world.scope, "c1", 15)
    await world.tasks.delete(world.scope, "c1")


async def test_a_running_task_is_not_deleted(world: RealWorld) -> None:
    await world.run("c1", "sleep", "1000")
    with pytest.raises(FailedPreconditionError, match="failed to delete task: "):
        await world.tasks.delete(world.scope, "c1")
    with pytest.raises(AlreadyExistsError, match="task c1: already exists"):
        await world.tasks.create(world.scope, CreateTask("c1", world.mounts()))
    await world.tasks.kill(world.scope, "c1", 9)
    assert (await world.tasks.wait(world.scope, "c1")).status == 137
    await world.tasks.delete(world.scope, "c1")


async def test_execs(world: RealWorld) -> None:
    await world.run("c1", "sleep", "1000")
    await world.tasks.exec(
        world.scope, "c1", "e1", exec_spec("sh", "-c", "echo in; exit 5"), output(world.folder, "e1")
    )
    pid = await world.tasks.start(world.scope, "c1", "e1")
    ended = await world.tasks.wait(world.scope, "c1", "e1")
    assert (ended.pid, ended.status) == (pid, 5)
    process = await world.tasks.get(world.scope, "c1", "e1")
    assert (process.exec_id, process.status, process.exit_status) == ("e1", Status.STOPPED, 5)
    assert await world.tasks.delete_process(world.scope, "c1", "e1") == ended
    with pytest.raises(NotFoundError):
        await world.tasks.get(world.scope, "c1", "e1")
    with pytest.raises(NotFoundError):
        await world.tasks.start(world.scope, "c1", "nope")
    assert (world.folder / "e1").read_text() == "in\n"
    await world.tasks.exec(world.scope, "c1", "e2", exec_spec("sleep", "1000"), Stdio())
    with pytest.raises(AlreadyExistsError):
        await world.tasks.exec(world.scope, "c1", "e2", exec_spec("true"), Stdio())
    await world.tasks.start(world.scope, "c1", "e2")
    assert len(await world.tasks.pids(world.scope, "c1")) == 2
    await world.tasks.kill(world.scope, "c1", 9, "e2")
    assert (await world.tasks.wait(world.scope, "c1", "e2")).status == 137


async def test_an_exec_of_nothing_fails_and_the_task_goes_on(world: RealWorld) -> None:
    await world.run("c1", "sleep", "1000")
    await world.tasks.exec(world.scope, "c1", "e1", exec_spec("/no/such"), Stdio())
    with pytest.raises(HybridError, match="no such file"):
        await world.tasks.start(world.scope, "c1", "e1")
    assert (await world.tasks.get(world.scope, "c1")).status is Status.RUNNING


async def test_pause_and_resume(world: RealWorld) -> None:
    await world.run("c1", "sleep", "1000")
    await world.tasks.pause(world.scope, "c1")
    assert (await world.tasks.get(world.scope, "c1")).status is Status.PAUSED
    await world.tasks.resume(world.scope, "c1")
    assert (await world.tasks.get(world.scope, "c1")).status is Status.RUNNING


async def test_metrics_and_limits(world: RealWorld) -> None:
    await world.run("c1", "sleep", "1000")
    (metric,) = await world.tasks.metrics(world.scope)
    assert metric.id == "c1"
    assert metric.data.type_url in ("io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics")
    assert metric.data.value
    resources = AnyValue(
        "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", b'{"pids":{"limit":77}}'
    )
    await world.tasks.update(world.scope, "c1", resources, {})


async def test_a_container_that_runs_out_of_memory_is_told_before_it_ends(world: RealWorld) -> None:
    if world.program.name != "containerd-shim-hybrid-v2":
        pytest.skip("Go's shim may tell of it later than of the exit")
    world.add("c1", "/bin/busybox", "tail", "/dev/zero")
    key = world.scope.namespace, "c1"
    record = world.containers.records[key]
    assert record.spec is not None
    spec = json.loads(record.spec.value)
    spec["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    spec["process"]["oomScoreAdj"] = 1000
    changed = AnyValue(record.spec.type_url, json.dumps(spec).encode())
    world.containers.records[key] = replace(record, spec=changed)
    await world.tasks.create(world.scope, CreateTask("c1", world.mounts()))
    await world.tasks.start(world.scope, "c1")
    assert (await world.tasks.wait(world.scope, "c1")).status == 137
    await world.tasks.delete(world.scope, "c1")
    topics = await world.topics("c1", "/tasks/delete")
    # The kernel may tell of one kill more than once.
    assert list(dict.fromkeys(topics)) == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/oom",
        "/tasks/exit",
        "/tasks/delete",
    ]


async def test_standard_input_to_its_end(world: RealWorld) -> None:
    fifo = world.folder / "in"
    os.mkfifo(fifo)
    file = f"file://{world.folder / 'out'}"
    stdio = Stdio(stdin=str(fifo), stdout=file, stderr=file)

    async def feed() -> None:
        await asyncio.to_thread(fifo.write_bytes, b"some text\n")

    creating = asyncio.create_task(world.create("c1", "cat", stdio=stdio))
    await asyncio.gather(creating, feed())
    await world.tasks.start(world.scope, "c1")
    await world.tasks.close_io(world.scope, "c1", "", stdin=True)
    assert (await world.tasks.wait(world.scope, "c1")).status == 0
    await world.tasks.delete(world.scope, "c1")
    assert (world.folder / "out").read_text() == "some text\n"


async def test_a_terminal_is_resized(world: RealWorld) -> None:
    fifo = world.folder / "tty"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    stdio = Stdio(stdout=str(fifo), terminal=True)
    script = "while ! stty size | { read a b; [ $a = 33 ]; }; do sleep 0.05; done; stty size"
    await world.run("c1", "sh", "-c", script, stdio=stdio)
    await world.tasks.resize_pty(world.scope, "c1", "", 111, 33)
    assert (await world.tasks.wait(world.scope, "c1")).status == 0
    await world.tasks.delete(world.scope, "c1")
    assert b"33 111" in os.read(reader, 4096)
    os.close(reader)


async def test_what_cannot_run_leaves_nothing(world: RealWorld) -> None:
    with pytest.raises(HybridError) as raised:
        await world.create("c1", "/no/such/program")
    assert raised.value.message.startswith("failed to create shim task: ")
    assert "no such file or directory" in raised.value.message
    assert world.nothing_is_left("c1")
    await world.run("c1", "true")
    await world.tasks.wait(world.scope, "c1")
    await world.tasks.delete(world.scope, "c1")


async def test_a_root_file_system_that_cannot_be_mounted_leaves_nothing(world: RealWorld) -> None:
    from containerd_hybrid.model import Mount

    world.add("c1", "true")
    with pytest.raises(HybridError, match="failed to create shim task: "):
        await world.tasks.create(world.scope, CreateTask("c1", (Mount("bind", "/no/such", ("rbind",)),)))
    assert world.nothing_is_left("c1")


async def test_a_killed_shim(world: RealWorld) -> None:
    pid = await world.run("c1", "sleep", "1000")
    waiting = asyncio.create_task(world.tasks.wait(world.scope, "c1"))
    # What it has published is told; what is still in it goes with it.
    await world.topics("c1", "/tasks/start")
    os.kill(await asyncio.to_thread(world.shim_pid, "c1"), 9)
    ended = await waiting
    assert (ended.pid, ended.status) == (pid, 137)
    topics = await world.topics("c1", "/tasks/delete")
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    exit_event = parse(next(e.event for e in world.seen if e.topic == "/tasks/exit"))
    assert getattr(exit_event, "exit_status", 0) == 137
    assert world.nothing_is_left("c1")
    with pytest.raises(NotFoundError, match="task c1 not found"):
        await world.tasks.get(world.scope, "c1")
    while Path(f"/proc/{pid}").exists():
        await asyncio.sleep(0.01)
    await world.run("c1", "sleep", "1000")


async def test_a_stopped_shim_keeps_nobody_for_long(world: RealWorld) -> None:
    await world.run("c1", "sleep", "1000")
    shim = await asyncio.to_thread(world.shim_pid, "c1")
    os.kill(shim, 19)
    # Its threads stop one after the other.
    tasks = list(Path(f"/proc/{shim}/task").iterdir())
    while any(map(runs, tasks)):
        await asyncio.sleep(0.01)
    try:
        world.tasks._timeouts = replace(PATIENT, state=1.0)
        assert await world.tasks.list(world.scope) == []
    finally:
        os.kill(shim, 18)
        world.tasks._timeouts = PATIENT
    assert len(await world.tasks.list(world.scope)) == 1


def runs(task: Path) -> bool:
    """Whether a thread is there and not stopped."""
    try:
        return ") T " not in (task / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_second_daemon_goes_on_with_everything(world: RealWorld) -> None:
    await world.run("run", "sleep", "1000")
    await world.run("end", "sh", "-c", "exit 9")
    await world.run("dead", "sleep", "1000")
    await world.create("new", "true")
    await world.tasks.wait(world.scope, "end")
    shim = await asyncio.to_thread(world.shim_pid, "dead")
    await world.tasks.close()
    os.kill(shim, 9)
    report = await world.restart()
    namespace = world.scope.namespace
    assert report.adopted == (f"{namespace}/end", f"{namespace}/new", f"{namespace}/run")
    assert report.cleaned == (f"{namespace}/dead",)
    assert report.failed == {}
    assert world.nothing_is_left("dead")
    states = {p.container_id: p.status for p in await world.tasks.list(world.scope)}
    assert states == {"run": Status.RUNNING, "end": Status.STOPPED, "new": Status.CREATED}
    assert (await world.tasks.wait(world.scope, "end")).status == 9
    assert (await world.tasks.delete(world.scope, "end")).status == 9
    await world.tasks.start(world.scope, "new")
    assert (await world.tasks.wait(world.scope, "new")).status == 0
    await world.tasks.exec(world.scope, "run", "e", exec_spec("sh", "-c", "exit 4"), Stdio())
    await world.tasks.start(world.scope, "run", "e")
    assert (await world.tasks.wait(world.scope, "run", "e")).status == 4
    await world.tasks.kill(world.scope, "run", 9)
    assert (await world.tasks.wait(world.scope, "run")).status == 137


async def test_twenty_at_once(world: RealWorld) -> None:
    async def one(id: str) -> int:
        await world.run(id, "sh", "-c", "exit 3")
        status = (await world.tasks.wait(world.scope, id)).status
        await world.tasks.delete(world.scope, id)
        return status

    ids = [f"c{number}" for number in range(20)]
    assert await asyncio.gather(*map(one, ids)) == [3] * 20
    assert all(world.nothing_is_left(name) for name in ids)
