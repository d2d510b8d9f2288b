"""One container: its record, its init process, and further processes in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from containerd_hybrid.client.calls import Calls, fresh_name, to_the_end, undone
from containerd_hybrid.client.options import User
from containerd_hybrid.client.process import AsyncProcess
from containerd_hybrid.client.spec import PROCESS_TYPE
from containerd_hybrid.client.stdio import NOWHERE, ProcessStreams, Streams
from containerd_hybrid.client.users import resolve_user
from containerd_hybrid.errors import FailedPreconditionError, NotFoundError
from containerd_hybrid.proto.services.containers.v1 import containers_pb2
from containerd_hybrid.proto.services.snapshots.v1 import snapshots_pb2
from containerd_hybrid.proto.services.tasks.v1 import tasks_pb2
from containerd_hybrid.proto.types import mount_pb2
from containerd_hybrid.proto.types.task import task_pb2
from containerd_hybrid.tasks.api import Status

_CONTAINERS = containers_pb2.DESCRIPTOR.services_by_name["Containers"]
_SNAPSHOTS = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"]
_TASKS = tasks_pb2.DESCRIPTOR.services_by_name["Tasks"]


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container's record and the state of its task. Times are Unix nanoseconds.

    ``status`` is None without a task; ``exit_status`` and ``exited_at`` count when it is STOPPED.
    ``spec`` is the OCI runtime spec.
    """

    id: str
    image: str
    runtime: str
    snapshotter: str
    snapshot_key: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    created_at: int
    updated_at: int
    status: Status | None
    pid: int
    exit_status: int
    exited_at: int

    @property
    def args(self) -> Sequence[str]:
        """What its init process executes."""
        return list((self.spec.get("process") or {}).get("args") or ())


def container_info(record: containers_pb2.Container, task: task_pb2.Process | None) -> ContainerInfo:
    """``task`` is its init process as Tasks.List has it."""
    return ContainerInfo(
        record.id,
        record.image,
        record.runtime.name,
        record.snapshotter,
        record.snapshot_key,
        dict(record.labels),
        json.loads(record.spec.value or b"{}"),
        record.created_at.ToNanoseconds(),
        record.updated_at.ToNanoseconds(),
        Status(task.status) if task is not None else None,
        task.pid if task is not None else 0,
        task.exit_status if task is not None else 0,
        task.exited_at.ToNanoseconds() if task is not None else 0,
    )


