"""Containers of a namespace, from an image to a running process."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.images import AsyncImages
from containerd_hybrid.client.process import AsyncProcess, Exited
from containerd_hybrid.client.spec import (
    PROCESS_TYPE,
    SPEC_TYPE,
    RunOptions,
    User,
    container_spec,
)
from containerd_hybrid.client.stdio import ProcessStreams, Streams
from containerd_hybrid.client.system import capability_names, is_cgroup_v2
from containerd_hybrid.client.users import needs_root_filesystem, resolve_user
from containerd_hybrid.errors import AlreadyExistsError, HybridError, NotFoundError
from containerd_hybrid.images.api import Image
from containerd_hybrid.model import chain_id
from containerd_hybrid.model.manifest import ImageConfig
from containerd_hybrid.mounts.api import Mounter
from containerd_hybrid.proto.services.containers.v1 import containers_pb2
from containerd_hybrid.proto.services.snapshots.v1 import snapshots_pb2
from containerd_hybrid.proto.services.tasks.v1 import tasks_pb2
from containerd_hybrid.proto.types import mount_pb2
from containerd_hybrid.tasks.api import Status
from containerd_hybrid.wire import mounts_from_wire

_CONTAINERS = containers_pb2.DESCRIPTOR.services_by_name["Containers"]
_SNAPSHOTS = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"]
_TASKS = tasks_pb2.DESCRIPTOR.services_by_name["Tasks"]
DEFAULT_RUNTIME = "io.containerd.runc.v2"
DEFAULT_SNAPSHOTTER = "overlayfs"


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container's record and the state of its task: ``status`` is None without one."""

    id: str
    image: str
    runtime: str
    labels: Mapping[str, str]
    created_at: int
    status: Status | None
    pid: int


@dataclass(frozen=True, slots=True)
class Completed:
    """A container that ran to its end; the streams are empty unless they were captured."""

    status: int
    stdout: bytes
    stderr: bytes


class AsyncContainer:
    """A container that exists."""

    def __init__(
        self, calls: Calls, id: str, snapshotter: str, snapshot_key: str, spec: dict[str, Any]
    ) -> None:
        self.id = id
        self._calls = calls
        self._snapshotter = snapshotter
        self._snapshot_key = snapshot_key
        self._spec = spec

    async def create_task(self, streams: Streams | None = None) -> AsyncProcess:
        """Make its init process, without letting it run yet.

        Raises:
            AlreadyExistsError: it has a task.
        """
        wanted = streams or Streams()
        process = AsyncProcess(self._calls, self.id, "")
        opened = ProcessStreams(wanted, lambda: _close_stdin_later(process))
        try:
            request = tasks_pb2.CreateTaskRequest(
                container_id=self.id,
                rootfs=await self._rootfs(),
                stdin=opened.stdin,
                stdout=opened.stdout,
                stderr=opened.stderr,
                terminal=wanted.terminal,
            )
            await self._calls.unary(_TASKS, "Create", request, tasks_pb2.CreateTaskResponse)
        except BaseException:
            await opened.close()
            raise
        opened.start()
        process._streams = opened
        return process

    async def start(self, streams: Streams | None = None) -> AsyncProcess:
        """Make its init process and let it run; when it cannot start, nothing of it stays."""
        process = await self.create_task(streams)
        try:
            await process.start()
        except BaseException:
            await process.discard()
            raise
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
        user: User | None = None,
        exec_id: str = "",
    ) -> AsyncProcess:
        """Run one more process in it; what is not said is as for its init process.

        Raises:
            NotFoundError: it has no task.
            FailedPreconditionError: its task does not run.
        """
        wanted = streams or Streams()
        process = AsyncProcess(self._calls, self.id, exec_id or f"exec-{secrets.token_hex(6)}")
        opened = ProcessStreams(wanted, lambda: _close_stdin_later(process))
        spec = self._exec_spec(args, wanted.terminal, env or {}, working_dir, user)
        try:
            request = tasks_pb2.ExecProcessRequest(
                container_id=self.id,
                exec_id=process.exec_id,
                stdin=opened.stdin,
                stdout=opened.stdout,
                stderr=opened.stderr,
                terminal=wanted.terminal,
                spec=AnyMessage(type_url=PROCESS_TYPE, value=json.dumps(spec).encode()),
            )
            await self._calls.unary(_TASKS, "Exec", request, Empty)
        except BaseException:
            await opened.close()
            raise
        process._streams = opened
        try:
            await process.start()
        except BaseException:
            await process.discard()
            raise
        # An exec's streams are opened by its shim when it starts, not when it is created.
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
        await self._calls.unary(
            _CONTAINERS, "Delete", containers_pb2.DeleteContainerRequest(id=self.id), Empty
        )
        if self._snapshot_key:
            request = snapshots_pb2.RemoveSnapshotRequest(
                snapshotter=self._snapshotter, key=self._snapshot_key
            )
            with suppress(NotFoundError):
                await self._calls.unary(_SNAPSHOTS, "Remove", request, Empty)

    async def _rootfs(self) -> Sequence[mount_pb2.Mount]:
        request = snapshots_pb2.MountsRequest(snapshotter=self._snapshotter, key=self._snapshot_key)
        return (await self._calls.unary(_SNAPSHOTS, "Mounts", request, snapshots_pb2.MountsResponse)).mounts

    def _exec_spec(
        self,
        args: Sequence[str],
        terminal: bool,
        env: Mapping[str, str],
        working_dir: str,
        user: User | None,
    ) -> dict[str, Any]:
        process = dict(self._spec["process"])
        variables = dict(entry.partition("=")[::2] for entry in process.get("env") or ())
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


