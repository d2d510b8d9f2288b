"""The restart monitor: when a container is started again, and what is done for it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from containerd_hybrid.containers.api import Container
from containerd_hybrid.containers.restart import RestartMonitor, RestartServices
from containerd_hybrid.containers.restart_policy import RestartPolicy
from containerd_hybrid.errors import HybridError, InvalidArgumentError, NotFoundError, UnknownError
from containerd_hybrid.metadata.api import Namespace
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.tasks.api import CreateTask, Exit, Process, Status, Stdio

PREFIX = "containerd.io/restart."
HOUR_AGO = -3600 * 10**9


# Policies


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", RestartPolicy("always")),
        ("no", RestartPolicy("no")),
        ("always", RestartPolicy("always")),
        ("unless-stopped", RestartPolicy("unless-stopped")),
        ("on-failure", RestartPolicy("on-failure")),
        ("on-failure:3", RestartPolicy("on-failure", 3)),
    ],
)
def test_policies(text: str, policy: RestartPolicy) -> None:
    assert RestartPolicy.parse(text) == policy


@pytest.mark.parametrize("text", ["sometimes", "always:3", ":3", "on-failure:", "on-failure:x", "Always"])
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        RestartPolicy.parse(text)


@pytest.mark.parametrize(
    ("policy", "status", "labels", "wanted"),
    [
        ("always", 0, {}, True),
        ("no", 1, {}, False),
        ("on-failure", 0, {}, False),
        ("on-failure", 1, {"count": "99"}, True),
        ("on-failure:2", 1, {"count": "1"}, True),
        ("on-failure:2", 1, {"count": "2"}, False),
        ("unless-stopped", 0, {}, True),
        ("unless-stopped", 0, {"explicitly-stopped": "false"}, True),
        ("unless-stopped", 1, {"explicitly-stopped": "true"}, False),
        ("unless-stopped", 1, {"explicitly-stopped": "rubbish"}, True),
    ],
)
def test_when_a_policy_wants_a_restart(
    policy: str, status: int, labels: Mapping[str, str], wanted: bool
) -> None:
    full = {PREFIX + key: value for key, value in labels.items()}
    assert RestartPolicy.parse(policy).wants_restart(status, full) is wanted


# The monitor


class World:
    """Containers, and tasks that are what ``processes`` says. ``calls`` has what the monitor did."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.processes: dict[str, Process] = {}
        self.calls: list[str] = []
        self.created: list[CreateTask] = []
        self.fail: dict[str, HybridError] = {}
        self.hang: set[str] = set()

    def monitor(self) -> RestartMonitor:
        return RestartMonitor(RestartServices(self, Store(self), {"native": Snapshots()}, Tasks(self)))  # type: ignore[arg-type]

    async def looked(self) -> list[str]:
        monitor = self.monitor()
        await monitor.reconcile()
        await monitor.settled()
        return self.calls

    def add(
        self,
        status: Status | None = Status.STOPPED,
        *,
        id: str = "c1",
        exit_status: int = 0,
        age: int = HOUR_AGO,
        wanted: str = "running",
        spec: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        **fields: str,
    ) -> None:
        restart = {PREFIX + "status": wanted, **{PREFIX + k: v for k, v in (labels or {}).items()}}
        self.containers[id] = Container(
            id,
            labels=restart,
            spec=AnyValue("", json.dumps(spec or {}).encode()),
            created_at=time.time_ns() + age,
            **cast(Any, fields),
        )
        if status is not None:
            self.processes[id] = Process(id, "", 7, status, Stdio(), exit_status)

    async def list(self) -> Sequence[Namespace]:
        return [Namespace("ns")]


class Store:
    def __init__(self, world: World) -> None:
        self._world = world

    async def list(self, scope: Scope, filters: Sequence[str]) -> Sequence[Container]:
        assert filters == [f'labels."{PREFIX}status"']
        return list(self._world.containers.values())

    async def get(self, scope: Scope, id: str) -> Container:
        try:
            return self._world.containers[id]
        except KeyError:
            raise NotFoundError(id) from None

    async def update(self, scope: Scope, container: Container, fieldpaths: Sequence[str]) -> Container:
        assert fieldpaths == [f"labels.{PREFIX}count"]
        self._world.containers[container.id] = container
        return container


class Snapshots:
    async def mounts(self, scope: Scope, key: str) -> Sequence[Mount]:
        return [Mount("bind", f"/snapshots/{key}", ("rbind",))]


