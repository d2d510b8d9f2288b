"""A snapshotter for another containerd, which keeps its own records of what it makes here.

That one names snapshots by keys of its own database and collects garbage by itself: whatever it finds here
and does not know, it removes. So it works in a namespace that nobody else uses, whatever namespace its calls
name, and everything it makes has the label ``containerd.io/gc.root``, which it is not shown: our collector
leaves it alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from containerd_hybrid.model import Scope
from containerd_hybrid.model.fieldpaths import map_key
from containerd_hybrid.model.labels import GC_ROOT
from containerd_hybrid.model.mount import Mount
from containerd_hybrid.snapshots.api import SnapshotInfo, Snapshotter, Usage

_HELD = "lent"


class LentSnapshotter:
    """Implements :class:`containerd_hybrid.snapshots.api.Snapshotter` over another, in ``namespace``."""

    def __init__(self, snapshotter: Snapshotter, namespace: str) -> None:
        self.name = snapshotter.name
        self.capabilities = snapshotter.capabilities
        self._snapshotter = snapshotter
        self._own = Scope(namespace)

    async def stat(self, scope: Scope, key: str) -> SnapshotInfo:
        return _shown(await self._snapshotter.stat(self._own, key))

    async def update(
        self, scope: Scope, key: str, labels: Mapping[str, str], fieldpaths: Sequence[str] = ()
    ) -> SnapshotInfo:
        held = [path for path in fieldpaths if map_key(path, "labels") != GC_ROOT]
        if fieldpaths and not held:
            return await self.stat(scope, key)
        return _shown(await self._snapshotter.update(self._own, key, _held(labels), held))

    async def usage(self, scope: Scope, key: str) -> Usage:
        return await self._snapshotter.usage(self._own, key)

    async def mounts(self, scope: Scope, key: str) -> list[Mount]:
        return await self._snapshotter.mounts(self._own, key)

    async def prepare(
        self, scope: Scope, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        return await self._snapshotter.prepare(self._own, key, parent, _held(labels))

    async def view(
        self, scope: Scope, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        return await self._snapshotter.view(self._own, key, parent, _held(labels))

    async def commit(
        self, scope: Scope, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = ""
    ) -> None:
        await self._snapshotter.commit(self._own, name, key, _held(labels), parent)

    async def remove(self, scope: Scope, key: str) -> None:
        await self._snapshotter.remove(self._own, key)

    async def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        async for info in self._snapshotter.walk(self._own, filters):
            yield _shown(info)

    async def cleanup(self) -> None:
        await self._snapshotter.cleanup()


def _held(labels: Mapping[str, str] | None) -> dict[str, str]:
    return {**(labels or {}), GC_ROOT: _HELD}


def _shown(info: SnapshotInfo) -> SnapshotInfo:
    return replace(info, labels={key: value for key, value in info.labels.items() if key != GC_ROOT})
