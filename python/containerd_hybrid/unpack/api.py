"""Unpacking: the layers of an image become a stack of committed snapshots named by chain ID."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from containerd_hybrid._native import Growing
from containerd_hybrid.model import Descriptor, Digest, Platform, Scope


@dataclass(frozen=True, slots=True)
class UnpackProgress:
    """One layer's state: ``extracting``, ``exists`` or ``done``; sizes in bytes."""

    layer: Descriptor
    state: str
    chain_id: Digest


@dataclass(frozen=True, slots=True)
class UnpackedImage:
    """The manifest that was chosen and the snapshot (chain ID) of its top layer."""

    manifest: Descriptor
    config: Descriptor
    chain_id: Digest
    snapshotter: str


class Arrivals(Protocol):
    """Layers that are still on their way."""

    async def begun(self, layer: Descriptor) -> Growing | None:
        """Wait until the layer can be read: as it comes, or (None) from its blob."""
        ...

    async def whole(self, layer: Descriptor) -> None:
        """Wait until the layer's blob is here, verified."""
        ...


class Unpacker(Protocol):
    """Unpacks images; safe to call twice at once for the same image."""

    async def unpack(
        self,
        scope: Scope,
        target: Descriptor,
        platform: Platform,
        snapshotter: str = "",
        *,
        progress: Callable[[UnpackProgress], None] | None = None,
        arrivals: Arrivals | None = None,
    ) -> UnpackedImage:
        """Apply the layers that are not there yet, each visible only when its diff ID matched.

        With ``arrivals`` layers may still be on their way; index, manifest and config have to be here.
        Where the snapshotter can be told a parent at commit, layers are applied side by side.

        Sets ``containerd.io/gc.ref.snapshot.<snapshotter>`` on the config blob and
        ``containerd.io/uncompressed`` on the layers, as containerd's client does.
        """
        ...
