"""Layers for snapshots whose mounts the mount manager has to prepare: images, loop devices, stacks."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from containerd_hybrid.diff.api import AppliedLayer, Applier, Comparer, DiffOptions
from containerd_hybrid.model import Descriptor, Mount, Scope
from containerd_hybrid.mounts.api import MountManager


class ActivatingDiffer:
    """Has mounts made that ``applier`` and ``comparer`` cannot make, for the length of a call."""

    def __init__(self, applier: Applier, comparer: Comparer, manager: MountManager) -> None:
        self._applier = applier
        self._comparer = comparer
        self._manager = manager

    async def apply(
        self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount], **how: Any
    ) -> AppliedLayer:
        """See :class:`containerd_hybrid.diff.api.Applier`."""
        async with self._activated(scope, mounts) as left:
            return await self._applier.apply(scope, layer, left, **how)

    async def compare(
        self, scope: Scope, lower: Sequence[Mount], upper: Sequence[Mount], options: DiffOptions
    ) -> Descriptor:
        """See :class:`containerd_hybrid.diff.api.Comparer`. The snapshots may be in use meanwhile."""
        async with (
            self._activated(scope, _readable(lower)) as below,
            self._activated(scope, _readable(upper)) as above,
        ):
            return await self._comparer.compare(scope, below, above, options)

    @asynccontextmanager
    async def _activated(self, scope: Scope, mounts: Sequence[Mount]) -> AsyncIterator[Sequence[Mount]]:
        """What is left to be mounted. Without a lease, which would keep what a killed daemon left."""
        if not self._manager.handles(mounts):
            yield mounts
            return
        bare, name = Scope(scope.namespace), f"diff-{secrets.token_hex(16)}"
        activation = await self._manager.activate(bare, name, mounts)
        try:
            yield activation.system or _what_was_mounted(activation.active[-1].mount_point)
        finally:
            await self._manager.deactivate(bare, name)


def _what_was_mounted(mount_point: str) -> list[Mount]:
    return [Mount("bind", mount_point, ("ro", "rbind"))]


def _readable(mounts: Sequence[Mount]) -> list[Mount]:
    """Nothing is made for looking at a snapshot, and an image that somebody else writes is not recovered.

    A second loop device on an image which both may write would destroy its file system.
    """
    found = []
    for mount in mounts:
        kinds = mount.type.split("/")
        options: tuple[str, ...] = mount.options
        if "mkfs" in kinds:
            kept = (option for option in options if not option.startswith("X-containerd.mkfs."))
            options = (*(option for option in kept if option != "rw"), "ro", "noload")
        if "mkdir" in kinds:
            options = tuple(option for option in options if not option.startswith("X-containerd.mkdir."))
        kind = "/".join(part for part in kinds if part not in {"mkfs", "mkdir"})
        found.append(replace(mount, type=kind, options=options))
    return found
