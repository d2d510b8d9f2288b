"""Mounting what snapshotters describe, on this machine: at once, or by name for as long as it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from containerd_hybrid.model import Mount, Scope


class Mounter(Protocol):
    """Mounts and unmounts without blocking the event loop."""

    async def mount(self, mounts: Sequence[Mount], target: Path) -> None:
        """Mount all of them on ``target`` in order; when one fails, the earlier ones are undone."""
        ...

    async def unmount(self, target: Path) -> None:
        """Unmount everything on ``target`` (and below it), lazily if it is busy; nothing is no error."""
        ...

    def temporary(
        self, mounts: Sequence[Mount], *, read_only: bool = False
    ) -> AbstractAsyncContextManager[Path]:
        """Mount on a fresh folder and take it away at the end, whatever happened inside."""
        ...


@dataclass(frozen=True, slots=True)
class ActiveMount:
    """A mount that the manager made, at ``mount_point``; ``mounted_at`` is in Unix nanoseconds.

    ``data`` is what its handler has to say about it.
    """

    mount: Mount
    mount_point: str
    mounted_at: int
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Activation:
    """Mounts under one name: the manager made the ``active`` ones, the ``system`` ones are the caller's."""

    name: str
    active: tuple[ActiveMount, ...] = ()
    system: tuple[Mount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class MountHandler(Protocol):
    """Mounts of one type that mount(2) cannot make. Blocking; called in threads."""

    def mount(self, mount: Mount, mount_point: Path, active: Sequence[ActiveMount]) -> ActiveMount:
        """Make ``mount_point``, which does not exist; nothing is left when this fails."""
        ...

    def unmount(self, mount_point: Path) -> None:
        """Take away what :meth:`mount` made; that there is nothing is no error."""
        ...

    def alive(self, mount_point: Path) -> bool:
        """Whether what :meth:`mount` made is still there."""
        ...


class MountManager(Protocol):
    """Activations of a namespace (containerd.services.mounts.v1).

    A list of mounts may have types that mount(2) does not know: ``format/TYPE`` (templates in source,
    target and options, such as ``{{ mount 0 }}``), ``mkdir/TYPE`` and ``mkfs/TYPE`` (made before the
    mount), and those of handlers (``loop``). The manager makes every mount up to the last that needs it
    and leaves the rest to whoever asked. An activation ends by ``deactivate``, or as garbage: it is held
    by the lease of the call and by labels (``containerd.io/gc.bref.*`` on it, ``gc.ref.mount`` elsewhere).
    """

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
        """Make what has to be made; all of it and a bind mount of the result when it is ``temporary``.

        ``allowed`` are types that the caller can mount by itself (``format/*``: all formatted ones).

        Raises:
            UnimplementedError: no mount needs the manager; nothing was done.
            AlreadyExistsError: there is an activation of that name.
            InvalidArgumentError: a type, template or option cannot be right.
            HybridError: what a mount failed with. Nothing is left of the others.
        """
        ...

    async def deactivate(self, scope: Scope, name: str) -> None:
        """NotFoundError when there is none. What cannot be unmounted now is left to :meth:`cleanup`."""
        ...

    async def info(self, scope: Scope, name: str) -> Activation: ...

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Activation]:
        """Fields of filters: ``name``, ``labels.KEY``."""
        ...

    def handles(self, mounts: Sequence[Mount], allowed: Sequence[str] = ()) -> bool:
        """Whether :meth:`activate` has something to do for these."""
        ...

    async def cleanup(self) -> None:
        """Unmount what has no record any more.

        Raises:
            HybridError: some of it stays.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredActivation:
    """``id`` is never used again; ``activation`` is None while its mounts are being made."""

    id: int
    scope: Scope
    name: str
    activation: Activation | None


class ActivationStore(Protocol):
    """The records behind a :class:`MountManager`."""

    async def begin(self, scope: Scope, name: str, labels: Mapping[str, str]) -> int:
        """Take the name (for the scope's lease); AlreadyExistsError when it is taken."""
        ...

    async def complete(self, id: int, active: Sequence[ActiveMount], system: Sequence[Mount]) -> None: ...

    async def forget(self, id: int) -> None:
        """Remove the record, if it is there."""
        ...

    async def remove(self, scope: Scope, name: str) -> StoredActivation:
        """Take the record out; NotFoundError when there is none."""
        ...

    async def get(self, scope: Scope, name: str) -> Activation: ...

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Activation]: ...

    async def everything(self) -> Sequence[StoredActivation]:
        """The records of all namespaces."""
        ...
