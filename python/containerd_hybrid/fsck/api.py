"""Checking and mending what a disk may have damaged: metadata, blobs, unpacked layers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from containerd_hybrid.registry.api import RegistryOptions


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not what it should be.

    ``kind`` is ``database``, ``content`` or ``layer``; ``name`` a digest, or ``SNAPSHOTTER/CHAIN-ID``.
    ``repaired`` says whether it is right again; if it was to be and is not, ``remedy`` says what to do.
    """

    kind: str
    namespace: str
    name: str
    what: str
    repaired: bool = False
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """How much was looked at. ``passed_over`` layers are of snapshotters whose files cannot be compared,
    or have no blob here to be compared with."""

    blobs: int = 0
    bytes: int = 0
    layers: int = 0
    passed_over: int = 0


class Fsck(Protocol):
    """Checks a whole store, while it is in use."""

    def check(
        self,
        *,
        repair: bool = False,
        namespaces: Sequence[str] = (),
        registry: RegistryOptions | None = None,
    ) -> AsyncIterator[Problem | Summary]:
        """Every problem as it is found, and at the end one summary.

        Looks at the metadata file, at every byte of every blob, and at every file of every unpacked layer
        of the images, which is applied anew beside it and compared: kind, mode, owner, size, time, link,
        extended attributes, bytes. No ``namespaces`` means all.

        With ``repair`` a damaged or missing blob is fetched again from where it came, the way and with the
        credentials that ``registry`` says (default: as pulls do, without any), and a damaged layer
        is replaced at once by the one applied anew, unless a mount uses it. What cannot be mended is told
        with a remedy; bytes known to be wrong are removed, so that a pull brings the right ones.
        """
        ...
