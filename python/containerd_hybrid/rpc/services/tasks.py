"""containerd.services.tasks.v1.Tasks"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.proto.services.tasks.v1 import tasks_pb2 as pb
from containerd_hybrid.proto.types import metrics_pb2
from containerd_hybrid.proto.types.task import task_pb2
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.tasks.api import CreateTask, Exit, Process, Stdio, TaskCheckpoints, TaskManager
from containerd_hybrid.wire import (
    any_from_wire,
    any_to_wire,
    descriptor_from_wire,
    descriptor_to_wire,
    mounts_from_wire,
    timestamp,
)

_GO_ZERO_TIME = -62135596800


class TasksService:
    """Running containers. Errors and their texts are the task manager's."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Tasks"]

    def __init__(self, tasks: TaskManager, checkpoints: TaskCheckpoints) -> None:
        self._tasks = tasks
        self._checkpoints = checkpoints

    async def create(self, request: pb.CreateTaskRequest, call: CallContext) -> pb.CreateTaskResponse:
        create = CreateTask(
            container_id=request.container_id,
            rootfs=mounts_from_wire(request.rootfs),
            stdio=Stdio(request.stdin, request.stdout, request.stderr, request.terminal),
            options=any_from_wire(request.options),
            runtime_path=request.runtime_path,
            task_api_address=request.task_api_address,
            task_api_version=request.task_api_version,
        )
        if request.HasField("checkpoint"):
            create = await self._restoring(request, create, call)
        pid = await self._tasks.create(call.scope, create)
        return pb.CreateTaskResponse(container_id=request.container_id, pid=pid)

    async def start(self, request: pb.StartRequest, call: CallContext) -> pb.StartResponse:
        return pb.StartResponse(
            pid=await self._tasks.start(call.scope, request.container_id, request.exec_id)
        )

    async def delete(self, request: pb.DeleteTaskRequest, call: CallContext) -> pb.DeleteResponse:
        # containerd gives the id of a process only, not of a task.
        return _deleted("", await self._tasks.delete(call.scope, request.container_id))

    async def delete_process(self, request: pb.DeleteProcessRequest, call: CallContext) -> pb.DeleteResponse:
        ended = await self._tasks.delete_process(call.scope, request.container_id, request.exec_id)
        return _deleted(request.exec_id, ended)

    async def get(self, request: pb.GetRequest, call: CallContext) -> pb.GetResponse:
        process = await self._tasks.get(call.scope, request.container_id, request.exec_id)
        return pb.GetResponse(process=_process(process))

    async def list(self, request: pb.ListTasksRequest, call: CallContext) -> pb.ListTasksResponse:
        filters = (request.filter,) if request.filter else ()
        return pb.ListTasksResponse(tasks=[_process(p) for p in await self._tasks.list(call.scope, filters)])

    async def kill(self, request: pb.KillRequest, call: CallContext) -> Empty:
        await self._tasks.kill(
            call.scope, request.container_id, request.signal, request.exec_id, all=request.all
        )
        return Empty()

    async def exec(self, request: pb.ExecProcessRequest, call: CallContext) -> Empty:
        if not request.exec_id:
            raise InvalidArgumentError("exec id cannot be empty")
        spec = any_from_wire(request.spec)
        if spec is None:
            await self._tasks.get(call.scope, request.container_id)
            raise InvalidArgumentError(f"exec {request.exec_id}: a process spec is required")
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        await self._tasks.exec(call.scope, request.container_id, request.exec_id, spec, stdio)
        return Empty()

    async def resize_pty(self, request: pb.ResizePtyRequest, call: CallContext) -> Empty:
        await self._tasks.resize_pty(
            call.scope, request.container_id, request.exec_id, request.width, request.height
        )
        return Empty()

    async def close_io(self, request: pb.CloseIORequest, call: CallContext) -> Empty:
        await self._tasks.close_io(call.scope, request.container_id, request.exec_id, stdin=request.stdin)
        return Empty()

    async def pause(self, request: pb.PauseTaskRequest, call: CallContext) -> Empty:
        await self._tasks.pause(call.scope, request.container_id)
        return Empty()

    async def resume(self, request: pb.ResumeTaskRequest, call: CallContext) -> Empty:
        await self._tasks.resume(call.scope, request.container_id)
        return Empty()

    async def list_pids(self, request: pb.ListPidsRequest, call: CallContext) -> pb.ListPidsResponse:
        processes = [
            task_pb2.ProcessInfo(pid=process.pid, info=any_to_wire(process.info))
            for process in await self._tasks.pids(call.scope, request.container_id)
        ]
        return pb.ListPidsResponse(processes=processes)

    async def checkpoint(
        self, request: pb.CheckpointTaskRequest, call: CallContext
    ) -> pb.CheckpointTaskResponse:
        options = any_from_wire(request.options)
        made = await self._checkpoints.take(call.scope, request.container_id, options)
        return pb.CheckpointTaskResponse(descriptors=[descriptor_to_wire(d) for d in made])

    async def _restoring(
        self, request: pb.CreateTaskRequest, create: CreateTask, call: CallContext
    ) -> CreateTask:
        # A checkpoint in a folder has no digest.
        if path := request.checkpoint.annotations.get("RestoreFromPath"):
            return replace(create, checkpoint=path)
        checkpoint = descriptor_from_wire(request.checkpoint)
        return await self._checkpoints.restoring(call.scope, create, checkpoint)

    async def update(self, request: pb.UpdateTaskRequest, call: CallContext) -> Empty:
        resources = any_from_wire(request.resources)
        if resources is None:
            await self._tasks.get(call.scope, request.container_id)
            raise InvalidArgumentError(f"task {request.container_id}: resources are required")
        await self._tasks.update(call.scope, request.container_id, resources, dict(request.annotations))
        return Empty()

    async def metrics(self, request: pb.MetricsRequest, call: CallContext) -> pb.MetricsResponse:
        metrics = [
            metrics_pb2.Metric(timestamp=timestamp(m.timestamp), id=m.id, data=any_to_wire(m.data))
            for m in await self._tasks.metrics(call.scope, tuple(request.filters))
        ]
        return pb.MetricsResponse(metrics=metrics)

    async def wait(self, request: pb.WaitRequest, call: CallContext) -> pb.WaitResponse:
        ended = await self._tasks.wait(call.scope, request.container_id, request.exec_id)
        return pb.WaitResponse(exit_status=ended.status, exited_at=timestamp(ended.exited_at))


def _ended(at: int) -> Timestamp:
    """Clients of containerd know by Go's zero time, the first day of the year 1, what has not ended."""
    return timestamp(at) or Timestamp(seconds=_GO_ZERO_TIME)


def _deleted(id: str, ended: Exit) -> pb.DeleteResponse:
    return pb.DeleteResponse(
        id=id, pid=ended.pid, exit_status=ended.status, exited_at=_ended(ended.exited_at)
    )


def _process(process: Process) -> task_pb2.Process:
    return task_pb2.Process(
        id=process.exec_id or process.container_id,
        pid=process.pid,
        status=task_pb2.Status.ValueType(process.status),
        stdin=process.stdio.stdin,
        stdout=process.stdio.stdout,
        stderr=process.stdio.stderr,
        terminal=process.stdio.terminal,
        exit_status=process.exit_status,
        exited_at=_ended(process.exited_at),
    )
