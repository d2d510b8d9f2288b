"""Taking over what a containerd has on this machine."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Outcome(enum.Enum):
    """What became of a thing."""

    ADOPTED = "adopted"
    PRESENT = "present"  # it was here already, the same
    CONFLICT = "conflict"  # something else of that name is here, and stays
    MISSING = "missing"  # a record without bytes, or an image whose blobs are not all there
    DAMAGED = "damaged"  # the bytes are not what the record says; nothing of them is taken
    EXPIRED = "expired"  # a lease whose time is over


@dataclass(frozen=True, slots=True)
class Adopted:
    """One thing. ``kind`` is namespace, content, image or lease; ``size`` is a blob's, in bytes."""

    kind: str
    namespace: str
    name: str
    outcome: Outcome
    size: int = 0


class Adopter(Protocol):
    """Adopts from the root folder of a containerd that is not running."""

    def adopt(
        self, folder: Path, *, namespaces: Sequence[str] = (), verify: bool = False, dry_run: bool = False
    ) -> AsyncIterator[Adopted]:
        """Namespaces, blobs, images and leases, told one by one. What is here already stays as it is.

        Blobs are hard links where the file system allows, copies elsewhere; containerd's own files are
        only read. ``verify`` reads every byte first; without it only sizes are compared. ``dry_run``
        changes nothing. No ``namespaces`` means all.

        Raises:
            NotFoundError: no containerd has that root, or it has no such namespace.
            FailedPreconditionError: that containerd is running.
            DataLossError: its metadata file is damaged.
        """
        ...
