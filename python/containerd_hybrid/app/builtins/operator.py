"""What is the operator's: the log of events, services of our own, verifiers, installed programs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_hybrid.app.api import InitContext, Plugin, PluginType, Served
from containerd_hybrid.app.builtins.storage import Differ, Metadata
from containerd_hybrid.app.builtins.threads import in_thread
from containerd_hybrid.app.config.durations import Duration
from containerd_hybrid.errors import InvalidConfigError

if TYPE_CHECKING:
    from containerd_hybrid.events.api import EventLog
    from containerd_hybrid.verification.api import ImageVerifier

_WEEK = Duration.parse("168h")
_VERIFIER_TIMEOUT = Duration.parse("10s")
_LEAST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class EventLogConfig:
    """``[plugins."io.containerd.hybrid.events.v1.log"]``: 0 as a bound is none."""

    max_age: Duration = _WEEK
    max_bytes: int = 64 << 20
    sync: bool = False


async def _event_log(context: InitContext) -> EventLog:
    from containerd_hybrid.events.log import SqliteEventLog

    config: EventLogConfig = context.config
    if config.max_age < 0 or 0 != config.max_bytes < _LEAST_BYTES:
        raise InvalidConfigError(
            f"event log: max_age {config.max_age} and max_bytes {config.max_bytes}: "
            f"give no less than 0s and {_LEAST_BYTES}, or 0 for no bound"
        )
    path = context.root / "events.db"
    log = SqliteEventLog(path, max_bytes=config.max_bytes, max_age=float(config.max_age), sync=config.sync)
    await log.open()
    context.on_close(log.close)
    context.exports["path"] = str(path)
    return log


def _event_log_service(context: InitContext) -> Served:
    from containerd_hybrid.events.api import EventLog
    from containerd_hybrid.rpc.describe import service_from
    from containerd_hybrid.rpc.services.event_log import EventLogService

    service = EventLogService(context.get(PluginType.EVENT_LOG, EventLog))
    return Served((service_from(service.descriptor, service),))


def _gc_service(context: InitContext) -> Served:
    from containerd_hybrid.metadata.api import Collector
    from containerd_hybrid.metadata.gc_explain import GarbageExplainer
    from containerd_hybrid.rpc.describe import service_from
    from containerd_hybrid.rpc.services.gc import GCService

    explainer = GarbageExplainer(context.get(PluginType.METADATA, Metadata).database)
    service = GCService(context.get(PluginType.GC, Collector), explainer)
    return Served((service_from(service.descriptor, service),))


def _hosts_dir(context: InitContext) -> str:
    """Where pulls find their hosts."""
    setting = context.catalog.explainer.setting("plugins", f"{PluginType.TRANSFER}.local", "config_path")
    return str(setting or "")


def _system_service(context: InitContext) -> Served:
    from containerd_hybrid.app.system import HostInformer
    from containerd_hybrid.registry.explain import HostsExplainer
    from containerd_hybrid.rpc.describe import service_from
    from containerd_hybrid.rpc.services.system import SystemService

    service = SystemService(
        context.catalog,
        HostInformer(context.root.parent, context.state.parent),
        HostsExplainer(_hosts_dir(context)),
    )
    return Served((service_from(service.descriptor, service),))


@dataclass(frozen=True, slots=True)
class BindirConfig:
    """``[plugins."io.containerd.image-verifier.v1.bindir"]``: negative ``max_verifiers`` is no limit."""

    bin_dir: str = "/opt/containerd/image-verifier/bin"
    max_verifiers: int = 10
    per_verifier_timeout: Duration = _VERIFIER_TIMEOUT


def _bindir(context: InitContext) -> ImageVerifier:
    from containerd_hybrid.verification.bindir import BindirVerifier

    config: BindirConfig = context.config
    return BindirVerifier(
        Path(config.bin_dir),
        max_verifiers=config.max_verifiers,
        timeout=float(config.per_verifier_timeout),
    )


@dataclass(frozen=True, slots=True)
class OptConfig:
    """``[plugins."io.containerd.internal.v1.opt"]``"""

    path: str = "/opt/containerd"


async def _opt(context: InitContext) -> None:
    """Where ``ctr install`` puts programs and libraries, which what this daemon starts then finds first."""
    config: OptConfig = context.config
    context.exports["path"] = config.path
    for variable, folder in (("PATH", "bin"), ("LD_LIBRARY_PATH", "lib")):
        place = str(Path(config.path, folder))
        # ctr does not make them.
        await in_thread(os.makedirs, place, mode=0o711, exist_ok=True)
        others = [entry for entry in os.environ.get(variable, "").split(":") if entry and entry != place]
        os.environ[variable] = ":".join((place, *others))


def _adoption_service(context: InitContext) -> Served:
    from containerd_hybrid.adopt.adopter import ContainerdAdopter
    from containerd_hybrid.rpc.describe import service_from
    from containerd_hybrid.rpc.services.adopt import AdoptionService

    metadata = context.get(PluginType.METADATA, Metadata)
    service = AdoptionService(
        ContainerdAdopter(
            metadata.namespaces,
            metadata.content,
            metadata.content_adopter,
            metadata.images,
            metadata.leases,
        )
    )
    return Served((service_from(service.descriptor, service),))


async def _fsck_service(context: InitContext) -> Served:
    from containerd_hybrid.content.api import BlobStore
    from containerd_hybrid.fsck.checker import StoreChecker
    from containerd_hybrid.fsck.layers import LayerChecker
    from containerd_hybrid.fsck.sources import BlobSources
    from containerd_hybrid.registry.client import HttpRegistryClient
    from containerd_hybrid.rpc.describe import service_from
    from containerd_hybrid.rpc.services.fsck import IntegrityService
    from containerd_hybrid.streaming.api import StreamManager
    from containerd_hybrid.transfer.fetch import BlobFetches

    metadata = context.get(PluginType.METADATA, Metadata)
    registries = HttpRegistryClient(hosts_dir=_hosts_dir(context))
    context.on_close(registries.close)
    checker = StoreChecker(
        metadata.database,
        metadata.namespaces,
        metadata.content,
        context.get(PluginType.CONTENT, BlobStore),
        metadata.locks,
        metadata.images,
        LayerChecker(
            metadata.snapshotters,
            context.get(PluginType.SERVICE, Differ, "diff-service").applier,
            metadata.leases,
        ),
        BlobSources(registries, BlobFetches(metadata.content)),
    )
    service = IntegrityService(checker, context.get(PluginType.STREAMING, StreamManager))
    return Served((service_from(service.descriptor, service),))


PLUGINS = (
    Plugin(PluginType.EVENT_LOG, "log", _event_log, config=EventLogConfig),
    Plugin(PluginType.GRPC, "hybrid-events", _event_log_service, (PluginType.EVENT_LOG,)),
    Plugin(PluginType.GRPC, "hybrid-gc", _gc_service, (PluginType.METADATA, PluginType.GC)),
    Plugin(PluginType.GRPC, "hybrid-adopt", _adoption_service, (PluginType.METADATA,)),
    Plugin(
        PluginType.GRPC,
        "hybrid-fsck",
        _fsck_service,
        (PluginType.METADATA, PluginType.CONTENT, PluginType.SERVICE, PluginType.STREAMING),
    ),
    Plugin(PluginType.GRPC, "hybrid-system", _system_service),
    Plugin(PluginType.IMAGE_VERIFIER, "bindir", _bindir, config=BindirConfig),
    Plugin(PluginType.INTERNAL, "opt", _opt, config=OptConfig),
)
