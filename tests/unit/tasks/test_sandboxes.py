"""Sandboxes in shims, over real ttrpc: a shim that serves sandboxes, one that does not, and one that dies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from tests.unit.tasks.kit import FakeContainers, RecordingEvents, RecordingMounter

from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)
from containerd_hybrid.events.api import TaskDelete, TaskExit
from containerd_hybrid.model import Mount, Platform, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.model.deprecations import Deprecation
from containerd_hybrid.proto.runtime.sandbox.v1 import sandbox_pb2 as pb
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2
from containerd_hybrid.proto.types import metrics_pb2, platform_pb2
from containerd_hybrid.proto.types.runc import options_pb2
from containerd_hybrid.rpc.api import CallContext, Kind, Method, Service
from containerd_hybrid.rpc.describe import service_from
from containerd_hybrid.rpc.ttrpc_adaptor import server_methods
from containerd_hybrid.sandbox.api import CreateSandbox, Sandbox, SandboxEnd, SandboxStatus
from containerd_hybrid.tasks.adoption import Adoption
from containerd_hybrid.tasks.api import AdoptionReport, CreateTask
from containerd_hybrid.tasks.bundle import SPEC_TYPE, Bundles
from containerd_hybrid.tasks.launcher import Launcher
from containerd_hybrid.tasks.manager import ShimTaskManager
from containerd_hybrid.tasks.runtimes import Runtimes
from containerd_hybrid.tasks.sandboxes import ShimSandboxController
from containerd_hybrid.tasks.settings import ShimSettings, Timeouts
from containerd_hybrid.tasks.table import TaskTable
from containerd_hybrid.ttrpc.client import connect
from containerd_hybrid.ttrpc.server import Server

NS = Scope("ns")
NOW = Timestamp(seconds=1_800_000_000)
NANOSECONDS = 1_800_000_000 * 10**9
OPTIONS = AnyValue("some.Options", b"\x01")
SPEC = AnyValue(SPEC_TYPE, b"{}")
# No shim here hangs.
PATIENT = Timeouts(60.0, 60.0, 60.0, 60.0, 60.0, 60.0)


class FakeSandboxShim:
    """The sandbox service in memory, and as much of the task service as joining takes."""

    descriptor: ClassVar = pb.DESCRIPTOR.services_by_name["Sandbox"]

    def __init__(self, *, sandboxes: bool = True) -> None:
        self.serves_sandboxes = sandboxes
        self.asked: dict[str, object] = {}
        self.namespaces: set[str] = set()
        self.fail: Exception | None = None
        self.ended = asyncio.Event()
        self.tasks: list[str] = []
        self.task_shutdowns = 0
        self._server: Server | None = None

    async def serve(self, path: Path) -> None:
        services = [self._task_service()]
        if self.serves_sandboxes:
            services.append(service_from(self.descriptor, self))
        self._server = Server(server_methods(services))
        listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        await self._server.listen(listener)

    async def die(self) -> None:
        # At once, so that one that serves again meanwhile is not taken for it.
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    def _note(self, method: str, request: object, call: CallContext) -> None:
        self.asked[method] = request
        self.namespaces.add(call.metadata.get("containerd-namespace-ttrpc", ""))
        if self.fail is not None:
            raise self.fail

    async def create_sandbox(
        self, request: pb.CreateSandboxRequest, call: CallContext
    ) -> pb.CreateSandboxResponse:
        self._note("create", request, call)
        return pb.CreateSandboxResponse()

    async def start_sandbox(
        self, request: pb.StartSandboxRequest, call: CallContext
    ) -> pb.StartSandboxResponse:
        self._note("start", request, call)
        return pb.StartSandboxResponse(pid=77, created_at=NOW, spec=AnyMessage(type_url="s", value=b"p"))

    async def platform(self, request: pb.PlatformRequest, call: CallContext) -> pb.PlatformResponse:
        self._note("platform", request, call)
        return pb.PlatformResponse(platform=platform_pb2.Platform(os="linux", architecture="arm64"))

    async def stop_sandbox(self, request: pb.StopSandboxRequest, call: CallContext) -> pb.StopSandboxResponse:
        self._note("stop", request, call)
        self.ended.set()
        return pb.StopSandboxResponse()

    async def wait_sandbox(self, request: pb.WaitSandboxRequest, call: CallContext) -> pb.WaitSandboxResponse:
        self._note("wait", request, call)
        await self.ended.wait()
        return pb.WaitSandboxResponse(exit_status=3, exited_at=NOW)

    async def sandbox_status(
        self, request: pb.SandboxStatusRequest, call: CallContext
    ) -> pb.SandboxStatusResponse:
        self._note("status", request, call)
        return pb.SandboxStatusResponse(
            sandbox_id=request.sandbox_id,
            pid=77,
            state="SANDBOX_READY",
            info={"verbose": str(request.verbose)},
            created_at=NOW,
            extra=AnyMessage(type_url="e", value=b"x"),
        )

    async def ping_sandbox(self, request: pb.PingRequest, call: CallContext) -> pb.PingResponse:
        return pb.PingResponse()

    async def shutdown_sandbox(
        self, request: pb.ShutdownSandboxRequest, call: CallContext
    ) -> pb.ShutdownSandboxResponse:
        self.asked["shutdown"] = request
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self.die()))
        return pb.ShutdownSandboxResponse()

    async def sandbox_metrics(
        self, request: pb.SandboxMetricsRequest, call: CallContext
    ) -> pb.SandboxMetricsResponse:
        self._note("metrics", request, call)
        data = AnyMessage(type_url="m", value=b"d")
        return pb.SandboxMetricsResponse(metrics=metrics_pb2.Metric(timestamp=NOW, id="s1", data=data))

    async def _create_task(
        self, request: shim_pb2.CreateTaskRequest, call: CallContext
    ) -> shim_pb2.CreateTaskResponse:
        self.tasks.append(request.id)
        return shim_pb2.CreateTaskResponse(pid=1000)

    async def _task_state(self, request: shim_pb2.StateRequest, call: CallContext) -> shim_pb2.StateResponse:
        return shim_pb2.StateResponse(id=request.id, pid=1000)

    async def _delete_task(
        self, request: shim_pb2.DeleteRequest, call: CallContext
    ) -> shim_pb2.DeleteResponse:
        self.tasks.remove(request.id)
        return shim_pb2.DeleteResponse(pid=1000)

    async def _shutdown_task(self, request: shim_pb2.ShutdownRequest, call: CallContext) -> Empty:
        self.task_shutdowns += 1
        return Empty()

    def _task_service(self) -> Service:
        methods = (
            ("Create", shim_pb2.CreateTaskRequest, shim_pb2.CreateTaskResponse, self._create_task),
            ("State", shim_pb2.StateRequest, shim_pb2.StateResponse, self._task_state),
            ("Delete", shim_pb2.DeleteRequest, shim_pb2.DeleteResponse, self._delete_task),
            ("Shutdown", shim_pb2.ShutdownRequest, Empty, self._shutdown_task),
        )
        return Service(
            "containerd.task.v3.Task",
            {
                name: Method(name, request, response, Kind.UNARY, call)
                for name, request, response, call in methods
            },
        )


PROGRAM = """#!/bin/sh
for action; do :; done
echo "$action" >> @.actions
case "$action" in
start) cat > @.stdin; printf '{"version":3,"address":"unix://@.sock","protocol":"ttrpc"}' ;;
esac
"""


class World:
    """A controller, a task manager beside it, and one shim program that leads to one fake shim."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "shim.sock"
        self.program = folder / "containerd-shim-fake-v1"
        self.program.write_text(PROGRAM.replace("@", str(folder / "shim")))
        self.program.chmod(0o755)
        self.shim = FakeSandboxShim()
        self.containers = FakeContainers()
        self.records = FakeRecords()
        self.events = RecordingEvents()
        self.wire()

    def wire(self) -> None:
        settings = ShimSettings("/run/x.sock", "/run/x.sock.ttrpc", Path("/bin/true"), timeouts=PATIENT)
        bundles = Bundles(self.folder / "tasks-root", self.folder / "tasks-state")
        bundles.prepare()
        self.table = TaskTable()
        self.launcher = Launcher(bundles, self.table, self.events, RecordingMounter(), connect, settings)
        self.warned: list[Deprecation] = []
        runtimes = self.runtimes = Runtimes(lambda: self.program)
        self.sandbox_bundles = Bundles(self.folder / "root", self.folder / "state")
        self.sandbox_bundles.prepare()
        self.controller = ShimSandboxController(runtimes, self.launcher, self.sandbox_bundles)
        self.tasks = ShimTaskManager(
            self.containers,
            runtimes,
            self.launcher,
            sandboxes=self.records,  # type: ignore[arg-type]
            warn=self.warned.append,
        )

    async def restart(self) -> AdoptionReport:
        """Another daemon on the same folders; the shim does not notice."""
        await self.close()
        self.wire()
        return await self.controller.adopt()

    async def close(self) -> None:
        await self.controller.close()
        await self.tasks.close()

    @property
    def actions(self) -> list[str]:
        file = self.folder / "shim.actions"
        return file.read_text().split() if file.exists() else []

    def bundle(self) -> Path:
        return self.folder / "state" / "ns" / "s1"

    def sandbox(self, **fields: Any) -> Sandbox:
        return Sandbox("s1", runtime_name=str(self.program), **fields)

    async def created(self) -> None:
        await self.controller.create(NS, self.sandbox(), CreateSandbox())


