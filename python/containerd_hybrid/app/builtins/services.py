"""The services of the API, each over what other plug-ins are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from containerd_hybrid.app.api import InitContext, Plugin, PluginType, Served
from containerd_hybrid.app.builtins.storage import Differ, Metadata

if TYPE_CHECKING:
    from containerd_hybrid.metadata.api import Collector


def _serving(*handlers: Any, ttrpc: tuple[Any, ...] = ()) -> Served:
    from containerd_hybrid.rpc.describe import service_from

    return Served(
        tuple(service_from(h.descriptor, h) for h in handlers),
        tuple(service_from(h.descriptor, h) for h in ttrpc),
    )


def _metadata(context: InitContext) -> Metadata:
    return context.get(PluginType.METADATA, Metadata)


def _collector(context: InitContext) -> Collector:
    from containerd_hybrid.metadata.api import Collector

    return context.get(PluginType.GC, Collector)


def _containers(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.containers import ContainersService

    return _serving(ContainersService(_metadata(context).containers, _collector(context)))


def _content(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.content import ContentService

    return _serving(ContentService(_metadata(context).content, _collector(context)))


def _diff(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.diff import DiffService

    differ = context.get(PluginType.SERVICE, Differ, "diff-service")
    return _serving(DiffService(differ.applier, differ.comparer, sync_fs=differ.sync_fs))


def _events(context: InitContext) -> Served:
    from containerd_hybrid.events.api import EventExchange
    from containerd_hybrid.rpc.services.events import EventsService, TtrpcEventsService

    exchange = context.get(PluginType.EVENT, EventExchange)
    return _serving(EventsService(exchange), ttrpc=(TtrpcEventsService(exchange),))


def _images(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.images import ImagesService

    return _serving(ImagesService(_metadata(context).images, _collector(context)))


def _introspection(context: InitContext) -> Served:
    from containerd_hybrid.app.deprecations import Deprecations
    from containerd_hybrid.rpc.services.introspection import IntrospectionService

    # The folder of containerd's introspection service, so that an adopted root keeps its identity.
    folder = context.root.with_name(f"{PluginType.SERVICE}.introspection-service")
    deprecations = context.get(PluginType.WARNING, Deprecations, "deprecations")
    return _serving(IntrospectionService(context.catalog, folder / "uuid", deprecations))


def _leases(context: InitContext) -> Served:
    from containerd_hybrid.leases.api import LeaseManager
    from containerd_hybrid.rpc.services.leases import LeasesService

    leases = context.get(PluginType.LEASE, LeaseManager)
    return _serving(LeasesService(leases, _collector(context)))


def _mounts(context: InitContext) -> Served:
    from containerd_hybrid.mounts.api import MountManager
    from containerd_hybrid.rpc.services.mounts import MountsService

    return _serving(MountsService(context.get(PluginType.MOUNT_MANAGER, MountManager, "bolt")))


def _namespaces(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.namespaces import NamespacesService

    return _serving(NamespacesService(_metadata(context).namespaces))


def _sandboxes(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.sandboxes import SandboxStoreService
    from containerd_hybrid.sandbox.api import SandboxStore

    return _serving(SandboxStoreService(context.get(PluginType.SANDBOX_STORE, SandboxStore, "local")))


def _sandbox_controllers(context: InitContext) -> Served:
    from containerd_hybrid.events.api import EventExchange
    from containerd_hybrid.rpc.services.sandboxes import SandboxControllerService
    from containerd_hybrid.sandbox.api import SandboxController

    controllers = {
        **context.all(PluginType.PODSANDBOX_CONTROLLER, SandboxController),
        **context.all(PluginType.SANDBOX_CONTROLLER, SandboxController),
    }
    events = context.get(PluginType.EVENT, EventExchange)
    return _serving(SandboxControllerService(controllers, events))


def _snapshots(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.snapshots import SnapshotsService

    return _serving(SnapshotsService(_metadata(context).snapshotters, _collector(context)))


def _streaming(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.streaming import StreamingService
    from containerd_hybrid.streaming.api import StreamManager

    return _serving(StreamingService(context.get(PluginType.STREAMING, StreamManager)))


def _tasks(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.tasks import TasksService
    from containerd_hybrid.tasks.api import TaskManager
    from containerd_hybrid.tasks.checkpoints import Checkpoints
    from containerd_hybrid.tasks.launcher import Launcher

    tasks = context.get(PluginType.RUNTIME, TaskManager, "task")
    metadata = _metadata(context)
    differ = context.get(PluginType.SERVICE, Differ, "diff-service")
    bundles = context.get(PluginType.SHIM, Launcher).bundles
    checkpoints = Checkpoints(
        tasks, metadata.containers, bundles, metadata.content, differ.applier, differ.comparer
    )
    return _serving(TasksService(tasks, checkpoints))


def _transfer(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.transfer import TransferService
    from containerd_hybrid.streaming.api import StreamManager
    from containerd_hybrid.transfer.api import Transferrer

    transferrer = context.get(PluginType.TRANSFER, Transferrer)
    return _serving(TransferService(transferrer, context.get(PluginType.STREAMING, StreamManager)))


def _version(_: InitContext) -> Served:
    from containerd_hybrid.app.release import REVISION, SERVED_VERSION
    from containerd_hybrid.rpc.services.version import VersionService

    return _serving(VersionService(SERVED_VERSION, REVISION))


def _health(context: InitContext) -> Served:
    from containerd_hybrid.rpc.services.health import HealthService

    health = HealthService()
    context.on_close(health.shut_down)
    return _serving(health)


def _grpc(id: str, init: Callable[[InitContext], Served], *requires: PluginType) -> Plugin:
    return Plugin(PluginType.GRPC, id, init, requires)


_STORED = (PluginType.METADATA, PluginType.GC)

PLUGINS = (
    _grpc("containers", _containers, *_STORED),
    _grpc("content", _content, *_STORED),
    _grpc("diff", _diff, PluginType.SERVICE),
    _grpc("events", _events, PluginType.EVENT),
    _grpc("healthcheck", _health),
    _grpc("images", _images, *_STORED),
    _grpc("introspection", _introspection, PluginType.WARNING),
    _grpc("leases", _leases, PluginType.LEASE, PluginType.GC),
    _grpc("mounts", _mounts, PluginType.MOUNT_MANAGER),
    _grpc("namespaces", _namespaces, PluginType.METADATA),
    _grpc(
        "sandbox-controllers",
        _sandbox_controllers,
        PluginType.PODSANDBOX_CONTROLLER,
        PluginType.SANDBOX_CONTROLLER,
        PluginType.EVENT,
    ),
    _grpc("sandboxes", _sandboxes, PluginType.SANDBOX_STORE),
    _grpc("snapshots", _snapshots, *_STORED),
    _grpc("streaming", _streaming, PluginType.STREAMING),
    _grpc("tasks", _tasks, PluginType.RUNTIME, PluginType.SHIM, PluginType.SERVICE, *_STORED),
    _grpc("transfer", _transfer, PluginType.TRANSFER, PluginType.STREAMING),
    _grpc("version", _version),
)
