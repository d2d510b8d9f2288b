"""Layers applied and made by Rust, which gets descriptors of files and paths of folders, never bytes."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from containerd_hybrid import _native
from containerd_hybrid.content.api import ContentStore, Ingest
from containerd_hybrid.diff.api import AppliedLayer, DiffOptions
from containerd_hybrid.diff.processors import StreamProcessors
from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    UnimplementedError,
)
from containerd_hybrid.model import Descriptor, Digest, Mount, Scope
from containerd_hybrid.model.descriptor import OCI_LAYER, OCI_LAYER_GZIP, is_layer, layer_compression
from containerd_hybrid.mounts.api import Mounter
from containerd_hybrid.workers import in_own_thread

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a layer is written to: a folder, how deletions are written there, and what lies below it."""

    folder: Path
    whiteouts: str
    parents: tuple[str, ...] = ()


class WalkingDiffer:
    """Applier and Comparer for tar layers, plain, gzip or zstd."""

    def __init__(
        self, content: ContentStore, mounter: Mounter, processors: StreamProcessors | None = None
    ) -> None:
        self._content = content
        self._mounter = mounter
        self._processors = processors or StreamProcessors()

    async def apply(
        self,
        scope: Scope,
        layer: Descriptor,
        mounts: Sequence[Mount],
        *,
        sync: bool = False,
        growing: _native.Growing | None = None,
        blind: bool = False,
        payloads: Mapping[str, bytes] | None = None,
    ) -> AppliedLayer:
        """See :class:`containerd_hybrid.diff.api.Applier`."""
        if self._processors.accepts(layer.media_type):
            if growing is not None:
                raise FailedPreconditionError(
                    f"layer {layer.digest}: a stream processor reads whole blobs only"
                )
            return await self._apply_processed(scope, layer, mounts, sync, blind, payloads)
        if not is_layer(layer.media_type) or layer.media_type.endswith("+encrypted"):
            raise UnimplementedError(
                f"no processor for media type {layer.media_type!r} of {layer.digest}: expected a tar layer, "
                "plain or compressed with gzip or zstd"
            )
        blob = growing or await self._content.open_blob(scope, layer.digest)
        cancel = _native.CancelToken()
        try:
            async with self._target(mounts) as target:
                applied = await in_own_thread(
                    lambda: _native.apply_layer(
                        blob,
                        str(target.folder),
                        compression=layer_compression(layer.media_type),
                        whiteouts=target.whiteouts,
                        parents=target.parents,
                        blind=blind,
                        digest=str(layer.digest),
                        size=layer.size or None,
                        sync=sync,
                        cancel=cancel,
                    ),
                    cancel.cancel,
                )
        except HybridError as error:
            raise type(error)(f"layer {layer.digest}: {error.message}") from error
        finally:
            if isinstance(blob, int):
                os.close(blob)
        return AppliedLayer(Descriptor(OCI_LAYER, Digest.parse(applied.diff_id), applied.unpacked_size))

    async def _apply_processed(
        self,
        scope: Scope,
        layer: Descriptor,
        mounts: Sequence[Mount],
        sync: bool,
        blind: bool,
        payloads: Mapping[str, bytes] | None,
    ) -> AppliedLayer:
        """What programs make of the layer. Its bytes have no digest to be compared with, but a diff ID."""
        blob = await self._content.open_blob(scope, layer.digest)
        cancel = _native.CancelToken()
        try:
            async with (
                self._target(mounts) as target,
                self._processors.opened(blob, layer.media_type, payloads) as processed,
            ):
                if not is_layer(processed.media_type) or processed.media_type.endswith("+encrypted"):
                    raise UnimplementedError(f"no processor for media type {processed.media_type!r}")
                try:
                    applied = await in_own_thread(
                        lambda: _native.apply_layer(
                            processed.stream,
                            str(target.folder),
                            compression=layer_compression(processed.media_type),
                            whiteouts=target.whiteouts,
                            parents=target.parents,
                            blind=blind,
                            sync=sync,
                            cancel=cancel,
                        ),
                        cancel.cancel,
                    )
                except InvalidArgumentError:
                    # Half an archive is what a program leaves that fails, so what that says comes first.
                    await processed.check()
                    raise
                await processed.check()
        except HybridError as error:
            raise type(error)(f"layer {layer.digest}: {error.message}") from error
        finally:
            os.close(blob)
        return AppliedLayer(Descriptor(OCI_LAYER, Digest.parse(applied.diff_id), applied.unpacked_size))

    async def compare(
        self, scope: Scope, lower: Sequence[Mount], upper: Sequence[Mount], options: DiffOptions
    ) -> Descriptor:
        """See :class:`containerd_hybrid.diff.api.Comparer`."""
        media_type = options.media_type or OCI_LAYER_GZIP
        compression = layer_compression(media_type) if is_layer(media_type) else "auto"
        if compression == "auto":
            raise UnimplementedError(f"unsupported diff media type: {media_type}: not implemented")
        ref = options.ref or f"diff-{secrets.token_hex(16)}"
        ingest = await self._content.open_ingest(scope, ref)
        try:
            if ingest.status.offset:
                await ingest.truncate(0)
            made = await self._write_layer(ingest, lower, upper, compression, options.source_date_epoch)
            digest = Digest.parse(made.digest)
            labels = dict(options.labels)
            if compression != "none":
                labels[UNCOMPRESSED_LABEL] = made.diff_id
            try:
                await ingest.commit(made.size, digest, labels)
            except AlreadyExistsError:
                await self._content.update(scope, digest, labels, tuple(f"labels.{key}" for key in labels))
        except BaseException:
            await ingest.close()
            await self._content.abort(scope, ref)
            raise
        finally:
            await ingest.close()
        return Descriptor(media_type, digest, made.size)

    async def _write_layer(
        self,
        ingest: Ingest,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        compression: str,
        source_date_epoch: int | None,
    ) -> _native.DiffedLayer:
        async with self._readable(lower) as below, self._readable(upper) as above:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            try:
                cancel = _native.CancelToken()

                def diff() -> _native.DiffedLayer:
                    try:
                        return _native.diff_layers(
                            str(below) if below is not None else None,
                            str(above),
                            writing,
                            compression=compression,
                            source_date_epoch=source_date_epoch,
                            cancel=cancel,
                        )
                    finally:
                        os.close(writing)  # the reader's end of file

                producer = asyncio.ensure_future(in_own_thread(diff, cancel.cancel))
                try:
                    while data := await asyncio.to_thread(os.read, reading, _CHUNK):
                        await ingest.write(data)
                finally:
                    os.close(reading)  # a producer that still writes gets EPIPE and ends
                    reading = -1
                    if not producer.done():
                        await asyncio.wait({producer})
                return await producer
            finally:
                if reading >= 0:
                    os.close(reading)

    @asynccontextmanager
    async def _readable(self, mounts: Sequence[Mount]) -> AsyncIterator[Path | None]:
        if not mounts:
            yield None
            return
        async with self._mounter.temporary(mounts, read_only=True) as folder:
            yield folder

    @asynccontextmanager
    async def _target(self, mounts: Sequence[Mount]) -> AsyncIterator[_Target]:
        """The folder behind the mounts where it can be written without mounting, else a mount."""
        direct = _direct_target(mounts)
        if direct is not None:
            yield direct
            return
        async with self._mounter.temporary(mounts) as folder:
            yield _Target(folder, "remove")


def _direct_target(mounts: Sequence[Mount]) -> _Target | None:
    if len(mounts) != 1 or mounts[0].target:
        return None
    mount = mounts[0]
    if mount.type == "bind" and not mount.read_only:
        return _Target(Path(mount.source), "remove")
    if mount.type != "overlay":
        return None
    options = dict(option.partition("=")[::2] for option in mount.options)
    # Lower folders whose names hold a colon are escaped; such mounts take the slow way.
    if "upperdir" not in options or "\\" in options.get("lowerdir", ""):
        return None
    if not set(options) <= {"upperdir", "lowerdir", "workdir", "index", "userxattr", "volatile", "rw"}:
        return None
    whiteouts = "overlay-userxattr" if "userxattr" in options else "overlay"
    parents = tuple(path for path in options.get("lowerdir", "").split(":") if path)
    return _Target(Path(options["upperdir"]), whiteouts, parents)