class AsyncContainer:
    """A container that exists."""

    id: str

    def __init__(
        self, calls: Calls, id: str, snapshotter: str, snapshot_key: str, spec: dict[str, Any]
    ) -> None:
        self.id = id
        self._calls = calls
        self._snapshotter = snapshotter
        self._snapshot_key = snapshot_key
        self._spec = spec

    async def info(self) -> ContainerInfo:
        """Its record and state now."""
        request = containers_pb2.GetContainerRequest(id=self.id)
        answer = await self._calls.unary(_CONTAINERS, "Get", request, containers_pb2.GetContainerResponse)
        task: task_pb2.Process | None = None
        with suppress(NotFoundError):
            found = await self._calls.unary(
                _TASKS, "Get", tasks_pb2.GetRequest(container_id=self.id), tasks_pb2.GetResponse
            )
            task = found.process
        return container_info(answer.container, task)

    async def set_labels(self, labels: Mapping[str, str]) -> None:
        """Add or replace labels; an empty value removes one."""
        request = containers_pb2.UpdateContainerRequest(
            container=containers_pb2.Container(id=self.id, labels=labels),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        await self._calls.unary(_CONTAINERS, "Update", request, containers_pb2.UpdateContainerResponse)

    async def create_task(self, streams: Streams | None = None) -> AsyncProcess:
        """Make its init process, without letting it run yet.

        Raises:
            AlreadyExistsError: it has a task.
        """
        process = AsyncProcess(self._calls, self.id, "")
        opened = await self._open_streams(process, streams, bool(self._spec["process"].get("terminal")))
        try:
            request = tasks_pb2.CreateTaskRequest(
                container_id=self.id,
                rootfs=await self._rootfs(),
                stdin=opened.stdin,
                stdout=opened.stdout,
                stderr=opened.stderr,
                terminal=opened.terminal,
            )
            answer = await to_the_end(
                self._calls.unary(_TASKS, "Create", request, tasks_pb2.CreateTaskResponse), process.discard
            )
        except BaseException:
            await opened.close()
            raise
        process.pid = answer.pid
        opened.start()
        process._streams = opened
        return process

    async def start(self, streams: Streams | None = None) -> AsyncProcess:
        """Make its init process and let it run; when it cannot start, nothing of it stays.

        Raises:
            AlreadyExistsError: it has a task.
            HybridError: what the runtime says, of a program that is not there for example.
        """
        process = await self.create_task(streams)
        await _start(process)
        return process

    async def task(self) -> AsyncProcess:
        """Its init process, without the streams.

        Raises:
            NotFoundError: it has no task.
        """
        process = AsyncProcess(self._calls, self.id, "")
        await process.status()
        return process

    async def exec(
        self,
        args: Sequence[str],
        streams: Streams | None = None,
        *,
        env: Mapping[str, str] | None = None,
        working_dir: str = "",
        user: str | User = "",
        terminal: bool = False,
        exec_id: str = "",
    ) -> AsyncProcess:
        """Run one more process in it; what is not said is as for its init process.

        Raises:
            NotFoundError: it has no task.
            FailedPreconditionError: its task does not run.
        """
        init = AsyncProcess(self._calls, self.id, "")
        if await init.status() is not Status.RUNNING:
            raise FailedPreconditionError(f"container {self.id!r} does not run: start it first")
        if isinstance(user, str) and user:
            user = await asyncio.to_thread(resolve_user, user, Path(f"/proc/{init.pid}/root"))
        spec = self._exec_spec(args, terminal, env or {}, working_dir, user or None)
        process = AsyncProcess(self._calls, self.id, exec_id or f"exec-{fresh_name(6)}")
        opened = await self._open_streams(process, streams, terminal)
        try:
            request = tasks_pb2.ExecProcessRequest(
                container_id=self.id,
                exec_id=process.exec_id,
                stdin=opened.stdin,
                # Without any streams, shims of old daemons give an exec a /dev/null that it cannot write.
                stdout=opened.stdout or NOWHERE,
                stderr=opened.stderr or ("" if terminal else NOWHERE),
                terminal=opened.terminal,
                spec=AnyMessage(type_url=PROCESS_TYPE, value=json.dumps(spec).encode()),
            )
            await to_the_end(self._calls.unary(_TASKS, "Exec", request, Empty), process.discard)
        except BaseException:
            await opened.close()
            raise
        process._streams = opened
        await _start(process)
        # Only now, because the end of the input means nothing to a process that does not run yet.
        opened.start()
        return process

    async def remove(self, *, force: bool = False) -> None:
        """Delete the record and the snapshot; with ``force`` end a running task first.

        Raises:
            FailedPreconditionError: it runs and ``force`` was not given.
        """
        process = AsyncProcess(self._calls, self.id, "")
        if force:
            await process.discard()
        else:
            with suppress(NotFoundError):
                await process.delete()
        request = containers_pb2.DeleteContainerRequest(id=self.id)
        await self._calls.unary(_CONTAINERS, "Delete", request, Empty)
        if self._snapshot_key:
            removal = snapshots_pb2.RemoveSnapshotRequest(
                snapshotter=self._snapshotter, key=self._snapshot_key
            )
            with suppress(NotFoundError):
                await self._calls.unary(_SNAPSHOTS, "Remove", removal, Empty)

    async def _open_streams(
        self, process: AsyncProcess, streams: Streams | None, terminal: bool
    ) -> ProcessStreams:
        return await ProcessStreams.open(
            streams or Streams(), terminal=terminal, stdin_ended=lambda: _close_stdin_later(process)
        )

    async def _rootfs(self) -> Sequence[mount_pb2.Mount]:
        request = snapshots_pb2.MountsRequest(snapshotter=self._snapshotter, key=self._snapshot_key)
        return (await self._calls.unary(_SNAPSHOTS, "Mounts", request, snapshots_pb2.MountsResponse)).mounts

    def _exec_spec(
        self, args: Sequence[str], terminal: bool, env: Mapping[str, str], working_dir: str, user: User | None
    ) -> dict[str, Any]:
        process = dict(self._spec["process"])
        variables = dict(entry.partition("=")[::2] for entry in process.get("env") or ())
        if terminal:
            variables.setdefault("TERM", "xterm")
        process |= {
            "args": list(args),
            "env": [f"{name}={value}" for name, value in (variables | dict(env)).items()],
            "terminal": terminal,
        }
        if working_dir:
            process["cwd"] = working_dir
        if user is not None:
            process["user"] = {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}
        return process


async def _start(process: AsyncProcess) -> None:
    try:
        await process.start()
    except BaseException as error:
        await undone(error, process.discard())
        raise


def _close_stdin_later(process: AsyncProcess) -> None:
    task = asyncio.ensure_future(process.close_stdin())
    # A process that ended meanwhile has no input to close.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
