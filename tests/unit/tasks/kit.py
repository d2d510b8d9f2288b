"""What the tests of tasks share: a world with everything around the task manager made up.

FakeShim is the only fake with behaviour: it answers the task service from memory, over a client that has
no connection. Its program is a real one, a shell script, because starting programs is what is tested.
"""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from containerd_hybrid.containers.api import Container
from containerd_hybrid.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    HybridError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)
from containerd_hybrid.events.api import Event
from containerd_hybrid.events.exchange import Exchange
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2 as pb
from containerd_hybrid.proto.types.task import task_pb2
from containerd_hybrid.tasks.adoption import Adoption
from containerd_hybrid.tasks.api import AdoptionReport
from containerd_hybrid.tasks.bundle import SPEC_TYPE, Bundles
from containerd_hybrid.tasks.launcher import Launcher
from containerd_hybrid.tasks.manager import ShimTaskManager
from containerd_hybrid.tasks.runtimes import Runtimes
from containerd_hybrid.tasks.settings import ShimSettings, Timeouts
from containerd_hybrid.tasks.table import TaskTable

SCOPE = Scope("ns")
SPEC = AnyValue(SPEC_TYPE, json.dumps({"ociVersion": "1.0.2"}).encode())
RUNTIME = "io.containerd.hybrid.v2"
# The short ones are waited for by tests whose shims hang: FakeClient lets only those of them run out.
QUICK = Timeouts(load=0.5, cleanup=60.0, shutdown=0.2, state=0.2, stats=0.2, start=60.0)

# `start` prints an address from which FakeHost makes a FakeShim; `delete` prints a DeleteResponse with
# pid 77, status 137 and a time. Both leave a mark of what they were called with.
PROGRAM = r"""#!/bin/sh
for action; do :; done
printf '%s\n' "$@" > "$MARKS/$action.args"
env > "$MARKS/$action.env"
pwd > "$MARKS/$action.cwd"
cat > "$MARKS/$action.stdin"
case "$action" in
start) @START@ ;;
delete) @DELETE@ ;;
esac
"""
START = 'printf "unix:///fake/%s" "$(basename "$PWD")"'
DELETE = r"printf '\010\115\020\211\001\032\006\010\200\342\317\252\006'"
DELETED_AT = 1_700_000_000_000_000_000


class FakeProcess:
    """What FakeShim knows of a process."""

    def __init__(self, pid: int, request: pb.CreateTaskRequest | pb.ExecProcessRequest) -> None:
        self.pid = pid
        self.request = request
        self.status = task_pb2.CREATED
        self.exit_status = 0
        self.exited_at = Timestamp()
        self.ended = asyncio.Event()
        self.signals: list[tuple[int, bool]] = []

    def end(self, status: int) -> None:
        self.status = task_pb2.STOPPED
        self.exit_status = status
        self.exited_at = Timestamp(seconds=1_800_000_000)
        self.ended.set()


