"""Diffs: a layer archive applied to a snapshot, or made from two (containerd.services.diff.v1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from containerd_hybrid._native import Growing
from containerd_hybrid.model import Descriptor, Digest, Mount, Scope


@dataclass(frozen=True, slots=True)
class AppliedLayer:
    """The uncompressed layer: ``descriptor`` has the plain tar media type, diff ID and length."""

    descriptor: Descriptor

    @property
    def diff_id(self) -> Digest:
        """Digest of the uncompressed archive."""
        return self.descriptor.digest


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """How to write a layer. ``media_type`` empty means gzip; ``ref`` names the ingest."""

    media_type: str = ""
    ref: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    source_date_epoch: int | None = None


class Applier(Protocol):
    """Applies layers."""

    async def apply(
        self,
        scope: Scope,
        layer: Descriptor,
        mounts: Sequence[Mount],
        *,
        sync: bool = False,
        growing: Growing | None = None,
        blind: bool = False,
        payloads: Mapping[str, bytes] | None = None,
    ) -> AppliedLayer:
        """Decompress, verify and apply ``layer`` onto ``mounts`` in one pass.

        ``growing`` is the blob on its way: it is read while it is written, and only whoever writes it
        verifies it, so the result must not be used before that. ``blind``: the mounts are those of
        :func:`~containerd_hybrid.snapshots.api.rebasable`, and the layers below are not known yet.
        ``payloads`` are serialised Any messages for stream processors, by the processors' names; a layer
        that one of those takes is verified by its diff ID alone, which is the caller's part.

        Raises:
            NotFoundError: the blob is not in this namespace.
            AbortedError: ``growing`` was given up by its writer.
            FailedPreconditionError: it has to know the layers below, and is ``blind``; or it has to be
                whole for a stream processor, and is ``growing``; or that is not installed.
            UnknownError: a stream processor failed.
            DigestMismatchError, SizeMismatchError: the stored bytes are not the layer's.
            InvalidArgumentError: the archive is damaged or tries to leave its root.
            ResourceExhaustedError: disk or a limit is used up.
            UnimplementedError: no way to read that media type.
        """
        ...


class Comparer(Protocol):
    """Makes layers."""

    async def compare(
        self, scope: Scope, lower: Sequence[Mount], upper: Sequence[Mount], options: DiffOptions
    ) -> Descriptor:
        """Write the difference into the content store and return its descriptor.

        The label ``containerd.io/uncompressed`` carries the diff ID of a compressed layer.
        """
        ...
