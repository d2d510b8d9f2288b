"""Content, snapshots, metadata, leases, garbage collection, mounts and layers; warnings about old ways."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_hybrid.app.api import InitContext, Plugin, PluginType, SkipPlugin
from containerd_hybrid.app.builtins.snapshotters import SnapshotBackend
from containerd_hybrid.app.builtins.threads import in_thread
from containerd_hybrid.app.config.durations import Duration
from containerd_hybrid.errors import (
    FailedPreconditionError,
    InvalidConfigError,
    NotFoundError,
    UnimplementedError,
)
from containerd_hybrid.model import Platform

if TYPE_CHECKING:
    from containerd_hybrid.app.deprecations import Deprecations
    from containerd_hybrid.containers.api import ContainerStore
    from containerd_hybrid.content.api import BlobStore, ContentAdopter, ContentRecipes, ContentStore
    from containerd_hybrid.diff.api import Applier, Comparer
    from containerd_hybrid.events.api import EventExchange
    from containerd_hybrid.images.api import ImageStore
    from containerd_hybrid.leases.api import LeaseManager
    from containerd_hybrid.metadata.api import Collector, Database, NamespaceStore
    from containerd_hybrid.metadata.locks import BlobLocks
    from containerd_hybrid.mounts.api import Mounter, MountHandler, MountManager
    from containerd_hybrid.sandbox.api import SandboxStore
    from containerd_hybrid.snapshots.api import Snapshotter

logger = logging.getLogger(__name__)

# The folder has the engine's name; the plug-in has the one that clients and configurations know.
_METADATA_FOLDER = "io.containerd.metadata.v1.sqlite"
_CONTAINERD_METADATA = "io.containerd.metadata.v1.bolt/meta.db"
_NO_DELAY = Duration.parse("0s")
_STARTUP_DELAY = Duration.parse("100ms")


@dataclass(frozen=True, slots=True)
class MetadataConfig:
    """``[plugins."io.containerd.metadata.v1.bolt"]``"""

    content_sharing_policy: str = "shared"
    no_sync: bool = False


@dataclass(frozen=True, slots=True)
class GcConfig:
    """``[plugins."io.containerd.gc.v1.scheduler"]``"""

    pause_threshold: float = 0.02
    deletion_threshold: int = 0
    mutation_threshold: int = 100
    schedule_delay: Duration = _NO_DELAY
    startup_delay: Duration = _STARTUP_DELAY


@dataclass(frozen=True, slots=True)
class DiffConfig:
    """``[plugins."io.containerd.service.v1.diff-service"]``"""

    default: tuple[str, ...] = ("walking",)
    sync_fs: bool = False


@dataclass(frozen=True, slots=True)
class ErofsMountsConfig:
    """``[plugins."io.containerd.mount-handler.v1.erofs"]`` has no keys."""


@dataclass(frozen=True, slots=True)
class ErofsDifferConfig:
    """``[plugins."io.containerd.differ.v1.erofs"]``"""

    mkfs_options: tuple[str, ...] = ()
    enable_tar_index: bool = False
    enable_dmverity: bool = False


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the plug-in of type METADATA is: the stores of one database."""

    database: Database
    locks: BlobLocks
    namespaces: NamespaceStore
    content: ContentStore
    content_adopter: ContentAdopter
    recipes: ContentRecipes | None
    snapshotters: dict[str, Snapshotter]
    images: ImageStore
    containers: ContainerStore
    leases: LeaseManager


@dataclass(frozen=True, slots=True)
class Differ:
    """What a plug-in of type DIFFER is."""

    applier: Applier
    comparer: Comparer
    sync_fs: bool = False


async def _content(context: InitContext) -> BlobStore:
    from containerd_hybrid.content.recipes import RecipeBlobStore

    context.exports["root"] = str(context.root)
    blobs = await in_thread(RecipeBlobStore, context.root, context.root.parent)
    context.on_close(blobs.close)
    return blobs