class FakeShim:
    """The task service of one shim, with the messages of Go's."""

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, FakeProcess]] = {}
        self.calls: list[str] = []
        self.messages: list[Message] = []
        self.versions: set[int] = {2, 3}
        self.fail: dict[str, HybridError] = {}
        self.hang: set[str] = set()
        self.stopped = False
        self.gone = asyncio.Event()
        self._next_pid = 1000

    def die(self) -> None:
        """As a SIGKILL does it."""
        self.gone.set()

    async def answer(self, method: str, payload: bytes) -> Message:
        request_class, handler = self._METHODS[method]
        request = request_class.FromString(payload)
        self.calls.append(method)
        self.messages.append(request)
        if method in self.hang:
            await asyncio.Event().wait()
        if method in self.fail:
            raise self.fail[method]
        result: Message = await handler(self, request)
        return result

    def _process(self, request: Any) -> FakeProcess:
        processes = self.tasks.get(request.id)
        if processes is None:
            raise NotFoundError("container not created: not found")
        process = processes.get(getattr(request, "exec_id", ""))
        if process is None:
            raise NotFoundError(f"process does not exist {request.exec_id}: not found")
        return process

    def _new(self, request: Any) -> FakeProcess:
        self._next_pid += 1
        return FakeProcess(self._next_pid, request)

    async def create(self, request: pb.CreateTaskRequest) -> Message:
        self.tasks[request.id] = {"": self._new(request)}
        return pb.CreateTaskResponse(pid=self.tasks[request.id][""].pid)

    async def start(self, request: pb.StartRequest) -> Message:
        process = self._process(request)
        if process.status != task_pb2.CREATED:
            raise UnknownError("cannot start a running process: unknown")
        process.status = task_pb2.RUNNING
        return pb.StartResponse(pid=process.pid)

    async def exec(self, request: pb.ExecProcessRequest) -> Message:
        processes = self.tasks[request.id]
        if request.exec_id in processes:
            raise AlreadyExistsError(f"id {request.exec_id}: already exists")
        processes[request.exec_id] = self._new(request)
        return Empty()

    async def state(self, request: pb.StateRequest) -> Message:
        process = self._process(request)
        said = process.request
        return pb.StateResponse(
            id=request.id,
            pid=process.pid,
            status=process.status,
            stdin=said.stdin,
            stdout=said.stdout,
            stderr=said.stderr,
            terminal=said.terminal,
            exit_status=process.exit_status,
            # Go says the year 1 for a process that runs.
            exited_at=process.exited_at if process.ended.is_set() else Timestamp(seconds=-62135596800),
        )

    async def wait(self, request: pb.WaitRequest) -> Message:
        process = self._process(request)
        await process.ended.wait()
        return pb.WaitResponse(exit_status=process.exit_status, exited_at=process.exited_at)

    async def kill(self, request: pb.KillRequest) -> Message:
        process = self._process(request)
        if process.ended.is_set():
            raise NotFoundError("process already finished: not found")
        process.signals.append((request.signal, request.all))
        process.end(128 + request.signal)
        return Empty()

    async def delete(self, request: pb.DeleteRequest) -> Message:
        process = self._process(request)
        if process.status in (task_pb2.RUNNING, task_pb2.PAUSED):
            raise UnknownError("cannot delete a running process: unknown")
        if request.exec_id:
            del self.tasks[request.id][request.exec_id]
        else:
            del self.tasks[request.id]
        return pb.DeleteResponse(
            pid=process.pid, exit_status=process.exit_status, exited_at=process.exited_at
        )

    async def pause(self, request: pb.PauseRequest) -> Message:
        self._process(request).status = task_pb2.PAUSED
        return Empty()

    async def resume(self, request: pb.ResumeRequest) -> Message:
        self._process(request).status = task_pb2.RUNNING
        return Empty()

    async def nothing(self, request: Message) -> Message:
        self._process(request)
        return Empty()

    async def pids(self, request: pb.PidsRequest) -> Message:
        own = self._process(request).pid
        details = AnyMessage(type_url="containerd.runc.v1.ProcessDetails", value=b"\x0a\x01e")
        return pb.PidsResponse(
            processes=[task_pb2.ProcessInfo(pid=own), task_pb2.ProcessInfo(pid=own + 1, info=details)]
        )

    async def stats(self, request: pb.StatsRequest) -> Message:
        self._process(request)
        return pb.StatsResponse(stats=AnyMessage(type_url="io.containerd.cgroups.v2.Metrics", value=b"m"))

    async def connect(self, request: pb.ConnectRequest) -> Message:
        return pb.ConnectResponse(shim_pid=1, task_pid=self._process(request).pid)

    async def shutdown(self, request: pb.ShutdownRequest) -> Message:
        if not self.tasks:
            self.stopped = True
            self.gone.set()
        return Empty()

    _METHODS: Mapping[str, tuple[Any, Callable[..., Any]]] = {
        "Create": (pb.CreateTaskRequest, create),
        "Start": (pb.StartRequest, start),
        "Exec": (pb.ExecProcessRequest, exec),  # noqa: A003
        "State": (pb.StateRequest, state),
        "Wait": (pb.WaitRequest, wait),
        "Kill": (pb.KillRequest, kill),
        "Delete": (pb.DeleteRequest, delete),
        "Pause": (pb.PauseRequest, pause),
        "Resume": (pb.ResumeRequest, resume),
        "ResizePty": (pb.ResizePtyRequest, nothing),
        "CloseIO": (pb.CloseIORequest, nothing),
        "Update": (pb.UpdateTaskRequest, nothing),
        "Checkpoint": (pb.CheckpointTaskRequest, nothing),
        "Pids": (pb.PidsRequest, pids),
        "Stats": (pb.StatsRequest, stats),
        "Connect": (pb.ConnectRequest, connect),
        "Shutdown": (pb.ShutdownRequest, shutdown),
    }


