"""Sandboxes: what is to run as one group, and what runs it (containerd.services.sandbox.v1).

A record in the :class:`SandboxStore` says what a sandbox is; a :class:`SandboxController` makes it. The two
know nothing of each other: who wants a sandbox first stores it, then has the controller that it names
(``sandboxer``) create and start it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from containerd_hybrid.model import Mount, Platform, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.tasks.api import Metric


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


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    """What a sandbox is given when it is created; ``options`` is for its shim (a pod's configuration)."""

    rootfs: tuple[Mount, ...] = ()
    options: AnyValue | None = None
    netns_path: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SandboxInstance:
    """A sandbox that was started; containers join it at ``address`` by ``version`` of the task API."""

    id: str
    pid: int
    created_at: int
    address: str
    version: int
    spec: AnyValue | None = None


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """A sandbox as its shim reports it; ``info`` is there when it was asked for verbosely."""

    id: str
    pid: int = 0
    state: str = ""
    info: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    exited_at: int = 0
    extra: AnyValue | None = None
    address: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class SandboxEnd:
    """How a sandbox ended."""

    status: int
    exited_at: int


class SandboxController(Protocol):
    """Runs sandboxes. NotFoundError for one that does not run, unless said otherwise."""

    async def create(self, scope: Scope, sandbox: Sandbox, request: CreateSandbox) -> None:
        """Prepare the sandbox; nothing is left of it when this fails.

        Raises:
            AlreadyExistsError: it runs.
            UnimplementedError: its runtime cannot run sandboxes.
        """
        ...

    async def start(self, scope: Scope, id: str) -> SandboxInstance:
        """Start it; when this fails, the sandbox is gone."""
        ...

    async def platform(self, scope: Scope, id: str) -> Platform:
        """What programs in it must be made for."""
        ...

    async def stop(self, scope: Scope, id: str, timeout: int = 0) -> None:
        """Stop what runs in it, within ``timeout`` seconds; one that does not run is no error."""
        ...

    async def wait(self, scope: Scope, id: str) -> SandboxEnd: ...

    async def status(self, scope: Scope, id: str, *, verbose: bool = False) -> SandboxStatus:
        """One that does not run has ended now."""
        ...

    async def shutdown(self, scope: Scope, id: str) -> None:
        """Take it away with everything in it."""
        ...

    async def metrics(self, scope: Scope, id: str) -> Metric: ...

    async def update(self, scope: Scope, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        """Tell it that its record has changed."""
        ...
