"""Activations: mounts made below the state folder and kept by name.

Each activation has a folder ``NUMBER`` below the targets, and in it for each mount a mount point and a
file ``MOUNTPOINT-type`` with the mount's type, which names the handler that can unmount it. Mount points
are numbers that count down, so that they are unmounted in ascending order. The layout is containerd's.

A record is written before its folder is made, and removed before its mounts are, so a folder without a
record is rubbish: of a deactivation that failed, of an activation that was collected, or of a daemon that
was killed. :meth:`ActivatingMountManager.cleanup` takes these away, and :meth:`restore` makes sure at a
start that records and mounts agree.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from containerd_hybrid import _native
from containerd_hybrid.errors import (
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    UnimplementedError,
    error_for_code,
    error_for_os,
)
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.mounts.api import (
    Activation,
    ActivationStore,
    ActiveMount,
    Mounter,
    MountHandler,
    StoredActivation,
)
from containerd_hybrid.mounts.beneath import Roots
from containerd_hybrid.mounts.mkdir import MakeFolders
from containerd_hybrid.mounts.mkfs import MakeFileSystem
from containerd_hybrid.mounts.plan import Plan, Planner, Step
from containerd_hybrid.mounts.threads import to_the_end
from containerd_hybrid.mounts.transform import Format, Transformer

log = logging.getLogger(__name__)

_TYPE = "-type"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a starting daemon found: names that live on, and names whose mounts were not there any more."""

    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(slots=True)
