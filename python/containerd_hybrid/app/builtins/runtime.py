"""Shims and tasks, and moving images about."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_hybrid.app.api import InitContext, Plugin, PluginType
from containerd_hybrid.app.builtins.storage import Differ, Metadata
from containerd_hybrid.app.config.durations import Duration
from containerd_hybrid.errors import InvalidConfigError
from containerd_hybrid.model import Platform

if TYPE_CHECKING:
    from containerd_hybrid.containers.restart import RestartMonitor
    from containerd_hybrid.retention.api import Retention
    from containerd_hybrid.sandbox.api import SandboxController
    from containerd_hybrid.streaming.api import StreamManager
    from containerd_hybrid.tasks.api import TaskManager
    from containerd_hybrid.tasks.launcher import Launcher
    from containerd_hybrid.transfer.api import Transferrer

logger = logging.getLogger(__name__)

_PROGRAM = "containerd-hybrid"
_SERVED_WITHIN = 10.0
_RESTART_INTERVAL = Duration.parse("10s")


@dataclass(frozen=True, slots=True)
class ShimConfig:
    """``[plugins."io.containerd.shim.v1.manager"]``"""

    env: tuple[str, ...] = ()
    socket_dir: str = ""


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """``[plugins."io.containerd.runtime.v2.task"]``"""

    platforms: tuple[str, ...] = (str(Platform.host()),)


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """``[plugins."io.containerd.transfer.v1.local"]``; all of it concerns registries."""

    max_concurrent_downloads: int = 3
    concurrent_layer_fetch_buffer: int = 0
    max_concurrent_uploaded_layers: int = 3
    check_platform_supported: bool = False
    config_path: str = ""
    max_concurrent_unpacks: int = 1


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """``[plugins."io.containerd.hybrid.retention.v1.layers"]``: of namespaces whose label says nothing."""

    policy: str = "keep"


@dataclass(frozen=True, slots=True)
class RestartConfig:
    """``[plugins."io.containerd.monitor.container.v1.restart"]``"""

    interval: Duration = _RESTART_INTERVAL


def _shims(context: InitContext) -> Launcher:
    from containerd_hybrid.events.api import EventExchange
    from containerd_hybrid.mounts.api import Mounter
    from containerd_hybrid.tasks.bundle import Bundles
    from containerd_hybrid.tasks.launcher import Launcher
    from containerd_hybrid.tasks.settings import ShimSettings, Timeouts
    from containerd_hybrid.tasks.table import TaskTable
    from containerd_hybrid.ttrpc.client import connect

    config: ShimConfig = context.config
    settings = ShimSettings(
        address=context.addresses.grpc,
        ttrpc_address=context.addresses.ttrpc,
        publish_binary=own_program(),
        socket_dir=config.socket_dir,
        env=config.env,
        debug=logging.getLogger().isEnabledFor(logging.DEBUG),
        timeouts=Timeouts.named(context.timeouts),
    )
    # The bundles are where containerd has them, in the folders of its task plug-in.
    task = f"{PluginType.RUNTIME}.task"
    return Launcher(
        Bundles(context.root.with_name(task), context.state.with_name(task)),
        TaskTable(),
        context.get(PluginType.EVENT, EventExchange),
        context.get(PluginType.MOUNT_MANAGER, Mounter, "local"),
        connect,
        settings,
    )


def own_program() -> Path:
    """This program, for shims that publish by running it."""
    called = Path(sys.argv[0])
    beside = Path(sys.executable).with_name(_PROGRAM)
    for path in (called, beside):
        if path.name == _PROGRAM and path.is_file() and os.access(path, os.X_OK):
            return path.absolute()
    return Path(shutil.which(_PROGRAM) or beside)


async def _sandbox_controller(context: InitContext) -> SandboxController:
    from containerd_hybrid._programs import shim_path
    from containerd_hybrid.tasks.bundle import Bundles
    from containerd_hybrid.tasks.launcher import Launcher
    from containerd_hybrid.tasks.runtimes import Runtimes
    from containerd_hybrid.tasks.sandboxes import ShimSandboxController

    controller = ShimSandboxController(
        Runtimes(shim_path),
        context.get(PluginType.SHIM, Launcher),
        Bundles(context.root, context.state),
    )
    context.on_close(controller.close)
    report = await controller.adopt()
    for name in report.adopted:
        logger.info("sandbox adopted", extra={"sandbox": name})
    for name in report.cleaned:
        logger.info("dead sandbox cleaned up", extra={"sandbox": name})
    for name, reason in report.failed.items():
        logger.warning("sandbox not cleaned up", extra={"sandbox": name, "error": reason})
    return controller


async def _tasks(context: InitContext) -> TaskManager:
    from containerd_hybrid._programs import shim_path
    from containerd_hybrid.app.deprecations import Deprecations
    from containerd_hybrid.mounts.api import MountManager
    from containerd_hybrid.sandbox.api import SandboxStore
    from containerd_hybrid.tasks.adoption import Adoption
    from containerd_hybrid.tasks.launcher import Launcher
    from containerd_hybrid.tasks.manager import ShimTaskManager
    from containerd_hybrid.tasks.runtimes import Runtimes

    config: TaskConfig = context.config
    context.platforms.extend(Platform.parse(platform) for platform in config.platforms)
    launcher = context.get(PluginType.SHIM, Launcher)
    containers = context.get(PluginType.METADATA, Metadata).containers
    runtimes = Runtimes(shim_path)
    mounts = context.get(PluginType.MOUNT_MANAGER, MountManager, "bolt")
    sandboxes = context.get(PluginType.SANDBOX_STORE, SandboxStore, "local")
    warn = context.get(PluginType.WARNING, Deprecations, "deprecations").warn
    manager = ShimTaskManager(containers, runtimes, launcher, mounts, sandboxes, warn)
    context.on_close(manager.close)
    report = await Adoption(containers, runtimes, launcher).run()
    for name in report.adopted:
        logger.info("task adopted", extra={"task": name})
    for name in report.cleaned:
        logger.info("dead task cleaned up", extra={"task": name})
    for name, reason in report.failed.items():
        logger.warning("task not cleaned up", extra={"task": name, "error": reason})
    return manager


def _restart(context: InitContext) -> RestartMonitor:
    from containerd_hybrid.containers.restart import RestartMonitor, RestartServices
    from containerd_hybrid.tasks.manager import ShimTaskManager

    config: RestartConfig = context.config
    metadata = context.get(PluginType.METADATA, Metadata)
    tasks = context.get(PluginType.RUNTIME, ShimTaskManager, "task")
    services = RestartServices(metadata.namespaces, metadata.containers, metadata.snapshotters, tasks)
    monitor = RestartMonitor(services, config.interval, lambda: _served(context.addresses.ttrpc))
    context.on_close(monitor.close)
    monitor.start()
    return monitor


async def _served(address: str) -> None:
    """Wait until somebody listens there, but not for ever: ttrpc may be off, and shims can do without."""
    import asyncio

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SERVED_WITHIN):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_unix_connection(address)
                    writer.close()
                    return
                await asyncio.sleep(0.05)


def _streams(_: InitContext) -> StreamManager:
    from containerd_hybrid.streaming.manager import OpenStreams

    return OpenStreams()


def _retention(context: InitContext) -> Retention:
    from containerd_hybrid.retention.api import Policy
    from containerd_hybrid.retention.layers import LayerRetention

    config: RetentionConfig = context.config
    known = [policy.value for policy in Policy]
    if config.policy not in known:
        raise InvalidConfigError(
            f"unknown policy {config.policy!r} for unpacked layers: use one of {', '.join(known)}"
        )
    metadata = context.get(PluginType.METADATA, Metadata)
    return LayerRetention(
        metadata.namespaces,
        metadata.content,
        metadata.leases,
        metadata.snapshotters,
        metadata.recipes,
        default=Policy(config.policy),
        snapshotter=_default(metadata.snapshotters),
    )


def _transfer(context: InitContext) -> Transferrer:
    from containerd_hybrid.images.exporter import ArchiveExporter
    from containerd_hybrid.images.importer import ArchiveImporter
    from containerd_hybrid.registry.client import HttpRegistryClient
    from containerd_hybrid.retention.api import Retention
    from containerd_hybrid.transfer.fetch import BlobFetches, FetchSettings
    from containerd_hybrid.transfer.local import LocalTransferrer
    from containerd_hybrid.transfer.pull import RegistryPull
    from containerd_hybrid.transfer.push import RegistryPush
    from containerd_hybrid.transfer.registry import ImageTransfers
    from containerd_hybrid.unpack.pipeline import LayerUnpacker
    from containerd_hybrid.verification.api import ImageVerifier
    from containerd_hybrid.verification.pulls import VerifiedRegistries

    config: TransferConfig = context.config
    metadata = context.get(PluginType.METADATA, Metadata)
    applier = context.get(PluginType.SERVICE, Differ, "diff-service").applier
    content, images, leases = metadata.content, metadata.images, metadata.leases
    # 1 is what every configuration of containerd says; it is no wish for one at a time.
    at_once = config.max_concurrent_unpacks if config.max_concurrent_unpacks > 1 else 0
    unpacker = LayerUnpacker(
        content,
        metadata.snapshotters,
        applier,
        leases,
        default=_default(metadata.snapshotters),
        at_once=at_once,
    )
    registries = HttpRegistryClient(hosts_dir=config.config_path)
    context.on_close(registries.close)
    settings = FetchSettings(
        downloads=config.max_concurrent_downloads, part_bytes=config.concurrent_layer_fetch_buffer
    )
    fetches = BlobFetches(content, settings)
    retention = context.get(PluginType.RETENTION, Retention)
    return LocalTransferrer(
        images,
        ArchiveImporter(content, images),
        ArchiveExporter(content, images),
        unpacker,
        leases,
        ImageTransfers(
            RegistryPull(
                content,
                images,
                unpacker,
                leases,
                VerifiedRegistries(registries, context.all(PluginType.IMAGE_VERIFIER, ImageVerifier)),
                fetches,
                retention,
            ),
            RegistryPush(content, images, registries, config.max_concurrent_uploaded_layers),
        ),
        retention,
    )


def _default(snapshotters: Collection[str]) -> str:
    """containerd's default on Linux, and what takes its place where the file system cannot overlay."""
    return "overlayfs" if "overlayfs" in snapshotters else "native"