async def _deprecations(_: InitContext) -> Deprecations:
    from containerd_hybrid.app.deprecations import Deprecations, warn_of_host

    deprecations = Deprecations()
    await in_thread(warn_of_host, deprecations)
    return deprecations


def _events(context: InitContext) -> EventExchange:
    from containerd_hybrid.events.api import EventLog
    from containerd_hybrid.events.exchange import Exchange

    exchange = Exchange(next(iter(context.all(PluginType.EVENT_LOG, EventLog).values()), None))
    context.on_close(exchange.close)
    return exchange


async def _metadata(context: InitContext) -> Metadata:
    from containerd_hybrid.content.api import BlobStore, RecipeStore
    from containerd_hybrid.events.api import EventExchange
    from containerd_hybrid.metadata.containers import MetadataContainerStore
    from containerd_hybrid.metadata.content import MetadataContentStore
    from containerd_hybrid.metadata.content_adopt import MetadataContentAdopter
    from containerd_hybrid.metadata.content_recipes import MetadataRecipes
    from containerd_hybrid.metadata.database import SqliteDatabase
    from containerd_hybrid.metadata.images import MetadataImageStore
    from containerd_hybrid.metadata.leases import MetadataLeaseManager
    from containerd_hybrid.metadata.locks import BlobLocks
    from containerd_hybrid.metadata.namespaces import MetadataNamespaceStore
    from containerd_hybrid.metadata.orphans import shorten_dead_leases
    from containerd_hybrid.metadata.snapshots import MetadataSnapshotter

    config: MetadataConfig = context.config
    if config.content_sharing_policy not in {"shared", "isolated"}:
        raise InvalidConfigError(
            f"unknown content_sharing_policy {config.content_sharing_policy!r}: use 'shared' or 'isolated'"
        )
    await in_thread(_refuse_a_root_of_containerd, context.root.parent)
    blobs = context.get(PluginType.CONTENT, BlobStore)
    events = context.get(PluginType.EVENT, EventExchange)
    folder = context.root.with_name(_METADATA_FOLDER)
    await in_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
    database = SqliteDatabase(folder / "meta.db", no_sync=config.no_sync)
    await database.open()
    context.on_close(database.close)
    await shorten_dead_leases(database)
    context.exports["path"] = str(folder / "meta.db")
    context.exports["policy"] = config.content_sharing_policy
    locks = BlobLocks()
    shared = config.content_sharing_policy == "shared"
    recipes = MetadataRecipes(database, blobs, locks) if isinstance(blobs, RecipeStore) else None
    snapshotters: dict[str, Snapshotter] = {}
    for name, backend in context.all(PluginType.SNAPSHOTTER, SnapshotBackend).items():
        snapshotter = MetadataSnapshotter(
            database,
            backend.driver,
            events,
            sync_remove=backend.sync_remove,
            part_with=recipes.part_with if recipes is not None else None,
        )
        context.on_close(snapshotter.close)
        snapshotters[name] = snapshotter
    return Metadata(
        database=database,
        locks=locks,
        namespaces=MetadataNamespaceStore(database, events),
        content=MetadataContentStore(database, blobs, locks, events, shared=shared),
        content_adopter=MetadataContentAdopter(database, blobs, locks, events),
        recipes=recipes,
        snapshotters=snapshotters,
        images=MetadataImageStore(database, events),
        containers=MetadataContainerStore(database, events),
        leases=MetadataLeaseManager(database),
    )


def _refuse_a_root_of_containerd(root: Path) -> None:
    """Both would take what only the other knows for garbage: blobs, snapshot folders."""
    if (root / _CONTAINERD_METADATA).exists():
        raise FailedPreconditionError(
            f"root {root} is that of a containerd, whose images and snapshots would be lost: give a root of "
            f"its own (--root, or `root` in the config), and take the images over with `hyctl adopt {root}`"
        )


