"""Checkpoints of tasks, between the folder that criu writes and the content store.

A checkpoint is two blobs, as containerd has them: the folder as a plain tar archive, and the container's
spec as a protobuf Any. What is on its way lies in a scratch folder, which is removed whatever happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from google.protobuf.message import DecodeError

from containerd_hybrid.containers.api import ContainerStore
from containerd_hybrid.content.api import ContentStore
from containerd_hybrid.diff.api import Applier, Comparer, DiffOptions
from containerd_hybrid.errors import AlreadyExistsError, HybridError, InvalidArgumentError
from containerd_hybrid.model import Descriptor, Mount, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.types.runc import options_pb2
from containerd_hybrid.tasks.api import CreateTask, TaskManager
from containerd_hybrid.tasks.bundle import Bundles
from containerd_hybrid.wire import any_to_wire

CHECKPOINT = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"

_ARCHIVE = "application/vnd.oci.image.layer.v1.tar"
_OPTIONS = options_pb2.CheckpointOptions.DESCRIPTOR.full_name


class Checkpoints:
    """Implements :class:`containerd_hybrid.tasks.api.TaskCheckpoints`."""

    def __init__(
        self,
        tasks: TaskManager,
        containers: ContainerStore,
        bundles: Bundles,
        content: ContentStore,
        applier: Applier,
        comparer: Comparer,
    ) -> None:
        self._tasks = tasks
        self._containers = containers
        self._bundles = bundles
        self._content = content
        self._applier = applier
        self._comparer = comparer

    async def take(self, scope: Scope, container_id: str, options: AnyValue | None) -> tuple[Descriptor, ...]:
        """See :meth:`TaskCheckpoints.take`."""
        container = await self._containers.get(scope, container_id)
        if path := _image_path(container.runtime_name, options):
            await self._tasks.checkpoint(scope, container_id, path, options)
            return ()
        async with self._scratch(scope.namespace) as folder:
            await self._tasks.checkpoint(scope, container_id, str(folder), options)
            archive = await self._comparer.compare(
                scope,
                (),
                (Mount("bind", str(folder), ("rbind", "ro")),),
                DiffOptions(media_type=_ARCHIVE, ref=f"checkpoint-{folder.name}"),
            )
            spec = any_to_wire(container.spec)
            data = b"" if spec is None else spec.SerializeToString()
            return replace(archive, media_type=CHECKPOINT), await self._write(
                scope, f"{folder.name}-spec", data
            )

    async def restoring(self, scope: Scope, request: CreateTask, checkpoint: Descriptor) -> CreateTask:
        """See :meth:`TaskCheckpoints.restoring`."""
        if checkpoint.media_type != CHECKPOINT:
            raise InvalidArgumentError(f'unsupported checkpoint type "{checkpoint.media_type}"')
        await self._content.info(scope, checkpoint.digest)

        async def fill(folder: Path) -> None:
            try:
                archive = replace(checkpoint, media_type=_ARCHIVE)
                await self._applier.apply(scope, archive, (Mount("bind", str(folder), ("rbind", "rw")),))
            except HybridError as error:
                raise type(error)(f"checkpoint {checkpoint.digest}: {error.message}") from error

        return replace(request, fill_checkpoint=fill)

    @asynccontextmanager
    async def _scratch(self, namespace: str) -> AsyncIterator[Path]:
        folder = await asyncio.to_thread(self._bundles.scratch, namespace)
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _write(self, scope: Scope, ref: str, data: bytes) -> Descriptor:
        ingest = await self._content.open_ingest(scope, ref)
        try:
            await ingest.write(data)
            digest = await ingest.digest()
            with contextlib.suppress(AlreadyExistsError):
                await ingest.commit(len(data), digest)
        except BaseException:
            await ingest.close()
            await self._content.abort(scope, ref)
            raise
        finally:
            await ingest.close()
        return Descriptor(CONFIG, digest, len(data))


def _image_path(runtime: str, options: AnyValue | None) -> str:
    if options is None or not options.type_url:
        return ""
    if options.type_name != _OPTIONS:
        raise InvalidArgumentError(f"invalid task checkpoint option for {runtime}: {options.type_url}")
    try:
        return options_pb2.CheckpointOptions.FromString(options.value).image_path
    except DecodeError as error:
        raise InvalidArgumentError(f"invalid task checkpoint option for {runtime}: {error}") from error
