"""Transfers between registries and the image store: pull and push as one object."""

from __future__ import annotations

from collections.abc import Sequence

from containerd_hybrid.images.api import Image
from containerd_hybrid.model import Platform, Scope
from containerd_hybrid.transfer.api import (
    Progress,
    ProgressSink,
    RegistryPlace,
    StoreTarget,
    UnpackTarget,
)
from containerd_hybrid.transfer.pull import RegistryPull
from containerd_hybrid.transfer.push import RegistryPush


class ImageTransfers:
    """Implements :class:`containerd_hybrid.transfer.api.RegistryTransfers`."""

    def __init__(self, pull: RegistryPull, push: RegistryPush) -> None:
        self._pull = pull
        self._push = push

    async def pull(
        self,
        scope: Scope,
        source: RegistryPlace,
        target: StoreTarget,
        unpack: Sequence[UnpackTarget] = (),
        progress: ProgressSink | None = None,
    ) -> Sequence[Image]:
        return await self._pull.pull(scope, source, target, unpack, progress or _nobody)

    async def push(
        self,
        scope: Scope,
        name: str,
        target: RegistryPlace,
        platforms: Sequence[Platform] = (),
        progress: ProgressSink | None = None,
    ) -> None:
        await self._push.push(scope, name, target, platforms, progress or _nobody)


def _nobody(progress: Progress) -> None:
    """Nobody listens."""