def _gc(context: InitContext) -> Collector:
    from containerd_hybrid.content.api import BlobStore
    from containerd_hybrid.events.api import EventExchange
    from containerd_hybrid.metadata.gc import MetadataCollector
    from containerd_hybrid.metadata.scheduler import GcScheduler, GcSettings
    from containerd_hybrid.mounts.api import MountManager

    config: GcConfig = context.config
    metadata = context.get(PluginType.METADATA, Metadata)
    collector = MetadataCollector(
        metadata.database,
        context.get(PluginType.EVENT, EventExchange),
        context.get(PluginType.CONTENT, BlobStore),
        metadata.locks,
        metadata.snapshotters,
        context.get(PluginType.MOUNT_MANAGER, MountManager, "bolt"),
    )
    settings = GcSettings(
        pause_threshold=config.pause_threshold,
        deletion_threshold=config.deletion_threshold,
        mutation_threshold=config.mutation_threshold,
        schedule_delay=config.schedule_delay,
        startup_delay=config.startup_delay,
    )
    scheduler = GcScheduler(collector, metadata.database, settings)
    scheduler.start()
    context.on_close(scheduler.close)
    return scheduler


def _leases(context: InitContext) -> LeaseManager:
    return context.get(PluginType.METADATA, Metadata).leases


def _sandboxes(context: InitContext) -> SandboxStore:
    from containerd_hybrid.metadata.sandboxes import MetadataSandboxStore

    return MetadataSandboxStore(context.get(PluginType.METADATA, Metadata).database)


async def _mounts(context: InitContext) -> Mounter:
    from containerd_hybrid.mounts.linux import LinuxMounter

    mounter = LinuxMounter(context.root.parent / "tmpmounts")
    for problem in await mounter.sweep():
        logger.warning("cleanup temp mount", extra={"error": problem.message})
    return mounter


def _erofs_mounts(context: InitContext) -> MountHandler:
    from containerd_hybrid.mounts.erofs import ErofsHandler

    context.platforms.append(Platform.host())
    return ErofsHandler()


def _loop(_: InitContext) -> MountHandler:
    from containerd_hybrid.mounts.loop import LoopHandler

    return LoopHandler()


async def _mount_manager(context: InitContext) -> MountManager:
    from containerd_hybrid.metadata.activations import MetadataActivationStore
    from containerd_hybrid.mounts.api import Mounter, MountHandler
    from containerd_hybrid.mounts.manager import ActivatingMountManager

    manager = ActivatingMountManager(
        MetadataActivationStore(context.get(PluginType.METADATA, Metadata).database),
        context.get(PluginType.MOUNT_MANAGER, Mounter, "local"),
        context.state / "t",
        roots=[context.root.parent],
        handlers=context.all(PluginType.MOUNT_HANDLER, MountHandler),
    )
    context.on_close(manager.close)
    report = await manager.restore()
    for name in report.lost:
        logger.warning("mounts of an earlier run are gone", extra={"mount": name})
    return manager


def _walking(context: InitContext) -> Differ:
    from containerd_hybrid.diff.activating import ActivatingDiffer
    from containerd_hybrid.diff.processors import StreamProcessor, StreamProcessors
    from containerd_hybrid.diff.walking import WalkingDiffer
    from containerd_hybrid.mounts.api import Mounter, MountManager

    mounter = context.get(PluginType.MOUNT_MANAGER, Mounter, "local")
    processors = StreamProcessors(
        [
            StreamProcessor(name, one.accepts, one.returns, one.path, one.args, one.env)
            for name, one in context.stream_processors.items()
        ]
    )
    differ = WalkingDiffer(context.get(PluginType.METADATA, Metadata).content, mounter, processors)
    context.platforms.append(Platform.host())
    manager = context.get(PluginType.MOUNT_MANAGER, MountManager, "bolt")
    activating = ActivatingDiffer(differ, differ, manager)
    return Differ(activating, activating)


