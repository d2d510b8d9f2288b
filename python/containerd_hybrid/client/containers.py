"""Containers of a namespace, from an image to a running process."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.client.calls import Calls, fresh_name, to_the_end, undone
from containerd_hybrid.client.container import AsyncContainer, ContainerInfo, container_info
from containerd_hybrid.client.images import AsyncImages
from containerd_hybrid.client.options import RunOptions, User
from containerd_hybrid.client.spec import SPEC_TYPE, container_spec
from containerd_hybrid.client.stdio import Streams
from containerd_hybrid.client.system import capability_names, host_devices, is_cgroup_v2
from containerd_hybrid.client.users import resolve_user
from containerd_hybrid.errors import AlreadyExistsError, HybridError, InvalidArgumentError, NotFoundError
from containerd_hybrid.images.api import Image
from containerd_hybrid.model import chain_id
from containerd_hybrid.model.labels import MAX_SIZE
from containerd_hybrid.model.manifest import ImageConfig
from containerd_hybrid.mounts.api import Mounter
from containerd_hybrid.proto.services.containers.v1 import containers_pb2
from containerd_hybrid.proto.services.mounts.v1 import mounts_pb2
from containerd_hybrid.proto.services.snapshots.v1 import snapshots_pb2
from containerd_hybrid.proto.services.tasks.v1 import tasks_pb2
from containerd_hybrid.proto.types import mount_pb2
from containerd_hybrid.wire import mounts_from_wire

_CONTAINERS = containers_pb2.DESCRIPTOR.services_by_name["Containers"]
_MOUNTS = mounts_pb2.DESCRIPTOR.services_by_name["Mounts"]
_SNAPSHOTS = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"]
_TASKS = tasks_pb2.DESCRIPTOR.services_by_name["Tasks"]
DEFAULT_RUNTIME = "io.containerd.runc.v2"
DEFAULT_SNAPSHOTTER = "overlayfs"
# containerd's clients keep the image's wish here for whoever stops the container.
STOP_SIGNAL_LABEL = "io.containerd.image.config.stop-signal"


@dataclass(frozen=True, slots=True)
class Completed:
    """A container that ran to its end, and what it wrote. With a terminal all of it is in ``stdout``."""

    status: int
    stdout: bytes
    stderr: bytes


class AsyncContainers:
    """``client.containers``"""

    def __init__(self, calls: Calls, images: AsyncImages, mounter: Mounter) -> None:
        self._calls = calls
        self._images = images
        self._mounter = mounter

    async def list(self, filters: Sequence[str] = ()) -> Sequence[ContainerInfo]:
        """All containers with the state of their tasks, newest last; ``filters`` as for images."""
        request = containers_pb2.ListContainersRequest(filters=filters)
        answer = await self._calls.unary(_CONTAINERS, "List", request, containers_pb2.ListContainersResponse)
        tasks = await self._calls.unary(
            _TASKS, "List", tasks_pb2.ListTasksRequest(), tasks_pb2.ListTasksResponse
        )
        running = {task.id or task.container_id: task for task in tasks.tasks}
        infos = [container_info(record, running.get(record.id)) for record in answer.containers]
        return sorted(infos, key=lambda info: (info.created_at, info.id))

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
        if not config.diff_ids:
            raise InvalidArgumentError(f"image {found.name!r} has no layers, so nothing in it can run")
        container_id = id or fresh_name(6)
        chosen = options or RunOptions()
        container: AsyncContainer | None = None
        try:
            async with self._calls.leased() as calls:
                mounts = await self._prepare(calls, found, config, container_id, snapshotter)
                try:
                    user = await self._user(calls, chosen.user or config.user, mounts)
                    spec = await _spec(container_id, calls.namespace, config, args, user, chosen)
                    record = containers_pb2.Container(
                        id=container_id,
                        image=found.name,
                        labels=_labels(config, labels or {}),
                        runtime=containers_pb2.Container.Runtime(name=runtime),
                        spec=AnyMessage(type_url=SPEC_TYPE, value=json.dumps(spec).encode()),
                        snapshotter=snapshotter,
                        snapshot_key=container_id,
                    )
                    await self._create(calls, record)
                except BaseException:
                    await self._remove_snapshot(calls, snapshotter, container_id)
                    raise
                container = AsyncContainer(self._calls, container_id, snapshotter, container_id, spec)
        except BaseException as error:
            # Cancelled while the lease was given back, with everything made already.
            if container is not None:
                await undone(error, container.remove())
            raise
        return container

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
            process = await container.start(Streams(stdin, stdout.extend, stderr.extend))
            try:
                ended = await process.wait()
            finally:
                await process.detach()
        finally:
            await asyncio.shield(asyncio.ensure_future(container.remove(force=True)))
        return Completed(ended.status, bytes(stdout), bytes(stderr))

    async def _create(self, calls: Calls, record: containers_pb2.Container) -> None:
        request = containers_pb2.CreateContainerRequest(container=record)
        deletion = containers_pb2.DeleteContainerRequest(id=record.id)
        await to_the_end(
            calls.unary(_CONTAINERS, "Create", request, containers_pb2.CreateContainerResponse),
            lambda: calls.unary(_CONTAINERS, "Delete", deletion, Empty),
        )

    async def _prepare(
        self, calls: Calls, image: Image, config: ImageConfig, key: str, snapshotter: str
    ) -> Sequence[mount_pb2.Mount]:
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=snapshotter, key=key, parent=str(chain_id(config.diff_ids))
        )
        try:
            try:
                answer = await calls.unary(
                    _SNAPSHOTS, "Prepare", request, snapshots_pb2.PrepareSnapshotResponse
                )
            except NotFoundError:
                await self._images.unpack(image.name, snapshotter=snapshotter)
                answer = await calls.unary(
                    _SNAPSHOTS, "Prepare", request, snapshots_pb2.PrepareSnapshotResponse
                )
        except AlreadyExistsError:
            raise AlreadyExistsError(
                f"container {key!r} already exists: remove it or choose another id"
            ) from None
        return answer.mounts

    async def _user(self, calls: Calls, user: str, mounts: Sequence[mount_pb2.Mount]) -> User:
        uid, _, gid = user.partition(":")
        if uid.isdecimal() and gid.isdecimal():
            return resolve_user(user, None)
        async with (
            self._mountable(calls, mounts) as left,
            self._mounter.temporary(mounts_from_wire(left), read_only=True) as root,
        ):
            return await asyncio.to_thread(resolve_user, user, root)

    @asynccontextmanager
    async def _mountable(
        self, calls: Calls, mounts: Sequence[mount_pb2.Mount]
    ) -> AsyncIterator[Sequence[mount_pb2.Mount]]:
        """What is left to be mounted after the daemon's part of it (``mkfs/…``, ``format/…``)."""
        if not any("/" in mount.type for mount in mounts):
            yield mounts
            return
        name = f"user-{secrets.token_hex(16)}"
        request = mounts_pb2.ActivateRequest(name=name, mounts=mounts)
        answer = await calls.unary(_MOUNTS, "Activate", request, mounts_pb2.ActivateResponse)
        try:
            yield answer.info.system
        finally:
            await calls.unary(_MOUNTS, "Deactivate", mounts_pb2.DeactivateRequest(name=name), Empty)

    async def _remove_snapshot(self, calls: Calls, snapshotter: str, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        # The first error counts; the lease's end lets the collector take the snapshot.
        with suppress(HybridError):
            await asyncio.shield(asyncio.ensure_future(calls.unary(_SNAPSHOTS, "Remove", request, Empty)))


async def _spec(
    container_id: str,
    namespace: str,
    config: ImageConfig,
    args: Sequence[str],
    user: User,
    options: RunOptions,
) -> dict[str, Any]:
    return container_spec(
        container_id,
        namespace,
        config,
        args,
        user,
        replace(options, hostname=options.hostname or container_id),
        all_capabilities=await asyncio.to_thread(capability_names),
        host_devices=await asyncio.to_thread(host_devices) if options.privileged else (),
        cgroup_v2=await asyncio.to_thread(is_cgroup_v2),
    )


def _labels(config: ImageConfig, given: Mapping[str, str]) -> dict[str, str]:
    """The image's labels, except those that are too long for a label of containerd, and the caller's."""
    fitting = {
        key: value
        for key, value in config.labels.items()
        if len(key.encode()) + len(value.encode()) <= MAX_SIZE
    }
    return {**fitting, STOP_SIGNAL_LABEL: config.stop_signal or "SIGTERM", **given}
