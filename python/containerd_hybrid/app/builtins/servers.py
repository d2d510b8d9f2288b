"""What listens: gRPC on a Unix socket and, with mutual TLS, on TCP; ttrpc for shims; HTTP for watching."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from containerd_hybrid.app.api import InitContext, Plugin, PluginType, Served, Server, SkipPlugin
from containerd_hybrid.app.builtins.threads import in_thread
from containerd_hybrid.app.config.model import DEFAULT_ADDRESS, MAX_MESSAGE_SIZE
from containerd_hybrid.errors import InvalidArgumentError, InvalidConfigError, error_for_os
from containerd_hybrid.model import Platform

if TYPE_CHECKING:
    from containerd_hybrid.events.api import EventLog
    from containerd_hybrid.metrics.api import Collector
    from containerd_hybrid.rpc.api import Service
    from containerd_hybrid.rpc.endpoints import TcpEndpoint, UnixEndpoint
    from containerd_hybrid.rpc.front.adaptor import FrontAdaptor
    from containerd_hybrid.rpc.grpc_adaptor import GrpcAdaptor
    from containerd_hybrid.rpc.interceptors import CallMetrics
    from containerd_hybrid.tracing.api import Tracer


LENT = "lent-"
"""What the namespaces of snapshotters begin with that other containerds use."""

NATIVE = "native"
GRPCIO = "grpcio"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """``[plugins."io.containerd.server.v1.grpc"]``

    ``implementation`` is ours alone: ``native``, or ``grpcio`` for the server of gRPC's own library.
    """

    address: str = DEFAULT_ADDRESS
    uid: int = os.geteuid()
    gid: int = os.getegid()
    max_recv_message_size: int = MAX_MESSAGE_SIZE
    max_send_message_size: int = MAX_MESSAGE_SIZE
    implementation: str = NATIVE


@dataclass(frozen=True, slots=True)
class TcpConfig:
    """``[plugins."io.containerd.server.v1.grpc-tcp"]``; ``implementation`` as for the socket."""

    address: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_common_name: str = ""
    max_recv_message_size: int = MAX_MESSAGE_SIZE
    max_send_message_size: int = MAX_MESSAGE_SIZE
    implementation: str = NATIVE


@dataclass(frozen=True, slots=True)
class TtrpcConfig:
    """``[plugins."io.containerd.server.v1.ttrpc"]``"""

    address: str = f"{DEFAULT_ADDRESS}.ttrpc"
    uid: int = os.geteuid()
    gid: int = os.getegid()


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """``[plugins."io.containerd.metrics.v1.grpc-prometheus"]``"""

    grpc_histogram: bool = False


@dataclass(frozen=True, slots=True)
class TaskMonitorConfig:
    """``[plugins."io.containerd.monitor.task.v1.cgroups"]``"""

    no_prometheus: bool = False


@dataclass(frozen=True, slots=True)
class MetricsServerConfig:
    """``[plugins."io.containerd.server.v1.metrics"]``: ``HOST:PORT``, empty for none."""

    address: str = ""


@dataclass(frozen=True, slots=True)
class DebugConfig:
    """``[plugins."io.containerd.server.v1.debug"]``: a Unix socket, empty for none."""

    address: str = ""
    uid: int = os.geteuid()
    gid: int = os.getegid()


@dataclass(frozen=True, slots=True)
class LentConfig:
    """``[plugins."io.containerd.server.v1.snapshots"]``: a socket for other containerds' proxy plug-ins.

    ``snapshotters`` are ours by the names that they have over there; no address is no such socket.
    """

    address: str = ""
    uid: int = os.geteuid()
    gid: int = os.getegid()
    snapshotters: dict[str, str] = field(default_factory=lambda: {"hybrid": "overlayfs"})


def _metrics(context: InitContext) -> CallMetrics:
    from containerd_hybrid.rpc.interceptors import CallMetrics

    config: MetricsConfig = context.config
    return CallMetrics(histogram=config.grpc_histogram)


def _task_monitor(context: InitContext) -> Collector:
    from containerd_hybrid.metrics.tasks import TaskCollector
    from containerd_hybrid.tasks.manager import ShimTaskManager

    config: TaskMonitorConfig = context.config
    if config.no_prometheus:
        raise SkipPlugin("no_prometheus is configured")
    context.platforms.append(Platform.host())
    return TaskCollector(context.get(PluginType.RUNTIME, ShimTaskManager, "task"))


def _metrics_server(context: InitContext) -> Server:
    from containerd_hybrid.app.release import REVISION, SERVED_VERSION
    from containerd_hybrid.metrics.api import Collector
    from containerd_hybrid.metrics.calls import CallCollector
    from containerd_hybrid.metrics.process import ProcessCollector
    from containerd_hybrid.metrics.server import MetricsServer
    from containerd_hybrid.rpc.interceptors import CallMetrics

    config: MetricsServerConfig = context.config
    if not config.address:
        raise SkipPlugin("no address is configured")
    collectors: list[Collector] = [
        ProcessCollector(SERVED_VERSION, REVISION),
        *(CallCollector(calls) for calls in context.all(PluginType.METRICS, CallMetrics).values()),
        *context.all(PluginType.MONITOR_TASK, Collector).values(),
    ]
    server = MetricsServer(config.address, collectors)
    context.on_close(server.close)
    return server


def _debug(context: InitContext) -> Server:
    from containerd_hybrid.app.debug import DebugServer
    from containerd_hybrid.rpc.sockets import SocketOwner

    config: DebugConfig = context.config
    if not config.address:
        raise SkipPlugin("no address is configured")
    if not config.address.startswith("/"):
        raise InvalidConfigError(
            f"debug address {config.address} must be the path of a Unix socket: "
            "on an open port anybody could change the daemon's log"
        )
    server = DebugServer(config.address, SocketOwner(config.uid, config.gid))
    context.on_close(server.close)
    return server


def _grpc(context: InitContext) -> Server:
    from containerd_hybrid.rpc.endpoints import UnixEndpoint
    from containerd_hybrid.rpc.sockets import SocketOwner

    config: GrpcConfig = context.config
    if not config.address:
        raise InvalidConfigError("grpc address cannot be empty")
    return _serving(context, config, UnixEndpoint(config.address, SocketOwner(config.uid, config.gid)))


def _serving(
    context: InitContext, config: GrpcConfig | TcpConfig, endpoint: UnixEndpoint | TcpEndpoint
) -> Server:
    """A gRPC server of the configured implementation, with every service."""
    if config.implementation not in (NATIVE, GRPCIO):
        raise InvalidConfigError(
            f"implementation {config.implementation!r} of the gRPC server: it is {NATIVE!r} or {GRPCIO!r}"
        )
    sizes = {"max_receive": config.max_recv_message_size, "max_send": config.max_send_message_size}
    services = wrapped(context, grpc_services(context))
    adaptor: FrontAdaptor | GrpcAdaptor
    if config.implementation == NATIVE:
        from containerd_hybrid.rpc.front.adaptor import FrontAdaptor

        adaptor = FrontAdaptor(services, endpoint, **sizes)
    else:
        from containerd_hybrid.rpc.grpc_adaptor import GrpcAdaptor

        adaptor = GrpcAdaptor(services, endpoint, **sizes)
    context.on_close(adaptor.close)
    return adaptor


def _lent(context: InitContext) -> Server:
    from containerd_hybrid.app.builtins.storage import Metadata
    from containerd_hybrid.metadata.api import Collector
    from containerd_hybrid.model.identifiers import validate_identifier
    from containerd_hybrid.rpc.describe import service_from
    from containerd_hybrid.rpc.endpoints import UnixEndpoint
    from containerd_hybrid.rpc.front.adaptor import FrontAdaptor
    from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services
    from containerd_hybrid.rpc.interceptors.namespace import GivenNamespace
    from containerd_hybrid.rpc.services.snapshots import SnapshotsService
    from containerd_hybrid.rpc.sockets import SocketOwner
    from containerd_hybrid.snapshots.lent import LentSnapshotter

    config: LentConfig = context.config
    if not config.address:
        raise SkipPlugin("no address is configured")
    ours = context.get(PluginType.METADATA, Metadata).snapshotters
    lent = {}
    for name, own in config.snapshotters.items():
        if own not in ours:
            raise InvalidConfigError(
                f"snapshotters.{name}: there is no snapshotter {own!r} here: use one of "
                f"{', '.join(sorted(ours))}"
            )
        namespace = f"{LENT}{name}"
        try:
            validate_identifier(namespace)
        except InvalidArgumentError as error:
            raise InvalidConfigError(f"snapshotters.{name}: {error.message}") from error
        lent[name] = LentSnapshotter(ours[own], namespace)
    collector = context.get(PluginType.GC, Collector)
    service = service_from(SnapshotsService.descriptor, SnapshotsService(lent, collector))
    # With counts of its own, as ttrpc has them.
    chain = standard_interceptors(CallMetrics(), event_log(context), tracer(context))
    services = wrap_services([service], [*chain, GivenNamespace(LENT.rstrip("-"))])
    endpoint = UnixEndpoint(config.address, SocketOwner(config.uid, config.gid))
    adaptor = FrontAdaptor(services, endpoint, max_receive=MAX_MESSAGE_SIZE, max_send=MAX_MESSAGE_SIZE)
    context.on_close(adaptor.close)
    return adaptor


async def _grpc_tcp(context: InitContext) -> Server:
    config: TcpConfig = context.config
    if not config.address:
        raise SkipPlugin("no address is configured")
    if not (config.tls_cert and config.tls_key and config.tls_ca):
        raise InvalidConfigError(
            f"grpc-tcp address {config.address} needs tls_cert, tls_key and tls_ca: "
            "whoever reaches an open port of a container runtime is root"
        )
    if config.tls_common_name:
        logger.warning(
            "tls_common_name names a certificate of Windows' store, and does nothing on Linux",
            extra={"tls_common_name": config.tls_common_name},
        )
    from containerd_hybrid.rpc.endpoints import TcpEndpoint

    certificate, key, ca = [
        await in_thread(_pem, path) for path in (config.tls_cert, config.tls_key, config.tls_ca)
    ]
    return _serving(context, config, TcpEndpoint(config.address, certificate, key, ca))


def _ttrpc(context: InitContext) -> Server:
    config: TtrpcConfig = context.config
    if not config.address:
        raise SkipPlugin("no address is configured")
    from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services
    from containerd_hybrid.rpc.sockets import SocketOwner
    from containerd_hybrid.rpc.ttrpc_adaptor import TtrpcAdaptor, server_methods
    from containerd_hybrid.ttrpc.server import Server as TtrpcServer

    services = [service for served in _served(context) for service in served.ttrpc]
    if not services:
        raise SkipPlugin("no ttrpc services configured")
    # With counts of its own: what Prometheus is told of are the calls over gRPC.
    interceptors = standard_interceptors(CallMetrics(), event_log(context), tracer(context), "ttrpc")
    server = TtrpcServer(server_methods(wrap_services(services, interceptors)))
    adaptor = TtrpcAdaptor(server, config.address, SocketOwner(config.uid, config.gid))
    context.on_close(adaptor.close)
    return adaptor


def grpc_services(context: InitContext) -> list[Service]:
    """The services of every plug-in that has some, and reflection over them."""
    from containerd_hybrid.rpc.services.reflection import reflecting

    return reflecting(service for served in _served(context) for service in served.grpc)


def wrapped(context: InitContext, services: Iterable[Service]) -> tuple[Service, ...]:
    """The services inside their interceptors."""
    from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services

    metrics = context.get(PluginType.METRICS, CallMetrics, "grpc-prometheus")
    return wrap_services(services, standard_interceptors(metrics, event_log(context), tracer(context)))


def event_log(context: InitContext) -> EventLog | None:
    """The log that answers wait for, unless there is none."""
    from containerd_hybrid.events.api import EventLog

    return next(iter(context.all(PluginType.EVENT_LOG, EventLog).values()), None)


def tracer(context: InitContext) -> Tracer | None:
    """What traces calls, unless nothing is to be traced."""
    found = context.all(PluginType.INTERNAL, object).get("tracing")
    return cast("Tracer | None", found)


def _served(context: InitContext) -> list[Served]:
    return [
        *context.all(PluginType.TTRPC, Served).values(),
        *context.all(PluginType.GRPC, Served).values(),
    ]


def _pem(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise error_for_os(error, f"read {path}") from error


_SERVED = (PluginType.GRPC, PluginType.METRICS, PluginType.INTERNAL)

PLUGINS = (
    Plugin(PluginType.METRICS, "grpc-prometheus", _metrics, config=MetricsConfig),
    Plugin(
        PluginType.MONITOR_TASK, "cgroups", _task_monitor, (PluginType.RUNTIME,), config=TaskMonitorConfig
    ),
    Plugin(PluginType.SERVER, "ttrpc", _ttrpc, (PluginType.TTRPC, *_SERVED), config=TtrpcConfig),
    Plugin(PluginType.SERVER, "grpc", _grpc, _SERVED, config=GrpcConfig),
    Plugin(PluginType.SERVER, "grpc-tcp", _grpc_tcp, _SERVED, config=TcpConfig),
    Plugin(
        PluginType.SERVER,
        "snapshots",
        _lent,
        (PluginType.METADATA, PluginType.GC, *_SERVED),
        config=LentConfig,
    ),
    Plugin(
        PluginType.SERVER,
        "metrics",
        _metrics_server,
        (PluginType.METRICS, PluginType.MONITOR_TASK),
        config=MetricsServerConfig,
    ),
    Plugin(PluginType.SERVER, "debug", _debug, config=DebugConfig),
)