class FakeClient:
    """One connection to a FakeShim; satisfies TtrpcClient."""

    def __init__(self, shim: FakeShim) -> None:
        self._shim = shim
        self._closed = asyncio.Event()
        self.metadata: Mapping[str, str] | None = None

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        self.metadata = metadata
        if self._ended():
            raise UnavailableError("ttrpc: closed")
        version = int(service.removeprefix("containerd.task.v").removesuffix(".Task"))
        if version not in self._shim.versions:
            raise UnimplementedError(f"service {service}")
        answering = asyncio.ensure_future(self._shim.answer(method, payload))
        closing = asyncio.ensure_future(self.wait_closed())
        try:
            # A machine that stands still for a moment is no shim that does not answer.
            async with asyncio.timeout(timeout if method in self._shim.hang else None):
                await asyncio.wait({answering, closing}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise DeadlineExceededError("no answer") from None
        finally:
            closing.cancel()
            if not answering.done():
                answering.cancel()
        if not answering.done() or answering.cancelled():
            raise UnavailableError("ttrpc: closed")
        return answering.result().SerializeToString()

    def _ended(self) -> bool:
        return self._closed.is_set() or self._shim.gone.is_set()

    async def wait_closed(self) -> None:
        ends = [asyncio.ensure_future(e.wait()) for e in (self._closed, self._shim.gone)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    async def close(self) -> None:
        self._closed.set()


class FakeContainers:
    """Container records in memory; satisfies ContainerStore as far as tasks need it."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Container] = {}

    def add(self, id: str, *, namespace: str = SCOPE.namespace, **fields: Any) -> Container:
        record = replace(Container(id, runtime_name=RUNTIME, spec=SPEC), **fields)
        self.records[namespace, id] = record
        return record

    async def get(self, scope: Scope, id: str) -> Container:
        try:
            return self.records[scope.namespace, id]
        except KeyError:
            raise NotFoundError(f'container "{id}" in namespace "{scope.namespace}": not found') from None

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Container]:
        raise NotImplementedError

    async def create(self, scope: Scope, container: Container) -> Container:
        raise NotImplementedError

    async def update(self, scope: Scope, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        raise NotImplementedError

    async def delete(self, scope: Scope, id: str) -> None:
        raise NotImplementedError


class RecordingMounter:
    """Satisfies Mounter; nothing is ever mounted."""

    def __init__(self) -> None:
        self.unmounted: list[Path] = []

    async def mount(self, mounts: Sequence[Mount], target: Path) -> None:
        raise NotImplementedError

    async def unmount(self, target: Path) -> None:
        self.unmounted.append(target)

    def temporary(
        self, mounts: Sequence[Mount], *, read_only: bool = False
    ) -> AbstractAsyncContextManager[Path]:
        raise NotImplementedError


class RecordingEvents(Exchange):
    """The exchange, which remembers what the tasks package publishes."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[tuple[str, Event]] = []

    def publish(self, namespace: str, event: Event) -> None:
        self.published.append((namespace, event))
        super().publish(namespace, event)


@dataclass
class World:
    """A task manager and everything around it; ``restart`` makes a second daemon on the same folders."""

    folder: Path
    timeouts: Timeouts = QUICK
    go_runc: bool = False
    containers: FakeContainers = field(default_factory=FakeContainers)
    events: RecordingEvents = field(default_factory=RecordingEvents)
    mounter: RecordingMounter = field(default_factory=RecordingMounter)
    shims: dict[str, FakeShim] = field(default_factory=dict)
    clients: list[FakeClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.marks = self.folder / "marks"
        self.marks.mkdir(parents=True, exist_ok=True)
        self.root, self.state = self.folder / "root", self.folder / "state"
        self.program = self.folder / "containerd-shim-hybrid-v2"
        self.write_program()
        self._wire()

    def _wire(self) -> None:
        self.bundles = Bundles(self.root, self.state)
        self.bundles.prepare()
        settings = ShimSettings(
            address="/run/x.sock",
            ttrpc_address="/run/x.sock.ttrpc",
            publish_binary=Path("/usr/bin/publisher"),
            env=("MARKS=" + str(self.marks), "EXTRA=1=2"),
            timeouts=self.timeouts,
        )
        self.runtimes = Runtimes(lambda: self.program, go_runc=self.go_runc)
        self.launcher = Launcher(self.bundles, TaskTable(), self.events, self.mounter, self.connect, settings)
        self.tasks = ShimTaskManager(self.containers, self.runtimes, self.launcher)

    def write_program(self, start: str = START, delete: str = DELETE, path: Path | None = None) -> Path:
        path = path or self.program
        path.write_text(PROGRAM.replace("@START@", start).replace("@DELETE@", delete))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    async def connect(self, address: str, *, timeout: float | None = 5.0) -> FakeClient:
        shim = self.shims.setdefault(address, FakeShim())
        if shim.gone.is_set():
            raise UnavailableError(f"ttrpc {address}: connection refused")
        client = FakeClient(shim)
        self.clients.append(client)
        return client

    def shim(self, id: str) -> FakeShim:
        """The shim of a task, before or after it is started."""
        return self.shims.setdefault(f"unix:///fake/{id}", FakeShim())

    def bundle(self, id: str, namespace: str = SCOPE.namespace) -> Path:
        return self.state / namespace / id

    def mark(self, name: str) -> str:
        return (self.marks / name).read_text()

    async def restart(self) -> AdoptionReport:
        """End this daemon without a goodbye to anybody, and start another."""
        for client in self.clients:
            await client.close()
        for shim in list(self.launcher._live):
            shim.leave()
        self._wire()
        return await Adoption(self.containers, self.runtimes, self.launcher).run()
