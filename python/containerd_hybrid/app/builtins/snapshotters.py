"""Snapshotters: where snapshots lie, one file system or technique each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from containerd_hybrid.app.api import InitContext, Plugin, PluginType, SkipPlugin
from containerd_hybrid.app.builtins.threads import in_thread
from containerd_hybrid.errors import InvalidConfigError, UnimplementedError
from containerd_hybrid.model import Platform

if TYPE_CHECKING:
    from containerd_hybrid.snapshots.api import SnapshotDriver


@dataclass(frozen=True, slots=True)
class OverlayConfig:
    """``[plugins."io.containerd.snapshotter.v1.overlayfs"]``"""

    root_path: str = ""
    upperdir_label: bool = False
    sync_remove: bool = False
    slow_chown: bool = False
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NativeConfig:
    """``[plugins."io.containerd.snapshotter.v1.native"]``"""

    root_path: str = ""


@dataclass(frozen=True, slots=True)
class BlockfileConfig:
    """``[plugins."io.containerd.snapshotter.v1.blockfile"]``"""

    root_path: str = ""
    scratch_file: str = ""
    fs_type: str = ""
    mount_options: tuple[str, ...] = ()
    recreate_scratch: bool = False


@dataclass(frozen=True, slots=True)
class BtrfsConfig:
    """``[plugins."io.containerd.snapshotter.v1.btrfs"]``"""

    root_path: str = ""


@dataclass(frozen=True, slots=True)
class ErofsConfig:
    """``[plugins."io.containerd.snapshotter.v1.erofs"]``"""

    root_path: str = ""
    ovl_mount_options: tuple[str, ...] = ()
    enable_fsverity: bool = False
    set_immutable: bool = False
    default_size: str = ""
    dmverity_mode: str = ""
    layer_content_caches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotBackend:
    """What a plug-in of type SNAPSHOTTER is: a driver, which the metadata store makes a snapshotter."""

    driver: SnapshotDriver
    sync_remove: bool = False


async def _blockfile(context: InitContext) -> SnapshotBackend:
    from containerd_hybrid.snapshots.blockfile import BlockfileSnapshotDriver

    config: BlockfileConfig = context.config
    return await _snapshots(
        context,
        lambda root: BlockfileSnapshotDriver(
            root,
            scratch_file=Path(config.scratch_file) if config.scratch_file else None,
            fs_type=config.fs_type or "ext4",
            mount_options=config.mount_options,
            recreate_scratch=config.recreate_scratch,
        ),
    )


async def _btrfs(context: InitContext) -> SnapshotBackend:
    from containerd_hybrid.snapshots.btrfs import BtrfsSnapshotDriver

    return await _snapshots(context, BtrfsSnapshotDriver)


async def _erofs(context: InitContext) -> SnapshotBackend:
    from containerd_hybrid.mounts.mkfs import parse_size
    from containerd_hybrid.snapshots.erofs import ErofsSettings, ErofsSnapshotDriver

    config: ErofsConfig = context.config
    size = parse_size(config.default_size)
    if config.default_size and not size and config.default_size != "0":
        raise InvalidConfigError(
            f"failed to parse default_size {config.default_size!r}: expected a size such as 512MiB"
        )
    settings = ErofsSettings(
        overlay_options=config.ovl_mount_options,
        enable_fsverity=config.enable_fsverity,
        set_immutable=config.set_immutable,
        default_size=size,
        dmverity_mode=config.dmverity_mode or "auto",
        layer_content_caches=tuple(map(Path, config.layer_content_caches)),
    )
    return await _snapshots(context, lambda root: ErofsSnapshotDriver(root, settings))


async def _overlayfs(context: InitContext) -> SnapshotBackend:
    from containerd_hybrid.snapshots.overlayfs import OverlaySnapshotDriver

    config: OverlayConfig = context.config
    return await _snapshots(
        context,
        lambda root: OverlaySnapshotDriver(
            root,
            mount_options=config.mount_options,
            upperdir_label=config.upperdir_label,
            slow_chown=config.slow_chown,
        ),
        sync_remove=config.sync_remove,
    )


async def _native(context: InitContext) -> SnapshotBackend:
    from containerd_hybrid.snapshots.native import NativeSnapshotDriver

    return await _snapshots(context, NativeSnapshotDriver)


async def _snapshots(
    context: InitContext, make: Callable[[Path], Any], *, sync_remove: bool = False
) -> SnapshotBackend:
    root = Path(context.config.root_path or context.root)
    context.exports["root"] = str(root)
    context.platforms.append(Platform.host())
    try:
        driver = await in_thread(make, root)
    except UnimplementedError as error:
        raise SkipPlugin(error.message) from None
    context.capabilities.extend(driver.capabilities)
    return SnapshotBackend(driver, sync_remove)


PLUGINS = (
    Plugin(PluginType.SNAPSHOTTER, "blockfile", _blockfile, config=BlockfileConfig),
    Plugin(PluginType.SNAPSHOTTER, "btrfs", _btrfs, config=BtrfsConfig),
    Plugin(PluginType.SNAPSHOTTER, "erofs", _erofs, config=ErofsConfig),
    Plugin(PluginType.SNAPSHOTTER, "native", _native, config=NativeConfig),
    Plugin(PluginType.SNAPSHOTTER, "overlayfs", _overlayfs, config=OverlayConfig),
)
