"""Plug-ins: named parts of the daemon, what they need, and how each is made.

The list of built-ins is explicit (``app/builtins.py``), in the order in which they appear there;
the graph starts each after those of the types it requires. A plug-in is a function from an
:class:`InitContext` to an instance. What it needs it takes from the context by type (and id), never
from a global.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from containerd_hybrid.errors import HybridError
from containerd_hybrid.model import Platform
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.model.deprecations import Deprecation
from containerd_hybrid.rpc.api import Service

T = TypeVar("T")
ConfigClass: TypeAlias = type[Any]


class PluginType(enum.StrEnum):
    """containerd's plug-in types, by the names that its configuration and introspection use. Two are ours."""

    CONTENT = "io.containerd.content.v1"
    IMAGE_VERIFIER = "io.containerd.image-verifier.v1"
    INTERNAL = "io.containerd.internal.v1"
    WARNING = "io.containerd.warning.v1"
    EVENT = "io.containerd.event.v1"
    EVENT_LOG = "io.containerd.hybrid.events.v1"
    RETENTION = "io.containerd.hybrid.retention.v1"
    MOUNT_HANDLER = "io.containerd.mount-handler.v1"
    SNAPSHOTTER = "io.containerd.snapshotter.v1"
    MONITOR_TASK = "io.containerd.monitor.task.v1"
    METADATA = "io.containerd.metadata.v1"
    GC = "io.containerd.gc.v1"
    SERVER = "io.containerd.server.v1"
    TRACING_PROCESSOR = "io.containerd.tracing.processor.v1"
    NRI = "io.containerd.nri.v1"
    TTRPC = "io.containerd.ttrpc.v1"
    SERVICE = "io.containerd.service.v1"
    DIFFER = "io.containerd.differ.v1"
    MOUNT_MANAGER = "io.containerd.mount-manager.v1"
    SHIM = "io.containerd.shim.v1"
    RUNTIME = "io.containerd.runtime.v2"
    GRPC = "io.containerd.grpc.v1"
    LEASE = "io.containerd.lease.v1"
    SANDBOX_STORE = "io.containerd.sandbox.store.v1"
    SANDBOX_CONTROLLER = "io.containerd.sandbox.controller.v1"
    PODSANDBOX_CONTROLLER = "io.containerd.podsandbox.controller.v1"
    TRANSFER = "io.containerd.transfer.v1"
    CRI = "io.containerd.cri.v1"
    STREAMING = "io.containerd.streaming.v1"
    MONITOR_CONTAINER = "io.containerd.monitor.container.v1"
    METRICS = "io.containerd.metrics.v1"
    HTTP = "io.containerd.http.v1"


class SkipPlugin(HybridError):  # noqa: N818 (containerd's name; skipping is no failure)
    """Raised by a plug-in that cannot work here (a file system, a device); not a failure of the daemon.

    Clients know such a plug-in by the end of its message.
    """

    code = "UNIMPLEMENTED"

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}: skip plugin")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the daemon serves, for the programs it starts. Empty when it does not."""

    grpc: str = ""
    ttrpc: str = ""


class InitContext(Protocol):
    """What a plug-in is given when it is made. ``config`` is its frozen configuration value.

    ``stream_processors`` are the configuration's, by name.
    ``root`` and ``state`` are its own folders, which it makes when it needs them. What it puts into
    ``exports``, ``capabilities`` and ``platforms`` is added to the registration's for introspection.
    """

    root: Path
    state: Path
    config: Any
    addresses: Addresses
    timeouts: Mapping[str, float]
    stream_processors: Mapping[str, Any]
    catalog: PluginCatalog
    exports: dict[str, str]
    capabilities: list[str]
    platforms: list[Platform]

    def get(self, type: PluginType, kind: type[T], id: str | None = None) -> T:
        """The instance of another plug-in, checked to be of ``kind``; without ``id`` the type's only one.

        Raises:
            NotFoundError: there is none, or it failed to start; the message says which and why.
        """
        ...

    def all(self, type: PluginType, kind: type[T]) -> dict[str, T]:
        """All instances of a type by id, in start order, without those that failed."""
        ...

    def on_close(self, action: Callable[[], Any]) -> None:
        """Run ``action`` (sync or async) when the daemon stops, in reverse order."""
        ...


