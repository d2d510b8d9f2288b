"""Mounting what snapshotters describe, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from containerd_hybrid.model import Mount


class Mounter(Protocol):
    """Mounts and unmounts without blocking the event loop."""

    async def mount(self, mounts: Sequence[Mount], target: Path) -> None:
        """Mount all of them on ``target`` in order; when one fails, the earlier ones are undone."""
        ...

    async def unmount(self, target: Path) -> None:
        """Unmount everything on ``target`` (and below it), lazily if it is busy; nothing is no error."""
        ...

    def temporary(
        self, mounts: Sequence[Mount], *, read_only: bool = False
    ) -> AbstractAsyncContextManager[Path]:
        """Mount on a fresh folder and take it away at the end, whatever happened inside."""
        ...
