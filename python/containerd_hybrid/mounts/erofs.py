"""``erofs``: an image file mounted as it is where the kernel can (Linux 6.12), else by loop devices.

The devices, also those of ``device=`` options, go with the mount.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from containerd_hybrid import _native
from containerd_hybrid.errors import FailedPreconditionError, HybridError, error_for_os
from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.api import ActiveMount
from containerd_hybrid.mounts.loop import attach_for_mount

_VERITY = "X-containerd.dmverity="
_DEVICE = "device="


class ErofsHandler:
    """A :class:`~containerd_hybrid.mounts.api.MountHandler`."""

    def mount(self, mount: Mount, mount_point: Path, active: Sequence[ActiveMount]) -> ActiveMount:
        started = time.time_ns()
        for option in mount.options:
            if option.startswith(_VERITY):
                raise FailedPreconditionError(
                    f"layer {mount.source} is to be verified by dm-verity ({option.removeprefix(_VERITY)}), "
                    "which this daemon cannot set up: set dmverity_mode = 'off' to mount it without"
                )
        plain = replace(mount, options=tuple(option for option in mount.options if option != "loop"))
        try:
            mount_point.mkdir(0o700)
        except OSError as error:
            raise error_for_os(error, f"make the mount point {mount_point}") from error
        try:
            made = self._make(plain, mount_point)
        except BaseException:
            mount_point.rmdir()
            raise
        return ActiveMount(made, str(mount_point), started)

    def unmount(self, mount_point: Path) -> None:
        _native.unmount_all(mount_point)

    def alive(self, mount_point: Path) -> bool:
        return _native.mounted(mount_point)

    def _make(self, mount: Mount, mount_point: Path) -> Mount:
        try:
            _mount(mount, mount_point)
        except HybridError as error:
            # "block device required" is what kernels say that cannot mount a file.
            if "block device required" not in error.message:
                raise
        else:
            return mount
        return self._make_by_loop(mount, mount_point)

    def _make_by_loop(self, mount: Mount, mount_point: Path) -> Mount:
        devices: list[int] = []

        def looped(file: str) -> str:
            device, path = attach_for_mount(file)
            devices.append(device)
            return path

        try:
            source = looped(mount.source)
            options = tuple(
                _DEVICE + looped(option.removeprefix(_DEVICE)) if option.startswith(_DEVICE) else option
                for option in mount.options
            )
            made = replace(mount, source=source, options=options)
            _mount(made, mount_point)
            return made
        finally:
            for device in devices:
                os.close(device)


def _mount(mount: Mount, mount_point: Path) -> None:
    _native.mount_all([(mount.type, mount.source, mount.target, mount.options)], mount_point)
