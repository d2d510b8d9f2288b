"""Mounts on Linux: the work is done by Rust, in threads; here it is made sure that it is undone.

A thread that mounts cannot be stopped half-way. So every call waits until its thread is done, also when
its caller is cancelled, takes back what nobody wants any more, and passes the cancellation on after that.
What a killed daemon leaves behind lies below one folder, which ``sweep`` clears at the next start.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from containerd_hybrid import _native
from containerd_hybrid.errors import HybridError
from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.options import read_only as as_read_only
from containerd_hybrid.mounts.options import without_volatile
from containerd_hybrid.mounts.threads import to_the_end

_log = logging.getLogger(__name__)

_PREFIX = "mount-"


class LinuxMounter:
    """A :class:`~containerd_hybrid.mounts.api.Mounter`.

    Temporary mounts lie in ``base``, which belongs to this mounter alone and is made when it is needed.
    """

    def __init__(self, base: Path) -> None:
        self._base = base

    async def mount(self, mounts: Sequence[Mount], target: Path) -> None:
        """Mount all of them on ``target`` in order, or none.

        Raises:
            InvalidArgumentError: an option cannot be right, or the kernel says so.
            NotFoundError: a source or a target does not exist.
            PermissionDeniedError, UnavailableError, UnimplementedError, …: the kernel's answer.
        """
        tuples = _tuples(mounts)
        await to_the_end(lambda: _native.mount_all(tuples, target), _native.unmount_each)

    async def unmount(self, target: Path) -> None:
        """Unmount everything on ``target`` and below it, lazily if it is busy; nothing is no error."""
        await to_the_end(lambda: _native.unmount_all(target))

    @asynccontextmanager
    async def temporary(self, mounts: Sequence[Mount], *, read_only: bool = False) -> AsyncIterator[Path]:
        """Mount on a fresh folder and take it away at the end, whatever happened inside.

        The folder is empty when there are no mounts. ``read_only`` leaves the mounts' own folders alone,
        so that a snapshot which is mounted elsewhere can be looked at.
        """
        tuples = _tuples(as_read_only(mounts) if read_only else without_volatile(mounts))
        folder = await to_the_end(
            lambda: _native.mount_temporary(tuples, self._base, _PREFIX), _native.unmount_temporary
        )
        try:
            yield Path(folder)
        except BaseException:
            try:
                await to_the_end(lambda: _native.unmount_temporary(folder))
            except HybridError:
                # The first error is the one to see; the folder is found again at the next start.
                _log.warning("temporary mount %s stays behind", folder, exc_info=True)
            raise
        await to_the_end(lambda: _native.unmount_temporary(folder))

    async def sweep(self) -> list[HybridError]:
        """Take away temporary mounts that an earlier process left; what cannot be, and why.

        To be called before the first :meth:`temporary`: it does not know which ones are in use.
        """
        return await to_the_end(self._sweep)

    def _sweep(self) -> list[HybridError]:
        problems: list[HybridError] = []
        leftovers = sorted(self._base.glob(_PREFIX + "*")) if self._base.is_dir() else []
        for folder in leftovers:
            try:
                _native.unmount_temporary(folder)
            except HybridError as error:
                _log.warning("leftover of an earlier process stays: %s", error)
                problems.append(error)
        return problems


def _tuples(mounts: Sequence[Mount]) -> list[tuple[str, str, str, Sequence[str]]]:
    return [(mount.type, mount.source, mount.target, mount.options) for mount in mounts]
