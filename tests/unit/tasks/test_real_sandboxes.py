"""The sandbox controller with our own shim: real namespaces, real containers in them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.tasks.real import RealWorld, can_run_containers, oci_spec

from containerd_hybrid import _programs
from containerd_hybrid.errors import AlreadyExistsError, NotFoundError
from containerd_hybrid.model import Mount
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.cgroups.v1 import metrics_pb2 as v1
from containerd_hybrid.proto.cri.v1 import sandbox_pb2 as cri
from containerd_hybrid.sandbox.api import CreateSandbox, Sandbox
from containerd_hybrid.tasks.api import CreateTask, Stdio
from containerd_hybrid.tasks.bundle import SPEC_TYPE, Bundles
from containerd_hybrid.tasks.runtimes import HYBRID, Runtimes
from containerd_hybrid.tasks.sandboxes import ShimSandboxController
from containerd_hybrid.testing.leaks import LeakCheck

PROBLEM = can_run_containers()
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "none")]


class Pod:
    """A world of tasks, and the controller of sandboxes beside it."""

    def __init__(self, world: RealWorld) -> None:
        self.world = world
        self.scope = world.scope
        self.state = world.folder / "sandboxes"
        self.controller = self._controller()

    def _controller(self) -> ShimSandboxController:
        bundles = Bundles(self.world.folder / "sandbox-root", self.state)
        bundles.prepare()
        return ShimSandboxController(Runtimes(lambda: self.world.program), self.world.launcher, bundles)

    async def restart(self) -> None:
        """A daemon that is killed and started again: first its sandboxes, then the tasks in them."""
        await self.controller.close()
        await self.world.tasks.close()
        self.world._wire()
        self.controller = self._controller()
        name = f"{self.scope.namespace}/"
        assert (await self.controller.adopt()).adopted == (f"{name}pod",)
        assert (await self.world.adoption.run()).adopted == (f"{name}c1",)

    def bundle(self, id: str) -> Path:
        return self.state / self.scope.namespace / id

    async def start(self, id: str = "pod", request: CreateSandbox | None = None) -> int:
        sandbox = Sandbox(id, runtime_name=HYBRID)
        await self.controller.create(self.scope, sandbox, request or CreateSandbox())
        return (await self.controller.start(self.scope, id)).pid

    async def member(self, id: str, pause: int, *args: str, joins: tuple[str, ...] = ("ipc", "uts")) -> Path:
        """Run a container of the pod to its end; where its output is."""
        out = self.world.folder / f"{id}.out"
        self.world.add(id, *args, sandbox="pod")
        spec = oci_spec(f"/{self.scope.namespace}-{id}", list(args), terminal=False)
        for namespace in spec["linux"]["namespaces"]:
            if namespace["type"] in joins:
                namespace["path"] = f"/proc/{pause}/ns/{namespace['type']}"
        if "uts" in joins:
            del spec["hostname"]
        records, key = self.world.containers.records, (self.scope.namespace, id)
        records[key] = replace(records[key], spec=AnyValue(SPEC_TYPE, json.dumps(spec).encode()))
        stdio = Stdio(stdout=f"file://{out}", stderr=f"file://{out}")
        await self.world.tasks.create(self.scope, CreateTask(id, self.world.mounts(), stdio))
        await self.world.tasks.start(self.scope, id)
        return out

    async def run(self, id: str, pause: int, *args: str) -> str:
        out = await self.member(id, pause, *args)
        await self.world.tasks.wait(self.scope, id)
        await self.world.tasks.delete(self.scope, id)
        return out.read_text()


@pytest.fixture
async def pod(leak_check: LeakCheck, short_folder: Path, token: str) -> AsyncIterator[Pod]:
    try:
        program = _programs.shim_path()
    except NotFoundError as error:
        pytest.skip(error.message)
    async with RealWorld(short_folder, token, program).serving() as world:
        yield Pod(world)


def namespaces(pid: int) -> dict[str, str]:
    folder = Path(f"/proc/{pid}/ns")
    return {kind: str((folder / kind).readlink()) for kind in ("ipc", "uts", "pid", "net")}


async def test_from_create_to_shutdown_with_containers_inside(pod: Pod) -> None:
    config = cri.PodSandboxConfig(hostname="a-pod")
    options = AnyValue("runtime.v1.PodSandboxConfig", config.SerializeToString())
    pause = await pod.start(request=CreateSandbox(options=options))
    own, host = namespaces(pause), namespaces(os.getpid())
    assert {kind for kind in own if own[kind] != host[kind]} == {"ipc", "uts", "pid"}
    with pytest.raises(AlreadyExistsError):
        await pod.start()

    # Two containers after each other see what the sandbox has; the shim is one.
    assert await pod.run("c1", pause, "cat", "/proc/sys/kernel/hostname") == "a-pod\n"
    out = await pod.member("c2", pause, "sh", "-c", "echo here; exec sleep 1000")
    while out.read_text() != "here\n":
        await asyncio.sleep(0.01)
    init = (await pod.world.tasks.get(pod.scope, "c2")).pid
    assert {kind for kind, name in namespaces(init).items() if name == own[kind]} == {"ipc", "uts", "net"}
    assert not (pod.world.bundle("c2") / "shim.pid").exists()

    status = await pod.controller.status(pod.scope, "pod", verbose=True)
    assert (status.state, status.pid, status.info["containers"]) == ("SANDBOX_READY", pause, "1")
    platform = await pod.controller.platform(pod.scope, "pod")
    assert platform.os == "linux"
    metrics = (await pod.controller.metrics(pod.scope, "pod")).data
    assert metrics.type_name.startswith("io.containerd.cgroups.")
    if metrics.type_name == "io.containerd.cgroups.v1.Metrics":
        assert v1.Metrics.FromString(metrics.value).pids.current == 1

    waiting = asyncio.create_task(pod.controller.wait(pod.scope, "pod"))
    ended = asyncio.create_task(pod.world.tasks.wait(pod.scope, "c2"))
    await pod.controller.stop(pod.scope, "pod")
    assert (await waiting).status == 0
    assert (await ended).status == 137
    assert (await pod.controller.status(pod.scope, "pod")).state == "SANDBOX_NOTREADY"
    await pod.world.tasks.delete(pod.scope, "c2")
    await pod.controller.shutdown(pod.scope, "pod")
    assert not pod.bundle("pod").exists()
    assert str(pod.state) not in Path("/proc/self/mountinfo").read_text()
    assert not Path(f"/proc/{pause}").exists()
    assert await pod.world.topics("c2", "/tasks/delete") == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ]


async def test_a_shutdown_takes_what_runs_with_it(pod: Pod) -> None:
    pause = await pod.start()
    await pod.member("c1", pause, "sleep", "1000")
    init = (await pod.world.tasks.get(pod.scope, "c1")).pid
    await pod.controller.shutdown(pod.scope, "pod")
    assert not Path(f"/proc/{init}").exists()
    assert not pod.bundle("pod").exists()
    # The daemon clears away after a task whose shim went with its sandbox.
    while not pod.world.nothing_is_left("c1"):
        await asyncio.sleep(0.01)


async def test_a_sandbox_whose_shim_dies_is_cleared_away(pod: Pod) -> None:
    pause = await pod.start()
    shim = int((pod.bundle("pod") / "shim.pid").read_text())
    os.kill(shim, 9)
    while pod.bundle("pod").exists():
        await asyncio.sleep(0.01)
    while Path(f"/proc/{pause}").exists():
        await asyncio.sleep(0.01)
    assert str(pod.state) not in Path("/proc/self/mountinfo").read_text()
    for cgroup in Path("/sys/fs/cgroup").glob(f"*/{pod.scope.namespace}-pod"):
        pytest.fail(f"{cgroup} is left")


async def test_a_network_namespace_that_is_none(pod: Pod) -> None:
    with pytest.raises(NotFoundError, match="netns_path /no/such: No such file"):
        await pod.start(request=CreateSandbox(netns_path="/no/such"))
    assert not pod.bundle("pod").exists()


async def test_what_is_mounted_in_the_bundle_of_a_dead_shim_is_unmounted(pod: Pod) -> None:
    bundle = pod.bundle("pod")
    for name in ("rootfs", "shm", "rootfs-parts/0"):
        (bundle / name).mkdir(parents=True)
        await pod.world.launcher._mounter.mount((Mount("tmpfs", "tmpfs"),), bundle / name)
    report = await pod.controller.adopt()
    assert report.cleaned == (f"{pod.scope.namespace}/pod",)
    assert not bundle.exists()
    assert str(bundle) not in Path("/proc/self/mountinfo").read_text()


async def test_a_second_daemon_goes_on_with_a_sandbox_and_its_members(pod: Pod) -> None:
    pause = await pod.start()
    await pod.member("c1", pause, "sleep", "1000")
    await pod.restart()
    status = await pod.controller.status(pod.scope, "pod")
    assert (status.state, status.pid) == ("SANDBOX_READY", pause)
    assert await pod.run("c2", pause, "echo", "after") == "after\n"
    await pod.world.tasks.kill(pod.scope, "c1", 9)
    assert (await pod.world.tasks.wait(pod.scope, "c1")).status == 137
    await pod.world.tasks.delete(pod.scope, "c1")
    # The last of its containers has gone; the sandbox has not.
    assert (await pod.controller.status(pod.scope, "pod")).state == "SANDBOX_READY"
    await pod.controller.shutdown(pod.scope, "pod")
    assert not Path(f"/proc/{pause}").exists()