async def _erofs_differ(context: InitContext) -> Differ:
    from containerd_hybrid.diff.activating import ActivatingDiffer
    from containerd_hybrid.diff.erofs import ErofsDiffer, check_program
    from containerd_hybrid.diff.walking import WalkingDiffer
    from containerd_hybrid.mounts.api import Mounter, MountManager

    config: ErofsDifferConfig = context.config
    try:
        await in_thread(check_program)
    except UnimplementedError as error:
        raise SkipPlugin(error.message) from None
    if config.enable_dmverity:
        raise SkipPlugin("dm-verity is not supported: layers are made without hash trees")
    content = context.get(PluginType.METADATA, Metadata).content
    walking = WalkingDiffer(content, context.get(PluginType.MOUNT_MANAGER, Mounter, "local"))
    manager = context.get(PluginType.MOUNT_MANAGER, MountManager, "bolt")
    differ = ErofsDiffer(
        content,
        ActivatingDiffer(walking, walking, manager),
        mkfs_options=config.mkfs_options,
        tar_index=config.enable_tar_index,
    )
    host = Platform.host()
    context.platforms.extend([host, replace(host, os_features=("erofs",))])
    return Differ(differ, differ)


def _diff_service(context: InitContext) -> Differ:
    from containerd_hybrid.diff.ordered import OrderedApplier, OrderedComparer

    config: DiffConfig = context.config
    differs = context.all(PluginType.DIFFER, Differ)
    chosen = {name: differs[name] for name in config.default if name in differs}
    if not chosen:
        names = ", ".join(config.default)
        raise NotFoundError(f"no differ for {names}: there is {', '.join(differs) or 'none'}")
    for name in config.default:
        if name not in chosen:
            logger.warning("differ is not there; the others do its work", extra={"differ": name})
    return Differ(
        OrderedApplier({name: one.applier for name, one in chosen.items()}),
        OrderedComparer({name: one.comparer for name, one in chosen.items()}),
        config.sync_fs,
    )


PLUGINS = (
    Plugin(PluginType.CONTENT, "content", _content),
    Plugin(PluginType.WARNING, "deprecations", _deprecations),
    Plugin(PluginType.EVENT, "exchange", _events, (PluginType.EVENT_LOG,)),
    Plugin(
        PluginType.METADATA,
        "bolt",
        _metadata,
        (PluginType.CONTENT, PluginType.EVENT, PluginType.SNAPSHOTTER),
        config=MetadataConfig,
    ),
    Plugin(
        PluginType.GC,
        "scheduler",
        _gc,
        (PluginType.METADATA, PluginType.CONTENT, PluginType.EVENT, PluginType.MOUNT_MANAGER),
        config=GcConfig,
    ),
    Plugin(PluginType.LEASE, "manager", _leases, (PluginType.METADATA,)),
    Plugin(PluginType.SANDBOX_STORE, "local", _sandboxes, (PluginType.METADATA,)),
    Plugin(PluginType.MOUNT_HANDLER, "erofs", _erofs_mounts, config=ErofsMountsConfig),
    Plugin(PluginType.MOUNT_HANDLER, "loop", _loop),
    Plugin(PluginType.MOUNT_MANAGER, "local", _mounts),
    Plugin(
        PluginType.MOUNT_MANAGER,
        "bolt",
        _mount_manager,
        (PluginType.METADATA, PluginType.MOUNT_HANDLER, PluginType.MOUNT_MANAGER),
    ),
    Plugin(
        PluginType.DIFFER,
        "erofs",
        _erofs_differ,
        (PluginType.METADATA, PluginType.MOUNT_MANAGER),
        config=ErofsDifferConfig,
    ),
    Plugin(PluginType.DIFFER, "walking", _walking, (PluginType.METADATA, PluginType.MOUNT_MANAGER)),
    Plugin(PluginType.SERVICE, "diff-service", _diff_service, (PluginType.DIFFER,), config=DiffConfig),
)
