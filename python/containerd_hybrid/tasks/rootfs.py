"""Root file systems that the mount manager has to prepare before a shim can mount the rest.

Their activation has the task's name, and a label that ties it to the container: it ends with the task, or
with the container when the task was lost.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from containerd_hybrid.errors import AlreadyExistsError, HybridError, NotFoundError
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.model.labels import GC_BREF_CONTAINER
from containerd_hybrid.mounts.api import MountManager
from containerd_hybrid.tasks.api import CreateTask
from containerd_hybrid.tasks.program import ShimPrograms
from containerd_hybrid.tasks.runtimes import HYBRID, RUNC

log = logging.getLogger(__name__)

# A shim's own words about the mount types it takes, in what it says of itself (-info).
_ALLOWED_MOUNTS = "containerd.io/runtime-allow-mounts"


class RootFilesystems:
    """Activates and deactivates; without a manager every mount is left to the shims."""

    def __init__(self, mounts: MountManager | None, programs: ShimPrograms) -> None:
        self._mounts = mounts
        self._programs = programs
        self._allowed: dict[Path, tuple[str, ...]] = {}

    async def activate(self, scope: Scope, request: CreateTask, runtime: str, program: Path) -> CreateTask:
        """The request with the mounts that are left for the shim.

        Raises:
            HybridError: a mount failed; nothing is left of the others.
        """
        mounts = self._mounts
        if mounts is None or not mounts.handles(request.rootfs):
            return request
        allowed = await self._allowed_by(runtime, program)
        if not mounts.handles(request.rootfs, allowed):
            return request
        return replace(request, rootfs=await self._system(mounts, scope, request, allowed))

    async def deactivate(self, scope: Scope, id: str) -> None:
        """After the task was deleted. What cannot be unmounted is logged and left to the collector."""
        if self._mounts is None:
            return
        try:
            await self._mounts.deactivate(scope, id)
        except NotFoundError:
            pass
        except HybridError as error:
            log.error("failed to deactivate the mounts of task %s: %s", id, error.message)

    async def _system(
        self, mounts: MountManager, scope: Scope, request: CreateTask, allowed: tuple[str, ...]
    ) -> tuple[Mount, ...]:
        name = request.container_id
        try:
            activation = await mounts.activate(
                scope,
                name,
                request.rootfs,
                labels={GC_BREF_CONTAINER: name},
                allowed=allowed,
            )
        except AlreadyExistsError:
            # Of a task that was lost; the container is the same, so are its mounts.
            activation = await mounts.info(scope, name)
        return activation.system

    async def _allowed_by(self, runtime: str, program: Path) -> tuple[str, ...]:
        if runtime in (RUNC, HYBRID):
            return ()
        if program not in self._allowed:
            try:
                info = await self._programs.info(program, None)
            except HybridError as error:
                log.warning("runtime %s does not say which mounts it takes: %s", runtime, error.message)
                return ()
            names = info.annotations.get(_ALLOWED_MOUNTS, "")
            self._allowed[program] = tuple(name for name in names.split(",") if name)
        return self._allowed[program]
