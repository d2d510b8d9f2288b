"""Transfer: moving images between places in one call (containerd.services.transfer.v1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from containerd_hybrid.images.api import ArchiveSource, Image, ImportOptions
from containerd_hybrid.model import Descriptor, Platform, Scope


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a transfer: ``event`` says what (``extracting``, ``saved`` …), counts are bytes."""

    event: str
    name: str = ""
    parents: tuple[str, ...] = ()
    progress: int = 0
    total: int = 0
    descriptor: Descriptor | None = None


ProgressSink: TypeAlias = Callable[[Progress], None]


class ArchiveSink(Protocol):
    """Where an exported archive goes; ``write`` waits while the receiver is slow."""

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class UnpackTarget:
    """Unpack for this platform with this snapshotter (empty: the default)."""

    platform: Platform
    snapshotter: str = ""


class Transferrer(Protocol):
    """The transfers this daemon can do; the registry's join with the registry client."""

    async def import_images(
        self,
        scope: Scope,
        source: ArchiveSource,
        options: ImportOptions,
        platforms: Sequence[Platform] = (),
        unpack: Sequence[UnpackTarget] = (),
        progress: ProgressSink | None = None,
    ) -> Sequence[Image]: ...

    async def export_images(
        self,
        scope: Scope,
        names: Sequence[str],
        sink: ArchiveSink,
        platforms: Sequence[Platform] = (),
        *,
        all_platforms: bool = False,
        progress: ProgressSink | None = None,
    ) -> None: ...

    async def tag(
        self,
        scope: Scope,
        source: str,
        target: str,
        unpack: Sequence[UnpackTarget] = (),
        progress: ProgressSink | None = None,
    ) -> Image:
        """Unpack the image ``source``, and give it the name ``target``, replacing what that pointed to."""
        ...