class AsyncContainers:
    """``client.containers``"""

    def __init__(self, calls: Calls, images: AsyncImages, mounter: Mounter) -> None:
        self._calls = calls
        self._images = images
        self._mounter = mounter

    async def list(self, filters: Sequence[str] = ()) -> Sequence[ContainerInfo]:
        """All containers with the state of their tasks, newest last."""
        request = containers_pb2.ListContainersRequest(filters=filters)
        answer = await self._calls.unary(_CONTAINERS, "List", request, containers_pb2.ListContainersResponse)
        tasks = await self._calls.unary(
            _TASKS, "List", tasks_pb2.ListTasksRequest(), tasks_pb2.ListTasksResponse
        )
        running = {task.id or task.container_id: task for task in tasks.tasks}
        infos = [_info(container, running) for container in answer.containers]
        return sorted(infos, key=lambda info: info.created_at)

    async def get(self, id: str) -> AsyncContainer:
        """
        Raises:
            NotFoundError: there is no such container.
        """
        request = containers_pb2.GetContainerRequest(id=id)
        answer = await self._calls.unary(_CONTAINERS, "Get", request, containers_pb2.GetContainerResponse)
        record = answer.container
        return AsyncContainer(
            self._calls, id, record.snapshotter, record.snapshot_key, json.loads(record.spec.value or b"{}")
        )

    async def create(
        self,
        image: str,
        args: Sequence[str] = (),
        *,
        id: str = "",
        options: RunOptions | None = None,
        labels: Mapping[str, str] | None = None,
        snapshotter: str = DEFAULT_SNAPSHOTTER,
        runtime: str = DEFAULT_RUNTIME,
    ) -> AsyncContainer:
        """A container of an image that is here, unpacked now if it is not yet.

        Raises:
            NotFoundError: the image is not here.
            AlreadyExistsError: the id is taken.
        """
        found = await self._images.get(image)
        _, config = await self._images.config(found)
        container_id = id or secrets.token_hex(6)
        async with self._calls.leased() as calls:
            mounts = await self._prepare(calls, found, config, container_id, snapshotter)
            try:
                chosen = options or RunOptions()
                user = await self._user(chosen.user or config.user, mounts)
                spec = container_spec(
                    container_id,
                    calls.namespace,
                    config,
                    args,
                    user,
                    replace(chosen, hostname=chosen.hostname or container_id),
                    all_capabilities=await asyncio.to_thread(capability_names),
                    cgroup_v2=await asyncio.to_thread(is_cgroup_v2),
                )
                record = containers_pb2.Container(
                    id=container_id,
                    image=found.name,
                    labels={**config.labels, **(labels or {})},
                    runtime=containers_pb2.Container.Runtime(name=runtime),
                    spec=AnyMessage(type_url=SPEC_TYPE, value=json.dumps(spec).encode()),
                    snapshotter=snapshotter,
                    snapshot_key=container_id,
                )
                await calls.unary(
                    _CONTAINERS,
                    "Create",
                    containers_pb2.CreateContainerRequest(container=record),
                    containers_pb2.CreateContainerResponse,
                )
            except BaseException:
                await self._remove_snapshot(calls, snapshotter, container_id)
                raise
        return AsyncContainer(self._calls, container_id, snapshotter, container_id, spec)

    async def run(
        self,
        image: str,
        args: Sequence[str] = (),
        *,
        id: str = "",
        options: RunOptions | None = None,
        stdin: bytes | None = None,
        labels: Mapping[str, str] | None = None,
        snapshotter: str = DEFAULT_SNAPSHOTTER,
        runtime: str = DEFAULT_RUNTIME,
    ) -> Completed:
        """Run a container to its end, capture what it wrote, and remove it, whatever happens."""
        stdout, stderr = bytearray(), bytearray()
        container = await self.create(
            image, args, id=id, options=options, labels=labels, snapshotter=snapshotter, runtime=runtime
        )
        try:
            terminal = options.terminal if options else False
            process = await container.start(Streams(stdin, stdout.extend, stderr.extend, terminal))
            ended: Exited = await process.wait()
            await process.delete()
        finally:
            await asyncio.shield(asyncio.ensure_future(container.remove(force=True)))
        return Completed(ended.status, bytes(stdout), bytes(stderr))

    async def _prepare(
        self, calls: Calls, image: Image, config: ImageConfig, key: str, snapshotter: str
    ) -> Sequence[mount_pb2.Mount]:
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=snapshotter, key=key, parent=str(chain_id(config.diff_ids))
        )
        try:
            answer = await calls.unary(_SNAPSHOTS, "Prepare", request, snapshots_pb2.PrepareSnapshotResponse)
        except AlreadyExistsError:
            raise AlreadyExistsError(
                f"container {key!r} already exists: remove it or choose another id"
            ) from None
        except NotFoundError:
            await self._images.unpack(image.name, snapshotter=snapshotter)
            answer = await calls.unary(_SNAPSHOTS, "Prepare", request, snapshots_pb2.PrepareSnapshotResponse)
        return answer.mounts

    async def _user(self, user: str, mounts: Sequence[mount_pb2.Mount]) -> User:
        if not needs_root_filesystem(user):
            return resolve_user(user, None)
        async with self._mounter.temporary(mounts_from_wire(mounts), read_only=True) as root:
            return await asyncio.to_thread(resolve_user, user, Path(root))

    async def _remove_snapshot(self, calls: Calls, snapshotter: str, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        # The first error counts; the lease's end lets the collector take the snapshot.
        with suppress(HybridError):
            await asyncio.shield(asyncio.ensure_future(calls.unary(_SNAPSHOTS, "Remove", request, Empty)))


def _close_stdin_later(process: AsyncProcess) -> None:
    task = asyncio.ensure_future(process.close_stdin())
    # A process that ended meanwhile has no input to close.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


def _info(container: containers_pb2.Container, running: Mapping[str, Any]) -> ContainerInfo:
    task = running.get(container.id)
    return ContainerInfo(
        container.id,
        container.image,
        container.runtime.name,
        dict(container.labels),
        container.created_at.ToNanoseconds(),
        Status(task.status) if task is not None else None,
        task.pid if task is not None else 0,
    )
