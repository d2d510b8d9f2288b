"""Tasks over shims; the messages and codes are those of containerd's task service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from containerd_hybrid.containers.api import ContainerStore
from containerd_hybrid.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnknownError,
    error_for_code,
)
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.model.deprecations import Warn
from containerd_hybrid.model.filters import FieldLookup, Filters
from containerd_hybrid.model.identifiers import validate_identifier
from containerd_hybrid.mounts.api import MountManager
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2 as pb
from containerd_hybrid.sandbox.api import SandboxStore
from containerd_hybrid.tasks import information
from containerd_hybrid.tasks.api import (
    CreateTask,
    Exit,
    Metric,
    Process,
    ProcessInfo,
    RuntimeInfo,
    Status,
    Stdio,
    TaskMetric,
)
from containerd_hybrid.tasks.creation import Creation
from containerd_hybrid.tasks.launcher import Launcher
from containerd_hybrid.tasks.rootfs import RootFilesystems
from containerd_hybrid.tasks.runtimes import Runtimes
from containerd_hybrid.tasks.shim import Shim
from containerd_hybrid.tasks.times import from_wire
from containerd_hybrid.wire import any_from_wire, any_to_wire

M = TypeVar("M", bound=Message)

log = logging.getLogger(__name__)


class ShimTaskManager:
    """Implements :class:`containerd_hybrid.tasks.api.TaskManager`.

    Every task is first looked up as a container, so that what a client is told about a container that
    does not exist is the same everywhere.
    """

    def __init__(
        self,
        containers: ContainerStore,
        runtimes: Runtimes,
        launcher: Launcher,
        mounts: MountManager | None = None,
        sandboxes: SandboxStore | None = None,
        warn: Warn = lambda _: None,
    ) -> None:
        self._containers = containers
        self._runtimes = runtimes
        self._launcher = launcher
        self._table = launcher.table
        self._timeouts = launcher.timeouts
        self._rootfs = RootFilesystems(mounts, launcher.programs)
        self._creation = Creation(runtimes, launcher, self._rootfs, sandboxes, warn)

    async def create(self, scope: Scope, request: CreateTask) -> int:
        """See :meth:`TaskManager.create`.

        Nothing is left of a task that could not be made, also when the caller goes away meanwhile.
        """
        container = await self._containers.get(scope, request.container_id)
        return await self._creation.run(scope.namespace, container, request)

    async def start(self, scope: Scope, container_id: str, exec_id: str = "") -> int:
        """Start the init process or an exec; its pid."""
        shim = await self._shim(scope, container_id)
        request = pb.StartRequest(id=container_id, exec_id=exec_id)
        response = await self._call(shim, "Start", request, pb.StartResponse)
        shim.pids[exec_id] = response.pid
        if shim.restored and not exec_id:
            await asyncio.to_thread(shutil.rmtree, shim.bundle.checkpoint, ignore_errors=True)
        return response.pid

    async def exec(self, scope: Scope, container_id: str, exec_id: str, spec: AnyValue, stdio: Stdio) -> None:
        """Add a process that ``start`` then starts.

        Raises:
            InvalidArgumentError: ``exec_id`` is not an identifier.
            AlreadyExistsError: there is such a process.
        """
        if not exec_id:
            raise InvalidArgumentError("exec id cannot be empty")
        shim = await self._shim(scope, container_id)
        try:
            validate_identifier(exec_id)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                f"invalid exec id {exec_id}: {error.message}: invalid argument"
            ) from error
        request = pb.ExecProcessRequest(
            id=container_id,
            exec_id=exec_id,
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            spec=any_to_wire(spec),
        )
        await self._call(shim, "Exec", request, Empty)

    async def get(self, scope: Scope, container_id: str, exec_id: str = "") -> Process:
        """The state of a process."""
        shim = await self._shim(scope, container_id)
        return await self._process(shim, exec_id)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Process]:
        """The init processes of the namespace; filter fields are ``id``, ``namespace`` and ``status``.

        A task whose shim does not answer in time is left out and logged.
        """
        wanted = Filters.parse(filters)
        shims = self._table.within(scope.namespace)
        processes = await asyncio.gather(*(self._listed(shim) for shim in shims))
        return [p for p in processes if p is not None and wanted.match(_process_fields(scope, p))]

    async def wait(self, scope: Scope, container_id: str, exec_id: str = "") -> Exit:
        """How the process ends; returns at once when it has ended already."""
        shim = await self._shim(scope, container_id)
        return await shim.wait(exec_id)

    async def kill(
        self, scope: Scope, container_id: str, signal: int, exec_id: str = "", *, all: bool = False
    ) -> None:
        """Send a signal to a process, or to all of the container."""
        shim = await self._shim(scope, container_id)
        # An exec has no processes beside itself that could be meant.
        everything = all and not exec_id
        request = pb.KillRequest(id=container_id, exec_id=exec_id, signal=signal, all=everything)
        await self._call(shim, "Kill", request, Empty)

    async def delete(self, scope: Scope, container_id: str) -> Exit:
        """Take the stopped task away with its shim (if it was the last there) and its bundle."""
        shim = await self._shim(scope, container_id)
        try:
            async with self._launcher.farewell(shim) as told:
                request = pb.DeleteRequest(id=container_id)
                response = await self._call(shim, "Delete", request, pb.DeleteResponse)
                await told()
            ended = Exit(response.pid, response.exit_status, from_wire(response.exited_at))
        except NotFoundError as error:
            # The shim lost it; what there is must go all the same, and the caller learns of it.
            await self._launcher.dismiss(shim, Exit(0, 255, time.time_ns()))
            raise _prefixed("failed to delete task", error) from error
        except UnavailableError as error:
            gone = await shim.over()
            if gone is None:
                raise _prefixed("failed to delete task", error) from error
            await self._rootfs.deactivate(scope, container_id)
            return gone
        except UnknownError as error:
            raise await self._why_not_deleted(shim, error) from error
        except HybridError as error:
            raise _prefixed("failed to delete task", error) from error
        await self._launcher.dismiss(shim, ended)
        await self._rootfs.deactivate(scope, container_id)
        return ended

    async def delete_process(self, scope: Scope, container_id: str, exec_id: str) -> Exit:
        """Forget an exec that has ended."""
        if not exec_id:
            raise InvalidArgumentError("exec id cannot be empty")
        shim = await self._shim(scope, container_id)
        request = pb.DeleteRequest(id=container_id, exec_id=exec_id)
        response = await self._call(shim, "Delete", request, pb.DeleteResponse)
        shim.pids.pop(exec_id, None)
        return Exit(response.pid, response.exit_status, from_wire(response.exited_at))

    async def pause(self, scope: Scope, container_id: str) -> None:
        shim = await self._shim(scope, container_id)
        await self._call(shim, "Pause", pb.PauseRequest(id=container_id), Empty)

    async def resume(self, scope: Scope, container_id: str) -> None:
        shim = await self._shim(scope, container_id)
        await self._call(shim, "Resume", pb.ResumeRequest(id=container_id), Empty)

    async def resize_pty(
        self, scope: Scope, container_id: str, exec_id: str, width: int, height: int
    ) -> None:
        """Set the size of a process's terminal, in characters."""
        shim = await self._shim(scope, container_id)
        request = pb.ResizePtyRequest(id=container_id, exec_id=exec_id, width=width, height=height)
        await self._call(shim, "ResizePty", request, Empty)

    async def close_io(self, scope: Scope, container_id: str, exec_id: str, *, stdin: bool) -> None:
        """Close the shim's side of standard input, so that the process reads an end of file."""
        shim = await self._shim(scope, container_id)
        if stdin:
            request = pb.CloseIORequest(id=container_id, exec_id=exec_id, stdin=True)
            await self._call(shim, "CloseIO", request, Empty)

    async def pids(self, scope: Scope, container_id: str) -> Sequence[ProcessInfo]:
        """All processes in the container, by their pids on the host."""
        shim = await self._shim(scope, container_id)
        response = await self._call(shim, "Pids", pb.PidsRequest(id=container_id), pb.PidsResponse)
        return [ProcessInfo(p.pid, any_from_wire(p.info)) for p in response.processes]

    async def update(
        self, scope: Scope, container_id: str, resources: AnyValue, annotations: Mapping[str, str]
    ) -> None:
        """Change the container's resource limits."""
        shim = await self._shim(scope, container_id)
        request = pb.UpdateTaskRequest(
            id=container_id,
            resources=any_to_wire(resources),
            annotations=dict(annotations),
        )
        await self._call(shim, "Update", request, Empty)

    async def metrics(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Metric]:
        """Figures of each task as its shim gives them; filter fields are ``id`` and ``namespace``.

        A task whose shim does not give any is left out and logged.
        """
        wanted = Filters.parse(filters)
        shims = [
            shim
            for shim in self._table.within(scope.namespace)
            if wanted.match(_fields({"id": shim.bundle.id, "namespace": scope.namespace}))
        ]
        found = await asyncio.gather(*(self._metric(shim) for shim in shims))
        return [metric for metric in found if metric is not None]

    async def all_metrics(self) -> Sequence[TaskMetric]:
        """See :meth:`TaskFigures.all_metrics`; what takes longer than metrics.shimstats is left out."""
        shims = [shim for shim in self._table.all() if not shim.is_sandbox]
        found = await asyncio.gather(*(self._task_metric(shim) for shim in shims))
        return [metric for metric in found if metric is not None]

    async def checkpoint(self, scope: Scope, container_id: str, path: str, options: AnyValue | None) -> None:
        """Write a checkpoint of the task into the folder ``path``."""
        if not path:
            raise InvalidArgumentError(f"checkpoint of task {container_id}: a path is required")
        shim = await self._shim(scope, container_id)
        request = pb.CheckpointTaskRequest(id=container_id, path=path, options=any_to_wire(options))
        await self._call(shim, "Checkpoint", request, Empty)

    async def runtime_info(self, runtime_path: str, options: AnyValue | None = None) -> RuntimeInfo:
        """What the shim of a runtime says of itself."""
        program = await asyncio.to_thread(self._runtimes.resolve, runtime_path)
        return information.from_program(await self._launcher.programs.info(program, options))

    async def plugin_info(self, options: AnyValue) -> AnyValue:
        """Answers introspection; see :mod:`containerd_hybrid.tasks.information`."""
        return information.write_info(await self.runtime_info(*information.read_request(options)))

    async def close(self) -> None:
        """Let go of all shims, which live on with their containers."""
        await self._creation.close()
        await self._launcher.close()

    async def _shim(self, scope: Scope, container_id: str) -> Shim:
        await self._containers.get(scope, container_id)
        return self._table.get(scope.namespace, container_id)

    async def _call(
        self, shim: Shim, method: str, request: Message, response: type[M], timeout: float | None = None
    ) -> M:
        try:
            return await shim.call(method, request, response, timeout)
        except UnavailableError as error:
            raise UnavailableError(
                f"the shim of task {shim.bundle.id} does not answer: {error.message}"
            ) from error

    async def _process(self, shim: Shim, exec_id: str) -> Process:
        request = pb.StateRequest(id=shim.bundle.id, exec_id=exec_id)
        try:
            state = await shim.call("State", request, pb.StateResponse, self._timeouts.state)
        except UnavailableError as error:
            # The task goes with its shim; the clean-up that says so is under way.
            raise NotFoundError(f"task {shim.bundle.id} not found: {error.message}") from error
        return Process(
            container_id=shim.bundle.id,
            exec_id=exec_id,
            pid=state.pid,
            status=_STATUSES.get(state.status, Status.UNKNOWN),
            stdio=Stdio(state.stdin, state.stdout, state.stderr, state.terminal),
            exit_status=state.exit_status,
            exited_at=from_wire(state.exited_at),
        )

    async def _listed(self, shim: Shim) -> Process | None:
        try:
            return await self._process(shim, "")
        except NotFoundError:
            return None
        except (UnavailableError, DeadlineExceededError) as error:
            log.error("task %s is not listed: %s", shim.bundle.id, error.message)
            return None
        except HybridError as error:
            log.error("the state of task %s is unknown: %s", shim.bundle.id, error.message)
            return Process(shim.bundle.id, "", 0, Status.UNKNOWN, Stdio())

    async def _metric(self, shim: Shim) -> Metric | None:
        collected_at = time.time_ns()
        request = pb.StatsRequest(id=shim.bundle.id)
        try:
            response = await shim.call("Stats", request, pb.StatsResponse, self._timeouts.stats)
        except NotFoundError:
            return None
        except HybridError as error:
            log.error("collecting metrics for %s: %s", shim.bundle.id, error.message)
            return None
        return Metric(collected_at, shim.bundle.id, AnyValue(response.stats.type_url, response.stats.value))

    async def _task_metric(self, shim: Shim) -> TaskMetric | None:
        metric = await self._metric(shim)
        if metric is None:
            return None
        if not shim.runtime_name:  # which no container ever changes
            with contextlib.suppress(NotFoundError):
                container = await self._containers.get(Scope(shim.bundle.namespace), shim.bundle.id)
                shim.runtime_name = container.runtime_name
        return TaskMetric(shim.bundle.namespace, shim.runtime_name, metric)

    async def _why_not_deleted(self, shim: Shim, error: HybridError) -> HybridError:
        # Go's shim has no code for "it still runs"; callers are promised one.
        message = f"failed to delete task: {error.message}"
        try:
            status = (await self._process(shim, "")).status
        except HybridError:
            return UnknownError(message)
        running = status in (Status.RUNNING, Status.PAUSED, Status.PAUSING)
        return FailedPreconditionError(message) if running else UnknownError(message)


_STATUSES = {status.value: status for status in Status}


def _prefixed(prefix: str, error: HybridError) -> HybridError:
    return error_for_code(error.code, f"{prefix}: {error.message}")


def _fields(values: Mapping[str, str]) -> FieldLookup:
    return lambda path: values.get(path[0]) or None


def _process_fields(scope: Scope, process: Process) -> FieldLookup:
    status = process.status.name.lower()
    return _fields({"id": process.container_id, "namespace": scope.namespace, "status": status})