class Tasks:
    def __init__(self, world: World) -> None:
        self._world = world

    async def _call(self, name: str, id: str, *, needs_task: bool = True) -> None:
        self._world.calls.append(f"{name} {id}")
        if f"{name} {id}" in self._world.hang:
            await asyncio.Event().wait()
        if f"{name} {id}" in self._world.fail:
            raise self._world.fail[f"{name} {id}"]
        if needs_task and id not in self._world.processes:
            raise NotFoundError(f"task {id} not found")

    async def get(self, scope: Scope, id: str) -> Process:
        if id not in self._world.processes:
            raise NotFoundError(f"task {id} not found")
        return self._world.processes[id]

    async def create(self, scope: Scope, request: CreateTask) -> int:
        await self._call("create", request.container_id, needs_task=False)
        self._world.created.append(request)
        self._world.processes[request.container_id] = Process(
            request.container_id, "", 8, Status.CREATED, Stdio()
        )
        return 8

    async def start(self, scope: Scope, id: str) -> int:
        await self._call("start", id)
        self._world.processes[id] = Process(id, "", 8, Status.RUNNING, Stdio())
        return 8

    async def kill(self, scope: Scope, id: str, signal: int, *, all: bool) -> None:
        assert (signal, all) == (9, True)
        await self._call("kill", id)
        if self._world.processes[id].status is Status.STOPPED:
            raise NotFoundError("process already finished")

    async def wait(self, scope: Scope, id: str) -> Exit:
        if id not in self._world.processes:
            raise NotFoundError(f"task {id} not found")
        return Exit(7, 137, 1)

    async def delete(self, scope: Scope, id: str) -> Exit:
        await self._call("delete", id)
        del self._world.processes[id]
        return Exit(7, 137, 1)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_stopped_container_is_taken_away_and_started(world: World) -> None:
    world.add(snapshotter="native", snapshot_key="k")
    assert await world.looked() == ["kill c1", "delete c1", "create c1", "start c1"]
    assert world.created == [CreateTask("c1", (Mount("bind", "/snapshots/k", ("rbind",)),))]
    assert world.containers["c1"].labels[PREFIX + "count"] == "1"
    assert await world.looked() == ["kill c1", "delete c1", "create c1", "start c1"], "it runs now"


async def test_a_container_without_a_task_is_started(world: World) -> None:
    world.add(None, labels={"count": "4"})
    assert (await world.looked())[-2:] == ["create c1", "start c1"]
    assert world.containers["c1"].labels[PREFIX + "count"] == "5"


@pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED, Status.PAUSING])
async def test_what_runs_or_was_paused_is_left_alone(world: World, status: Status) -> None:
    world.add(status)
    assert await world.looked() == []


@pytest.mark.parametrize("status", [None, Status.CREATED])
async def test_a_client_is_given_the_time_to_start_what_it_made(world: World, status: Status | None) -> None:
    world.add(status, age=0)
    assert await world.looked() == []
    world.add(status)
    assert (await world.looked())[-1] == "start c1"


async def test_a_container_that_is_to_be_stopped(world: World) -> None:
    world.add(Status.RUNNING, wanted="stopped")
    assert await world.looked() == ["kill c1", "delete c1"]
    assert await world.looked() == ["kill c1", "delete c1"], "it is gone now"


async def test_a_policy_decides(world: World) -> None:
    world.add(id="failed", exit_status=1, labels={"policy": "on-failure"})
    world.add(id="done", exit_status=0, labels={"policy": "on-failure"})
    world.add(id="no", exit_status=1, labels={"policy": "no"})
    assert {call.split()[1] for call in await world.looked()} == {"failed"}


async def test_a_wrong_label_is_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.add(labels={"policy": "sometimes"})
    world.add(id="good")
    assert "start good" in await world.looked()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    (record,) = [record for record in errors if record.name.startswith("containerd_hybrid")]
    assert "restart policy 'sometimes' not supported" in record.message
    assert record.container == "c1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "stdio"),
    [
        ({}, Stdio(stdout="file:///log", stderr="file:///log")),
        ({"process": {"terminal": True}}, Stdio(stdout="file:///log", terminal=True)),
    ],
)
async def test_output_goes_where_the_label_says(world: World, spec: Mapping[str, Any], stdio: Stdio) -> None:
    world.add(spec=spec, labels={"loguri": "file:///log"})
    await world.looked()
    assert world.created[0].stdio == stdio


async def test_the_root_has_the_label_of_its_specification(world: World) -> None:
    world.add(spec={"linux": {"mountLabel": "a:b"}}, snapshotter="native", snapshot_key="k")
    await world.looked()
    assert world.created[0].rootfs[0].options == ("rbind", 'context="a:b"')


async def test_what_cannot_be_prepared_leaves_the_old_task(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.add(snapshotter="zfs", snapshot_key="k")
    assert await world.looked() == []
    assert "snapshotter 'zfs' of container c1 is not loaded" in caplog.text


async def test_a_task_that_does_not_start_is_taken_away(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.add()
    world.fail["start c1"] = UnknownError("no such program")
    assert (await world.looked())[-3:] == ["start c1", "kill c1", "delete c1"]
    assert "container was not restarted: no such program" in caplog.text
    assert world.containers["c1"].labels[PREFIX + "count"] == "1", "an attempt counts"


async def test_one_that_hangs_holds_up_no_other_and_is_not_begun_twice(world: World) -> None:
    world.add(id="hangs", status=None)
    world.hang.add("create hangs")
    monitor = world.monitor()
    await monitor.reconcile()
    while "create hangs" not in world.calls:
        await asyncio.sleep(0)
    world.add(id="good")
    await monitor.reconcile()
    while "start good" not in world.calls:
        await asyncio.sleep(0)
    assert world.calls.count("create hangs") == 1
    await monitor.close()
