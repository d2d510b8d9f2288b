"""An unpacked layer against its blob: applied anew beside it, compared, and put into its place."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from containerd_hybrid import _native
from containerd_hybrid.diff.api import Applier
from containerd_hybrid.errors import HybridError, NotFoundError
from containerd_hybrid.fsck.api import Problem
from containerd_hybrid.fsck.trees import differences, exchange
from containerd_hybrid.leases.api import LeaseManager, protected
from containerd_hybrid.model import Descriptor, Digest, Mount, Scope
from containerd_hybrid.snapshots.api import Snapshotter


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A committed snapshot (``chain``, on ``parent``) and the layer that is in it."""

    snapshotter: str
    chain: str
    parent: str
    layer: Descriptor
    diff_id: Digest


class LayerChecker:
    """Checks layers of snapshotters that keep each in a folder."""

    def __init__(
        self, snapshotters: Mapping[str, Snapshotter], applier: Applier, leases: LeaseManager
    ) -> None:
        self.snapshotters = snapshotters
        self._applier = applier
        self._leases = leases

    async def check(self, scope: Scope, unpacked: Unpacked, *, repair: bool) -> Problem | str | None:
        """A problem, ``""`` for a sound layer, or None when it cannot be told."""
        async with protected(self._leases, scope, hours=1) as held:
            return await self._check(held, unpacked, repair)

    async def _check(self, scope: Scope, unpacked: Unpacked, repair: bool) -> Problem | str | None:
        snapshotter = self.snapshotters[unpacked.snapshotter]
        key, view = (f"fsck-{secrets.token_hex(8)} {unpacked.chain}{end}" for end in ("", "-view"))
        try:
            doubtful = _folder(await snapshotter.view(scope, view, unpacked.chain), "lowerdir")
            if doubtful is None:
                return None
            mounts = await snapshotter.prepare(scope, key, unpacked.parent)
            fresh = _folder(mounts, "upperdir")
            if fresh is None:
                return None
            applied = await self._applier.apply(scope, unpacked.layer, mounts, sync=repair)
            if applied.diff_id != unpacked.diff_id:
                return None  # it was never this blob that was applied
            found = await asyncio.to_thread(differences, fresh, doubtful)
            if not found:
                return ""
            problem = Problem(
                "layer", scope.namespace, f"{unpacked.snapshotter}/{unpacked.chain}", "; ".join(found)
            )
            await _remove(snapshotter, scope, view)
            return await self._replace(problem, fresh, doubtful) if repair else problem
        except NotFoundError:
            return None  # the layer's blob is not here, or the snapshot has gone meanwhile
        finally:
            await asyncio.shield(asyncio.ensure_future(_remove(snapshotter, scope, view, key)))

    async def _replace(self, problem: Problem, fresh: Path, doubtful: Path) -> Problem:
        user = await asyncio.to_thread(_user_of, doubtful)
        if user:
            return replace(problem, remedy=f"end what runs on it and repair again: it is in use at {user}")
        try:
            await asyncio.to_thread(exchange, fresh, doubtful)
        except HybridError as error:
            return replace(problem, remedy=f"repair again: {error.message}")
        return replace(problem, repaired=True)


def _folder(mounts: Sequence[Mount], option: str) -> Path | None:
    """The folder of a snapshot's own; of overlays the first that ``option`` names. None: it has none.

    ``lowerdir`` begins with the topmost snapshot of a view, ``upperdir`` is what an active one is written to.
    """
    if len(mounts) != 1:
        return None
    (mount,) = mounts
    if mount.type == "bind":
        return Path(mount.source)
    if mount.type != "overlay":
        return None
    for given in mount.options:
        key, _, value = given.partition("=")
        if key == option and value:
            return Path(value.split(":")[0])
    return None


def _user_of(folder: Path) -> str:
    """A mount point that shows the folder; empty when there is none."""
    for mount in _native.mountinfo():
        folders = [
            shown
            for option in mount.super_options.split(",")
            if option.startswith(("lowerdir=", "lowerdir+=", "upperdir="))
            for shown in option.partition("=")[2].split(":")
        ]
        if str(folder) in folders or (mount.root != "/" and str(folder).endswith(mount.root)):
            return mount.mount_point
    return ""


async def _remove(snapshotter: Snapshotter, scope: Scope, *keys: str) -> None:
    for key in keys:
        with suppress(HybridError):
            await snapshotter.remove(scope, key)