PLUGINS = (
    Plugin(
        PluginType.SHIM, "manager", _shims, (PluginType.EVENT, PluginType.MOUNT_MANAGER), config=ShimConfig
    ),
    Plugin(PluginType.SANDBOX_CONTROLLER, "shim", _sandbox_controller, (PluginType.SHIM, PluginType.EVENT)),
    Plugin(
        PluginType.RUNTIME,
        "task",
        _tasks,
        (
            PluginType.METADATA,
            PluginType.SHIM,
            PluginType.MOUNT_MANAGER,
            PluginType.WARNING,
            PluginType.SANDBOX_STORE,
            # Sandboxes are adopted before the tasks that joined them.
            PluginType.SANDBOX_CONTROLLER,
        ),
        config=TaskConfig,
        exports={"log-uri-schemes": "fifo,binary,binary-v2,file"},
    ),
    Plugin(
        PluginType.MONITOR_CONTAINER,
        "restart",
        _restart,
        (PluginType.METADATA, PluginType.RUNTIME),
        config=RestartConfig,
        capabilities=("no", "always", "on-failure", "unless-stopped"),
    ),
    Plugin(PluginType.STREAMING, "manager", _streams),
    Plugin(PluginType.RETENTION, "layers", _retention, (PluginType.METADATA,), config=RetentionConfig),
    Plugin(
        PluginType.TRANSFER,
        "local",
        _transfer,
        (
            PluginType.METADATA,
            PluginType.SERVICE,
            PluginType.LEASE,
            PluginType.IMAGE_VERIFIER,
            PluginType.RETENTION,
        ),
        config=TransferConfig,
    ),
)