@dataclass(frozen=True, slots=True)
class Plugin:
    """A registration: ``config`` is a frozen dataclass whose fields are the keys of its TOML table."""

    type: PluginType
    id: str
    init: Callable[[InitContext], Any]
    requires: tuple[PluginType, ...] = ()
    config: ConfigClass | None = None
    capabilities: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """``type.id`` as configuration names it."""
        return f"{self.type}.{self.id}"


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """A plug-in after start: ``error`` is why it is not there (a SkipPlugin when it cannot work here)."""

    plugin: Plugin
    error: HybridError | None = None
    instance: Any = None


@dataclass(frozen=True, slots=True)
class Served:
    """What a plug-in of type GRPC or TTRPC is: services for either socket."""

    grpc: tuple[Service, ...] = ()
    ttrpc: tuple[Service, ...] = ()


class Server(Protocol):
    """What a plug-in of type SERVER is. Its clean-up is the plug-in's ``on_close``."""

    async def start(self) -> None:
        """Listen and serve, in the background."""
        ...

    async def drain(self, timeout: float) -> None:
        """Accept nothing new and let what runs end, for ``timeout`` seconds at most."""
        ...


@runtime_checkable
class Reloadable(Protocol):
    """A plug-in that can take a changed configuration while it runs."""

    def reload(self, config: Any) -> None:
        """Work with ``config`` from now on."""
        ...


@runtime_checkable
class InformingPlugin(Protocol):
    """A plug-in with more to say than what it is made of (Introspection.PluginInfo with options)."""

    async def plugin_info(self, options: AnyValue) -> AnyValue:
        """Answer a question whose type is the plug-in's own.

        Raises:
            UnimplementedError: not a question for this plug-in.
        """
        ...


class SeenDeprecations(Protocol):
    """What the plug-in of type WARNING is, for introspection and for those who notice a deprecated use."""

    def warn(self, deprecation: Deprecation) -> None:
        """Note a use of it now."""
        ...

    def seen(self) -> Mapping[Deprecation, int]:
        """When each was used last, in Unix nanoseconds."""
        ...


@dataclass(frozen=True, slots=True)
class KeySource:
    """A place that says what a key's value is; ``line`` is 0 where it is not known, ``value`` is TOML."""

    place: str
    line: int
    value: str


@dataclass(frozen=True, slots=True)
class KeyExplanation:
    """A key, its value and default as TOML, and who gave it: the last of them. No sources: the default."""

    key: str
    value: str
    default: str
    sources: tuple[KeySource, ...] = ()


@dataclass(frozen=True, slots=True)
class IgnoredKey:
    """A key (or table) that a file has and nothing reads."""

    key: str
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConfigExplanation:
    """Some keys; ``files`` in the order in which they were read, where a later one overrides."""

    keys: tuple[KeyExplanation, ...]
    files: tuple[str, ...]
    ignored: tuple[IgnoredKey, ...] = ()


class ConfigExplainer(Protocol):
    """Knows where the configuration in force comes from."""

    def explain(self, key: str) -> ConfigExplanation:
        """A key, or all below a table; an empty key is everything.

        Raises:
            InvalidArgumentError: it is no key.
            NotFoundError: there is none of that name, not even one that is ignored.
        """
        ...

    def setting(self, *path: str) -> Any:
        """The value of one key, None when there is none."""
        ...


class PluginCatalog(Protocol):
    """The plug-ins of this daemon, for introspection, and what it is configured by."""

    @property
    def explainer(self) -> ConfigExplainer: ...

    def statuses(self) -> Sequence[PluginStatus]: ...


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What a daemon is made of and stands on; names to paths, versions or whether it is there."""

    version: str
    api_version: str
    revision: str
    libraries: Mapping[str, str]
    kernel: str
    architecture: str
    cgroups: str
    kernel_features: Mapping[str, bool]
    implementations: Mapping[str, str]
    runtimes: Mapping[str, str]
    root: str
    state: str


class SystemInformer(Protocol):
    """Looks at the machine and the program."""

    async def info(self) -> SystemInfo: ...
