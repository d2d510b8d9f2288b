"""What an operator has that containerd does not: the log of events, and services of our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_hybrid.app.api import InitContext, Plugin, PluginType, Served
from containerd_hybrid.app.builtins.storage import Metadata
from containerd_hybrid.app.config.durations import Duration
from containerd_hybrid.errors import InvalidConfigError

if TYPE_CHECKING:
    from containerd_hybrid.events.api import EventLog

_WEEK = Duration.parse("168h")
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


def _system_service(context: InitContext) -> Served:
    from containerd_hybrid.app.system import HostInformer
    from containerd_hybrid.registry.explain import HostsExplainer
    from containerd_hybrid.rpc.describe import service_from
    from containerd_hybrid.rpc.services.system import SystemService

    hosts_dir = context.catalog.explainer.setting("plugins", f"{PluginType.TRANSFER}.local", "config_path")
    service = SystemService(
        context.catalog,
        HostInformer(context.root.parent, context.state.parent),
        HostsExplainer(str(hosts_dir or "")),
    )
    return Served((service_from(service.descriptor, service),))


PLUGINS = (
    Plugin(PluginType.EVENT_LOG, "log", _event_log, config=EventLogConfig),
    Plugin(PluginType.GRPC, "hybrid-events", _event_log_service, (PluginType.EVENT_LOG,)),
    Plugin(PluginType.GRPC, "hybrid-gc", _gc_service, (PluginType.METADATA, PluginType.GC)),
    Plugin(PluginType.GRPC, "hybrid-system", _system_service),
)
