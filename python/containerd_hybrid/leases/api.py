"""Leases: what they name is not collected (containerd.services.leases.v1)."""

from __future__ import annotations

import datetime
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.model import Scope

EXPIRE_LABEL = "containerd.io/gc.expire"
FLAT_LABEL = "containerd.io/gc.flat"


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

    The fresh one expires after ``hours`` in case the daemon dies inside.
    """
    if scope.lease is not None:
        yield scope
        return
    expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    fresh = f"hybrid-{os.urandom(8).hex()}"
    try:
        # Inside, because who is cancelled while it waits has a lease all the same.
        await leases.create(scope, fresh, {EXPIRE_LABEL: expiry.strftime("%Y-%m-%dT%H:%M:%SZ")})
        yield Scope(scope.namespace, fresh)
    finally:
        with suppress(NotFoundError):
            await leases.delete(scope, fresh)
