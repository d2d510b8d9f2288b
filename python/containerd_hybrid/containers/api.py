"""Containers: the record of what is to run (containerd.services.containers.v1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.model.scope import Scope


@dataclass(frozen=True, slots=True)
class Container:
    """A container's metadata; a task exists only while it runs. Times are Unix nanoseconds."""

    id: str
    image: str = ""
    runtime_name: str = ""
    runtime_options: AnyValue | None = None
    spec: AnyValue | None = None
    snapshotter: str = ""
    snapshot_key: str = ""
    sandbox: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, AnyValue] = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


class ContainerStore(Protocol):
    """Container records of a namespace."""

    async def get(self, scope: Scope, id: str) -> Container: ...

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Container]: ...

    async def create(self, scope: Scope, container: Container) -> Container: ...

    async def update(self, scope: Scope, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        """Without field paths everything but the immutable snapshotter and runtime name is replaced."""
        ...

    async def delete(self, scope: Scope, id: str) -> None: ...
