"""Sandbox records: what is to run as one group (containerd.services.sandbox.v1.Store)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox's metadata; ``sandboxer`` names the controller that runs it. Times are Unix nanoseconds."""

    id: str
    runtime_name: str = ""
    runtime_options: AnyValue | None = None
    spec: AnyValue | None = None
    sandboxer: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, AnyValue] = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


class SandboxStore(Protocol):
    """Sandbox records of a namespace. NotFoundError for unknown ids."""

    async def get(self, scope: Scope, id: str) -> Sandbox: ...

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Sandbox]:
        """Fields of filters: ``id``, ``labels.KEY``."""
        ...

    async def create(self, scope: Scope, sandbox: Sandbox) -> Sandbox:
        """AlreadyExistsError when the id is taken, InvalidArgumentError when it cannot be one."""
        ...

    async def update(self, scope: Scope, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        """Replace the fields named: ``labels``, ``labels.KEY``, ``extensions``, ``extensions.KEY``,
        ``spec``, ``runtime``.

        Without field paths all of them, and the runtime's name must be what it was. A spec or options
        that are None leave what is there; extensions are added to those that are there.
        """
        ...

    async def delete(self, scope: Scope, id: str) -> None: ...
