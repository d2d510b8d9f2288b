"""A snapshotter for each driver, real mounts, and trees that can be compared."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.contract.snapshots import drivers
from tests.contract.support import RecordingPublisher

from containerd_hybrid import _native
from containerd_hybrid.events.api import Event
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.leases import MetadataLeaseManager
from containerd_hybrid.metadata.snapshots import MetadataSnapshotter
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.mounts.api import ActiveMount
from containerd_hybrid.mounts.beneath import Roots
from containerd_hybrid.mounts.mkdir import MakeFolders
from containerd_hybrid.mounts.mkfs import MakeFileSystem
from containerd_hybrid.mounts.plan import Planner
from containerd_hybrid.mounts.transform import Format, Transformer
from containerd_hybrid.snapshots.api import SnapshotDriver
from containerd_hybrid.snapshots.proxy import ProxySnapshotDriver

DRIVERS: dict[str, Callable[[Path], AbstractContextManager[SnapshotDriver]]] = {
    "blockfile": drivers.blockfile,
    "btrfs": drivers.btrfs,
    "erofs": drivers.erofs,
    "erofs-block": drivers.erofs_block,
    "native": drivers.native,
    "overlayfs": drivers.overlayfs,
    "proxy": drivers.proxy,
}
"""Every driver that this machine can have, in a folder; what it needs beside that is gone at the end."""

NS = Scope("default")

Change = Callable[[Path], None]
"""Something done to a mounted root file system."""


@dataclass
class World:
    """A snapshotter and everything around it. ``work`` is a folder to mount things in."""

    snapshotter: MetadataSnapshotter
    driver: SnapshotDriver
    database: SqliteDatabase
    leases: MetadataLeaseManager
    events: list[tuple[str, Event]]
    work: Path

    async def rows(self, sql: str) -> list[tuple[object, ...]]:
        """What a query finds."""
        return await self.database.read(lambda connection: connection.execute(sql).fetchall())

    async def commit(self, name: str, parent: str = "", change: Change | None = None) -> None:
        """Commit a snapshot with a change on its parent."""
        mounts = await self.snapshotter.prepare(NS, f"{name}-active", parent)
        if change is not None:
            with self.mounted(mounts) as root:
                change(root)
        await self.snapshotter.commit(NS, name, f"{name}-active")

    async def view(self, name: str) -> dict[str, object]:
        """What a committed snapshot looks like."""
        mounts = await self.snapshotter.view(NS, f"{name}-view", name)
        with self.mounted(mounts) as root:
            found = describe(root)
        await self.snapshotter.remove(NS, f"{name}-view")
        return found

    async def names(self, *filters: str) -> list[str]:
        """The names that a walk gives."""
        return [info.name async for info in self.snapshotter.walk(NS, filters)]

    @contextmanager
    def mounted(self, mounts: Sequence[Mount]) -> Iterator[Path]:
        """A real mount, gone at the end."""
        with activated(mounts, self.work) as left:
            target = _native.mount_temporary(_tuples(left), self.work)
            try:
                yield Path(target)
            finally:
                _native.unmount_temporary(target)


@asynccontextmanager
async def open_world(name: str, root: Path, *, sync_remove: bool = False) -> AsyncIterator[World]:
    publisher = RecordingPublisher()
    with DRIVERS[name](root) as driver:
        async with SqliteDatabase(root / "meta.db", no_sync=True) as database:
            snapshotter = MetadataSnapshotter(database, driver, publisher, sync_remove=sync_remove)
            yield World(
                snapshotter, driver, database, MetadataLeaseManager(database), publisher.events, root / "work"
            )
            await snapshotter.close()
        if isinstance(driver, ProxySnapshotDriver):
            await driver.transport.close()


@contextmanager
def activated(mounts: Sequence[Mount], work: Path) -> Iterator[Sequence[Mount]]:
    """What is left to mount when the mount manager's part is done: the same steps, without its records."""
    roots = Roots([work.parent])
    transformers: dict[str, Transformer] = {
        "format": Format(),
        "mkdir": MakeFolders(roots),
        "mkfs": MakeFileSystem(roots),
    }
    plan = Planner(transformers, {}).plan(mounts)
    if plan is None:
        yield mounts
        return
    active: list[ActiveMount] = []
    try:
        for step in plan.first:
            mount = step.transformed(active)
            active.append(ActiveMount(mount, _native.mount_temporary(_tuples([mount]), work), 0))
        yield [step.transformed(active) for step in plan.rest]
    finally:
        for one in reversed(active):
            _native.unmount_temporary(one.mount_point)


def _tuples(mounts: Sequence[Mount]) -> list[tuple[str, str, str, Sequence[str]]]:
    return [(m.type, m.source, m.target, m.options) for m in mounts]


def describe(root: Path) -> dict[str, object]:
    """Path → all that two equal trees have in common; the root is ``"."``."""
    found: dict[str, object] = {}
    links: dict[tuple[int, int], str] = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(root))
        first = links.setdefault((status.st_dev, status.st_ino), name)
        found[name] = (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            # Of a folder they are the file system's business.
            None if path.is_dir() else (status.st_size, status.st_nlink, first),
            _content(path, status),
            {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if not key.startswith("trusted.overlay.")
            },
        )
    return found


def _content(path: Path, status: os.stat_result) -> object:
    if stat.S_ISREG(status.st_mode):
        return path.read_bytes()
    if stat.S_ISLNK(status.st_mode):
        return str(path.readlink())
    return None