class _Name:
    """A name or folder that somebody works on; the lock is dropped with its last user."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class ActivatingMountManager:
    """Implements :class:`containerd_hybrid.mounts.api.MountManager`.

    ``targets`` is its own folder, below the state; ``roots`` are other folders beneath which ``mkdir/``
    and ``mkfs/`` may make something.
    """

    def __init__(
        self,
        store: ActivationStore,
        mounter: Mounter,
        targets: Path,
        *,
        roots: Sequence[Path] = (),
        handlers: Mapping[str, MountHandler] | None = None,
    ) -> None:
        self._store = store
        self._mounter = mounter
        self._targets = targets
        self._handlers = dict(handlers or {})
        allowed = Roots([targets, *roots])
        transformers: dict[str, Transformer] = {
            "format": Format(),
            "mkdir": MakeFolders(allowed),
            "mkfs": MakeFileSystem(allowed),
        }
        self._planner = Planner(transformers, self._handlers)
        self._names: dict[tuple[str, str] | int, _Name] = {}
        # Folders that an activation or deactivation works on now.
        self._busy: set[int] = set()
        self._making: set[asyncio.Task[Any]] = set()
        self._working: set[asyncio.Task[Any]] = set()

    def handles(self, mounts: Sequence[Mount], allowed: Sequence[str] = ()) -> bool:
        """Whether there is something to do for these mounts."""
        return self._planner.plan(mounts, allowed=allowed) is not None

    async def activate(
        self,
        scope: Scope,
        name: str,
        mounts: Sequence[Mount],
        *,
        labels: Mapping[str, str] | None = None,
        temporary: bool = False,
        allowed: Sequence[str] = (),
    ) -> Activation:
        """See :meth:`MountManager.activate`. What a cancelled call has mounted is taken away."""
        if not name:
            raise InvalidArgumentError("mount name required")
        plan = self._planner.plan(mounts, temporary=temporary, allowed=allowed)
        if plan is None:
            raise UnimplementedError(
                f"mount {name!r}: no mount of it needs the mount manager: not implemented"
            )
        work = asyncio.create_task(self._activate(scope, name, plan, labels or {}, temporary))
        self._making.add(work)
        work.add_done_callback(self._making.discard)
        try:
            return await self._shielded(work)
        except asyncio.CancelledError:
            work.cancel()
            raise

    async def deactivate(self, scope: Scope, name: str) -> None:
        """Unmount, last made first. What fails is tried again by :meth:`cleanup`.

        A caller that goes away does not stop it.
        """
        await self._shielded(asyncio.create_task(self._deactivate(scope, name)))

    async def info(self, scope: Scope, name: str) -> Activation:
        """The activation; without mounts while they are being made."""
        return await self._store.get(scope, name)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Activation]:
        """In the order of their names."""
        return await self._store.list(scope, filters)

    async def cleanup(self) -> None:
        """Take away the folders that have no record, with what is mounted there."""
        # The folders first: a record is made before its folder.
        folders = await asyncio.to_thread(self._folders)
        if not folders - self._busy:
            return
        recorded = {one.id for one in await self._store.everything()}
        problems = []
        for number in sorted(folders - recorded - self._busy):
            try:
                await self._clear(self._targets / str(number))
            except HybridError as error:
                problems.append(error)
        if problems:
            raise error_for_code(problems[0].code, "; ".join(error.message for error in problems))

    async def restore(self) -> RestoreReport:
        """At a start: forget what is not (completely) mounted any more and take away what has no record.

        An activation whose mounts are all there lives on, as the task that uses it does.
        """
        await asyncio.to_thread(self._targets.mkdir, 0o700, True, True)
        kept, lost = [], []
        for one in await self._store.everything():
            if one.activation is not None and await asyncio.to_thread(self._alive, one.activation):
                kept.append(f"{one.scope.namespace}/{one.name}")
            else:
                lost.append(f"{one.scope.namespace}/{one.name}")
                await self._store.forget(one.id)
        try:
            await self.cleanup()
        except HybridError as error:
            log.warning("mounts of an earlier daemon stay behind: %s", error.message)
        return RestoreReport(tuple(kept), tuple(lost))

    async def close(self) -> None:
        """Give up activations in progress; what is active stays, for containers that live on."""
        for task in list(self._making):
            if not task.cancelling():  # a second time would interrupt its clean-up
                task.cancel()
        if self._working:
            await asyncio.wait(self._working)

    # --- activate ------------------------------------------------------------------------------

    async def _activate(
        self, scope: Scope, name: str, plan: Plan, labels: Mapping[str, str], temporary: bool
    ) -> Activation:
        async with self._locked((scope.namespace, name)):
            number = await self._store.begin(scope, name, labels)
            self._busy.add(number)
            folder = self._targets / str(number)
            active: builtins.list[ActiveMount] = []
            try:
                await to_the_end(lambda: folder.mkdir(0o700))
                system = await self._make(plan, folder, active, temporary)
                await self._store.complete(number, active, system)
            except BaseException as error:
                await self._undo(number, folder)
                if isinstance(error, OSError):
                    raise error_for_os(error, f"activate mount {name!r}") from error
                raise
            finally:
                self._busy.discard(number)
        return Activation(name, tuple(active), tuple(system), dict(labels))

    async def _make(
        self, plan: Plan, folder: Path, active: builtins.list[ActiveMount], temporary: bool
    ) -> builtins.list[Mount]:
        for index, step in enumerate(plan.first):
            # Counting down, so that ascending is the order of unmounting.
            mount_point = folder / str(len(plan.first) - index)
            active.append(await self._make_one(step, mount_point, active))
        system = [step.mount for step in plan.rest]
        if plan.rest and plan.rest[0].transformers:
            system[0] = await to_the_end(lambda: plan.rest[0].transformed(active))
        if temporary and active:
            system.append(Mount("bind", active[-1].mount_point, ("rbind",)))
        return system

    async def _make_one(self, step: Step, mount_point: Path, active: Sequence[ActiveMount]) -> ActiveMount:
        mount = await to_the_end(lambda: step.transformed(active))
        await to_the_end(lambda: _type_file(mount_point).write_text(mount.type))
        handler = step.handler
        try:
            if handler is not None:
                return await to_the_end(lambda: handler.mount(mount, mount_point, active))
            await to_the_end(lambda: mount_point.mkdir(0o700))
            await self._mounter.mount([mount], mount_point)
        except HybridError as error:
            message = f"mount failed: {mount.type} mount of {mount.source}: {error.message}"
            if isinstance(error, UnimplementedError):
                # To callers that code means that they may mount by themselves.
                raise FailedPreconditionError(message) from error
            raise error_for_code(error.code, message) from error
        return ActiveMount(mount, str(mount_point), time.time_ns())

    async def _undo(self, number: int, folder: Path) -> None:
        """Nothing that fails here hides why the activation failed; cleanup finds the folder again."""
        try:
            await self._clear(folder)
        except HybridError as error:
            log.warning("a failed activation stays behind: %s", error.message)
        try:
            await self._store.forget(number)
        except HybridError as error:
            log.warning("the record of a failed activation stays behind: %s", error.message)

    # --- deactivate ----------------------------------------------------------------------------

    async def _deactivate(self, scope: Scope, name: str) -> None:
        async with self._locked((scope.namespace, name)):
            removed: StoredActivation = await self._store.remove(scope, name)
            self._busy.add(removed.id)
            try:
                await self._clear(self._targets / str(removed.id))
            finally:
                self._busy.discard(removed.id)

    async def _clear(self, folder: Path) -> None:
        """Unmount everything in an activation's folder, then remove it.

        Raises:
            HybridError: something stays mounted, and so does the folder.
        """
        async with self._locked(int(folder.name)):
            problems = []
            for mount_point in await to_the_end(lambda: _mount_points(folder)):
                try:
                    await self._unmount(mount_point)
                except HybridError as error:
                    problems.append(error)
            if problems:
                raise error_for_code(
                    problems[0].code, f"unmount {folder}: {'; '.join(error.message for error in problems)}"
                )
            # Refuses to go into a file system that is still mounted.
            await to_the_end(lambda: _native.remove_tree(folder))

    async def _unmount(self, mount_point: Path) -> None:
        handler = self._handlers.get(await to_the_end(lambda: _read_type(mount_point)))
        if handler is not None:
            await to_the_end(lambda: handler.unmount(mount_point))
        else:
            await self._mounter.unmount(mount_point)

    # --- state ---------------------------------------------------------------------------------

    def _folders(self) -> set[int]:
        if not self._targets.is_dir():
            return set()
        return {int(path.name) for path in self._targets.iterdir() if path.name.isdecimal()}

    def _alive(self, activation: Activation) -> bool:
        for one in activation.active:
            handler = self._handlers.get(one.mount.type)
            there = (
                handler.alive(Path(one.mount_point))
                if handler is not None
                else _native.mounted(Path(one.mount_point, one.mount.target))
            )
            if not there:
                return False
        return True

    @asynccontextmanager
    async def _locked(self, key: tuple[str, str] | int) -> AsyncIterator[None]:
        entry = self._names.setdefault(key, _Name())
        entry.users += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.users -= 1
            if not entry.users:
                self._names.pop(key, None)

    async def _shielded(self, work: asyncio.Task[T]) -> T:
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_look_at)
            raise


def _look_at(done: asyncio.Task[Any]) -> None:
    # Nobody else will, and asyncio complains about errors that nobody looked at.
    if not done.cancelled() and (error := done.exception()) is not None:
        log.warning("a mount whose client went away: %s", error)


def _type_file(mount_point: Path) -> Path:
    return mount_point.with_name(mount_point.name + _TYPE)


def _read_type(mount_point: Path) -> str:
    try:
        return _type_file(mount_point).read_text()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise error_for_os(error, f"read the type of {mount_point}") from error


def _mount_points(folder: Path) -> list[Path]:
    """In the order in which they are to be unmounted."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise error_for_os(error, f"read {folder}") from error
    # The type file is written before there is a mount, and may be all that there is.
    numbers = {int(name.removesuffix(_TYPE)) for name in names if name.removesuffix(_TYPE).isdecimal()}
    return [folder / str(number) for number in sorted(numbers)]
