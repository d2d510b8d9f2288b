"""Tasks: running containers and the processes in them (containerd.services.tasks.v1).

Life cycle: ``create`` (bundle, shim, process created but not started) → ``start`` → … → the init
process exits → ``delete``. Execs live beside it: ``exec`` → ``start(exec_id)`` → ``delete_process``.
An ``exec_id`` of ``""`` means the container's init process. Times are Unix nanoseconds.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from containerd_hybrid.model import Descriptor, Mount, Scope
from containerd_hybrid.model.any import AnyValue


class Status(enum.IntEnum):
    """State of a process; the numbers are those of containerd.v1.types.Status."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


@dataclass(frozen=True, slots=True)
class Stdio:
    """Where a process's streams are: FIFO paths or ``file://``, ``binary://`` URIs; empty is /dev/null."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """A process as its shim reports it; ``exited_at`` is 0 while it runs."""

    container_id: str
    exec_id: str
    pid: int
    status: Status
    stdio: Stdio
    exit_status: int = 0
    exited_at: int = 0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended; ``status`` is 128 + signal when it was killed."""

    pid: int
    status: int
    exited_at: int


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process in a container, with runtime specific details."""

    pid: int
    info: AnyValue | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """Cgroup figures of a container at a time; ``data`` is a cgroup v1 or v2 Metrics message."""

    timestamp: int
    id: str
    data: AnyValue


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """A metric with what tells its task from those of other namespaces.

    ``runtime`` is the name that its container asks for, empty when the container is gone meanwhile.
    """

    namespace: str
    runtime: str
    metric: Metric


@dataclass(frozen=True, slots=True)
class CreateTask:
    """What a client says when it creates a task.

    ``task_api_address`` is where the shim of the container's sandbox serves tasks, when that is not one of
    ours: ``PROTOCOL+unix://PATH``; ``task_api_version`` is its version of the task API. ``checkpoint`` is a
    folder to restore from; ``fill_checkpoint`` fills one, which then goes when the task has started.
    """

    container_id: str
    rootfs: tuple[Mount, ...] = ()
    stdio: Stdio = Stdio()
    checkpoint: str = ""
    options: AnyValue | None = None
    runtime_path: str = ""
    task_api_address: str = ""
    task_api_version: int = 0
    fill_checkpoint: Callable[[Path], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What a runtime's shim says of itself and of its OCI runtime (``-info``).

    ``features`` is that runtime's own account (OCI runtime spec, features.md), None when it has none.
    """

    name: str
    version: str = ""
    revision: str = ""
    options: AnyValue | None = None
    features: AnyValue | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


class TaskManager(Protocol):
    """Tasks of a namespace.

    Every method raises NotFoundError for a container without a task ("no running task found" as
    clients expect), UnavailableError when its shim does not answer.
    """

    async def create(self, scope: Scope, request: CreateTask) -> int:
        """Start the shim (or join its group's) and create the init process; its pid.

        Raises:
            NotFoundError: no such container, or no such runtime.
            AlreadyExistsError: it has a task.
        """
        ...

    async def start(self, scope: Scope, container_id: str, exec_id: str = "") -> int: ...

    async def exec(
        self, scope: Scope, container_id: str, exec_id: str, spec: AnyValue, stdio: Stdio
    ) -> None: ...

    async def get(self, scope: Scope, container_id: str, exec_id: str = "") -> Process: ...

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Process]: ...

    async def wait(self, scope: Scope, container_id: str, exec_id: str = "") -> Exit: ...

    async def kill(
        self, scope: Scope, container_id: str, signal: int, exec_id: str = "", *, all: bool = False
    ) -> None: ...

    async def delete(self, scope: Scope, container_id: str) -> Exit:
        """FailedPreconditionError while it runs. Ends the shim when it was its last container."""
        ...

    async def delete_process(self, scope: Scope, container_id: str, exec_id: str) -> Exit: ...

    async def pause(self, scope: Scope, container_id: str) -> None: ...

    async def resume(self, scope: Scope, container_id: str) -> None: ...

    async def resize_pty(
        self, scope: Scope, container_id: str, exec_id: str, width: int, height: int
    ) -> None: ...

    async def close_io(self, scope: Scope, container_id: str, exec_id: str, *, stdin: bool) -> None: ...

    async def pids(self, scope: Scope, container_id: str) -> Sequence[ProcessInfo]: ...

    async def update(
        self, scope: Scope, container_id: str, resources: AnyValue, annotations: Mapping[str, str]
    ) -> None: ...

    async def metrics(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Metric]: ...

    async def checkpoint(
        self, scope: Scope, container_id: str, path: str, options: AnyValue | None
    ) -> None: ...

    async def runtime_info(self, runtime_path: str, options: AnyValue | None = None) -> RuntimeInfo:
        """Ask the shim of a runtime, given by name or absolute path. Not tied to any namespace.

        Raises:
            NotFoundError, InvalidArgumentError: there is no such runtime, or none can be.
            UnknownError: the shim failed, or cannot say (those of containerd 1.6).
        """
        ...


class TaskCheckpoints(Protocol):
    """Checkpoints as content."""

    async def take(self, scope: Scope, container_id: str, options: AnyValue | None) -> tuple[Descriptor, ...]:
        """Write a checkpoint of a task into the content store, and the spec of its container.

        None of either if the options name a folder for the checkpoint. Hold a lease.

        Raises:
            InvalidArgumentError: the options are not runc's.
            HybridError: the task cannot be checkpointed, or criu is missing.
        """
        ...

    async def restoring(self, scope: Scope, request: CreateTask, checkpoint: Descriptor) -> CreateTask:
        """The request for a task that goes on from a checkpoint.

        Raises:
            InvalidArgumentError: ``checkpoint`` is something else.
            NotFoundError: it is not here.
        """
        ...


class TaskFigures(Protocol):
    """The figures of all tasks together, for monitoring."""

    async def all_metrics(self) -> Sequence[TaskMetric]:
        """Figures of the tasks of every namespace, without those whose shims give none in time."""
        ...


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """What a starting daemon found in its state folder."""

    adopted: tuple[str, ...] = ()
    cleaned: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