class FakeRecords:
    """Which sandboxes are on record; satisfies SandboxStore as far as tasks need it."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    async def get(self, scope: Scope, id: str) -> Sandbox:
        if id not in self.ids:
            raise NotFoundError(f"sandbox {id}: not found")
        return Sandbox(id)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.shim.serve(world.socket)
    yield world
    await world.close()
    await world.shim.die()


async def test_a_sandbox_from_create_to_shutdown(world: World) -> None:
    request = CreateSandbox((Mount("bind", "/x", ("ro",)),), OPTIONS, "/run/netns/n", {"a": "b"})
    await world.controller.create(NS, world.sandbox(spec=SPEC, runtime_options=OPTIONS), request)
    asked = world.shim.asked["create"]
    assert isinstance(asked, pb.CreateSandboxRequest)
    assert (asked.sandbox_id, asked.bundle_path) == ("s1", str(world.bundle()))
    assert (asked.rootfs[0].source, asked.netns_path) == ("/x", "/run/netns/n")
    assert (asked.options.type_url, dict(asked.annotations)) == ("some.Options", {"a": "b"})
    assert (world.bundle() / "config.json").read_bytes() == b"{}"
    assert b"some.Options" in (world.folder / "shim.stdin").read_bytes()

    started = await world.controller.start(NS, "s1")
    assert (started.id, started.pid, started.created_at) == ("s1", 77, NANOSECONDS)
    assert (started.address, started.version) == (f"unix://{world.socket}", 3)
    assert started.spec == AnyValue("s", b"p")

    assert await world.controller.platform(NS, "s1") == Platform("linux", "arm64")
    status = await world.controller.status(NS, "s1", verbose=True)
    assert (status.pid, status.state, status.info) == (77, "SANDBOX_READY", {"verbose": "True"})
    assert (status.created_at, status.exited_at, status.extra) == (NANOSECONDS, 0, AnyValue("e", b"x"))
    metric = await world.controller.metrics(NS, "s1")
    assert (metric.timestamp, metric.id, metric.data) == (NANOSECONDS, "s1", AnyValue("m", b"d"))

    waiting = asyncio.create_task(world.controller.wait(NS, "s1"))
    await world.controller.stop(NS, "s1", timeout=9)
    assert await waiting == SandboxEnd(3, NANOSECONDS)
    assert world.shim.asked["stop"] == pb.StopSandboxRequest(sandbox_id="s1", timeout_secs=9)

    await world.controller.shutdown(NS, "s1")
    assert not world.bundle().exists()
    assert world.shim.namespaces == {"ns"}
    assert world.events.published == []


async def test_a_sandbox_without_a_spec(world: World) -> None:
    await world.created()
    assert not (world.bundle() / "config.json").exists()


async def test_a_sandbox_runs_once(world: World) -> None:
    await world.created()
    with pytest.raises(AlreadyExistsError, match="sandbox s1 already running"):
        await world.created()


async def test_one_that_does_not_run(world: World) -> None:
    controller = world.controller
    for call in (controller.start, controller.platform, controller.wait, controller.shutdown):
        with pytest.raises(NotFoundError, match='unable to find sandbox "s1"'):
            await call(NS, "s1")
    await controller.stop(NS, "s1")
    status = await controller.status(NS, "s1")
    assert status == SandboxStatus("s1", exited_at=status.exited_at)
    assert status.exited_at > 0


@pytest.mark.parametrize("step", ["create", "start"])
async def test_nothing_is_left_of_one_that_cannot_be_made(world: World, step: str) -> None:
    if step == "start":
        await world.created()
    world.shim.fail = FailedPreconditionError("no memory")
    with pytest.raises(FailedPreconditionError, match=f"failed to {step} sandbox s1: no memory"):
        await (world.created() if step == "create" else world.controller.start(NS, "s1"))
    assert "shutdown" in world.shim.asked
    assert not world.bundle().exists()
    # The name is free again.
    world.shim.fail = None
    await world.shim.serve(world.socket)
    await world.created()


async def test_a_shim_that_does_not_run_sandboxes(world: World) -> None:
    world.launcher.timeouts = replace(PATIENT, shutdown=0.2)  # nor does it end when it is told to
    await world.shim.die()
    world.shim = FakeSandboxShim(sandboxes=False)
    await world.shim.serve(world.socket)
    with pytest.raises(UnimplementedError, match=r"create sandbox s1: its shim \S+ does not run sandboxes"):
        await world.created()
    assert not world.bundle().exists()
    assert world.shim.task_shutdowns == 1


async def test_a_runtime_that_is_not_there(world: World) -> None:
    with pytest.raises(NotFoundError, match="failed to start new shim for sandbox s1"):
        await world.controller.create(NS, Sandbox("s1", runtime_name="io.containerd.no.v1"), CreateSandbox())
    world.program.write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    with pytest.raises(UnknownError, match="broken"):
        await world.created()
    assert not world.bundle().exists()


async def test_a_create_that_is_cancelled(world: World) -> None:
    gate = asyncio.Event()

    async def slow(request: object, call: object) -> pb.CreateSandboxResponse:
        gate.set()
        await asyncio.Event().wait()
        raise AssertionError

    await world.shim.die()
    world.shim.create_sandbox = slow  # type: ignore[method-assign]
    await world.shim.serve(world.socket)
    creating = asyncio.create_task(world.created())
    await gate.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await world.controller.close()
    assert not world.bundle().exists()
    assert "shutdown" in world.shim.asked


async def test_a_shim_that_dies_is_cleaned_up_after(world: World) -> None:
    await world.created()
    shim = world.table.find("ns", "s1")
    assert shim is not None
    await world.shim.die()
    await shim.gone.wait()
    assert world.actions == ["start", "delete"]
    assert not world.bundle().exists()
    # As containerd publishes it, for any shim.
    assert [type(event) for _, event in world.events.published] == [TaskExit, TaskDelete]
    assert (await world.controller.status(NS, "s1")).state == ""


async def test_a_container_joins_and_the_sandbox_outlives_it(world: World) -> None:
    await world.created()
    world.containers.add("c1", sandbox="s1")
    assert await world.tasks.create(NS, CreateTask("c1")) == 1000
    assert world.shim.tasks == ["c1"]
    assert world.actions == ["start"]
    # The sandbox itself is no task.
    assert [shim.bundle.id for shim in world.table.within("ns")] == ["c1"]
    await world.tasks.delete(NS, "c1")
    assert world.shim.tasks == []
    assert world.shim.task_shutdowns == 0
    assert (await world.controller.status(NS, "s1")).state == "SANDBOX_READY"


async def test_a_sandbox_that_is_on_record_but_does_not_run_cannot_be_joined(world: World) -> None:
    world.records.ids.add("s1")
    world.containers.add("c1", sandbox="s1", runtime_name=str(world.program))
    with pytest.raises(NotFoundError, match="can't find shim for sandbox s1"):
        await world.tasks.create(NS, CreateTask("c1"))
    world.records.ids.clear()
    assert await world.tasks.create(NS, CreateTask("c1")) == 1000


async def test_a_restarted_daemon_adopts_sandboxes(world: World) -> None:
    await world.created()
    assert await world.restart() == AdoptionReport(adopted=("ns/s1",))
    assert (await world.controller.start(NS, "s1")).pid == 77
    await world.controller.shutdown(NS, "s1")
    assert not world.bundle().exists()


async def test_a_restarted_daemon_clears_away_dead_sandboxes(world: World) -> None:
    await world.created()
    await world.close()
    await world.shim.die()
    assert await world.restart() == AdoptionReport(cleaned=("ns/s1",))
    assert world.actions == ["start", "delete"]
    assert not world.bundle().exists()


async def test_a_restarted_daemon_takes_away_what_was_never_created(world: World) -> None:
    await world.created()
    world.shim.fail = NotFoundError("no such sandbox")
    assert await world.restart() == AdoptionReport(cleaned=("ns/s1",))
    assert not world.bundle().exists()


async def join_by(world: World, options: AnyValue | None = None, **fields: Any) -> None:
    world.records.ids.add("s1")
    world.containers.add("c1", sandbox="s1", runtime_name=str(world.program))
    await world.tasks.create(NS, CreateTask("c1", options=options, **fields))


@pytest.mark.parametrize("restart", [False, True])
async def test_the_shim_of_somebody_elses_sandbox_is_joined_and_left_alone(
    world: World, restart: bool
) -> None:
    await join_by(world, task_api_address=f"ttrpc+unix://{world.socket}", task_api_version=3)
    assert world.shim.tasks == ["c1"]
    assert world.actions == []
    if restart:
        await world.restart()
        assert (await Adoption(world.containers, world.runtimes, world.launcher).run()).adopted == ("ns/c1",)
    await world.tasks.delete(NS, "c1")
    assert world.shim.tasks == []
    assert world.shim.task_shutdowns == 0
    assert world.warned == []


async def test_an_address_in_runcs_options_is_an_old_way(world: World) -> None:
    options = options_pb2.Options(task_api_address=f"ttrpc+unix://{world.socket}", task_api_version=3)
    await join_by(world, AnyValue("containerd.runc.v1.Options", options.SerializeToString()))
    assert world.shim.tasks == ["c1"]
    assert world.actions == []
    assert world.warned == [
        Deprecation.RUNC_OPTIONS_TASK_API_ADDRESS,
        Deprecation.RUNC_OPTIONS_TASK_API_VERSION,
    ]


async def test_addresses_that_cannot_be_used(world: World) -> None:
    with pytest.raises(InvalidArgumentError, match="must have the form"):
        await join_by(world, task_api_address="unix:///x", task_api_version=3)
    with pytest.raises(UnimplementedError, match="speaks ttrpc"):
        await join_by(world, task_api_address="grpc+unix:///x", task_api_version=3)
    with pytest.raises(UnavailableError):
        await join_by(world, task_api_address="ttrpc+unix:///nobody/there", task_api_version=3)
    assert list((world.folder / "tasks-state" / "ns").iterdir()) == []


async def test_an_address_of_an_unknown_sandbox_or_an_older_shim_is_not_used(world: World) -> None:
    address = f"ttrpc+unix://{world.socket}"
    await join_by(world, task_api_address=address, task_api_version=2)
    assert world.actions == ["start"]
    world.records.ids.clear()
    world.containers.add("c2", sandbox="s1", runtime_name=str(world.program))
    await world.tasks.create(NS, CreateTask("c2", task_api_address=address, task_api_version=3))
    assert world.actions == ["start", "start"]
