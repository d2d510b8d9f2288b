"""Leases: what they name is not collected (containerd.services.leases.v1)."""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.model import Scope

EXPIRE_LABEL = "containerd.io/gc.expire"
FLAT_LABEL = "containerd.io/gc.flat"
OWNER_LABEL = "io.containerd.hybrid/owner"
"""On a lease that ends with a process: which one that is, as :func:`this_process` says it."""


@dataclass(frozen=True, slots=True)
class Lease:
    """``labels`` may hold an RFC 3339 expiry under ``containerd.io/gc.expire``."""

    id: str
    created_at: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeaseResource:
    """``type`` is ``content``, ``ingests``, ``images`` or ``snapshots/<snapshotter>``."""

    type: str
    id: str


class LeaseManager(Protocol):
    """Leases of a namespace."""

    async def create(self, scope: Scope, id: str = "", labels: Mapping[str, str] | None = None) -> Lease:
        """An empty ``id`` is filled with a fresh one."""
        ...

    async def delete(self, scope: Scope, id: str) -> None: ...

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Lease]: ...

    async def add_resource(self, scope: Scope, id: str, resource: LeaseResource) -> None: ...

    async def delete_resource(self, scope: Scope, id: str, resource: LeaseResource) -> None: ...

    async def list_resources(self, scope: Scope, id: str) -> Sequence[LeaseResource]: ...


@asynccontextmanager
async def protected(leases: LeaseManager, scope: Scope, hours: float = 24) -> AsyncIterator[Scope]:
    """A scope with a lease: the caller's own, or a fresh one that ends with the block.

    The fresh one expires after ``hours`` in case the daemon dies inside, and sooner when one that starts
    afterwards sees that.
    """
    if scope.lease is not None:
        yield scope
        return
    expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    fresh = f"hybrid-{os.urandom(8).hex()}"
    owner = await asyncio.to_thread(this_process)
    try:
        # Inside, because who is cancelled while it waits has a lease all the same.
        labels = {EXPIRE_LABEL: expiry.strftime("%Y-%m-%dT%H:%M:%SZ"), OWNER_LABEL: owner}
        await leases.create(scope, fresh, labels)
        yield Scope(scope.namespace, fresh)
    finally:
        with suppress(NotFoundError):
            await leases.delete(scope, fresh)


def this_process() -> str:
    """A name that no other process has: boot, number and start of this one (proc_pid_stat(5))."""
    return f"{_boot()}:{os.getpid()}:{_started(os.getpid())}"


def has_ended(owner: str) -> bool:
    """Whether a process that :func:`this_process` named is no more; False for what is no such name."""
    try:
        boot, pid, started = owner.split(":")
        return _started(int(pid)) != int(started) or boot != _boot()
    except ValueError:
        return False


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int:
    """When a process began, in ticks since boot; -1 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return -1
