"""Layers made into images of EROFS by ``mkfs.erofs``, straight from the archive, for the snapshotter erofs.

The archive is uncompressed and hashed by Rust, which writes it into the program's pipe. Needs a
``mkfs.erofs`` that reads tar (erofs-utils 1.6). Older ones are no loss but of time: a layer that another
differ unpacked is converted by the snapshotter when it is committed.

Source: containerd's ``plugins/diff/erofs``.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from containerd_hybrid import _native
from containerd_hybrid.content.api import ContentStore
from containerd_hybrid.diff.api import AppliedLayer, Comparer, DiffOptions
from containerd_hybrid.errors import (
    FailedPreconditionError,
    HybridError,
    UnimplementedError,
    UnknownError,
    error_for_os,
)
from containerd_hybrid.model import Descriptor, Digest, Mount, Scope
from containerd_hybrid.model.descriptor import OCI_LAYER, is_layer, layer_compression
from containerd_hybrid.workers import in_own_thread

PROGRAM = "mkfs.erofs"
_LAYER, _MARK = "layer.erofs", ".erofslayer"
_NATIVE_TYPE = "application/vnd.erofs.layer"
_COPY = 1 << 30


def check_program() -> None:
    """Raises: UnimplementedError: there is no ``mkfs.erofs`` that reads tar."""
    try:
        said = subprocess.run([PROGRAM, "--help"], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UnimplementedError(
            f"failed to check mkfs.erofs availability: {PROGRAM} is not installed: install erofs-utils"
        ) from error
    if b"--tar=" not in said.stdout + said.stderr:
        raise UnimplementedError(
            "mkfs.erofs does not support tar mode (--tar option), disabling erofs differ; "
            "layers are unpacked by another differ and converted when they are committed"
        )


class ErofsDiffer:
    """Applier and Comparer for snapshots of the snapshotter erofs; others are UnimplementedError.

    With ``tar_index`` an image is only an index, followed by the archive as it is. Differences are made by
    ``comparer``, since they are archives like any other.
    """

    def __init__(
        self,
        content: ContentStore,
        comparer: Comparer,
        *,
        mkfs_options: Sequence[str] = (),
        tar_index: bool = False,
    ) -> None:
        self._content = content
        self._comparer = comparer
        has_size = any(option.startswith("-b") for option in mkfs_options)
        # Images with blocks of 4 KiB mount on kernels of every page size.
        self._options = (*(() if has_size else ("-b4096",)), *mkfs_options)
        self._tar_index = tar_index

    async def apply(
        self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount], **how: Any
    ) -> AppliedLayer:
        """See :class:`containerd_hybrid.diff.api.Applier`; images are only made of whole blobs."""
        native = layer.media_type.startswith(_NATIVE_TYPE)
        compression = _compression(layer.media_type, native)
        folder = await asyncio.to_thread(layer_folder, mounts)
        if how.get("growing") is not None:
            raise FailedPreconditionError(f"layer {layer.digest}: {PROGRAM} is given whole blobs only")
        blob = await self._content.open_blob(scope, layer.digest)
        cancel = _native.CancelToken()
        work = _Work(blob, layer, compression, folder / f".{_LAYER}.new", cancel)
        try:
            diff_id, size = await in_own_thread(
                lambda: self._make(work, native, folder / _LAYER), cancel.cancel
            )
        except HybridError as error:
            raise type(error)(f"layer {layer.digest}: {error.message}") from error
        finally:
            os.close(blob)
        media_type = layer.media_type.partition("+")[0] if native else OCI_LAYER
        return AppliedLayer(Descriptor(media_type, Digest.parse(diff_id), size))

    async def compare(
        self, scope: Scope, lower: Sequence[Mount], upper: Sequence[Mount], options: DiffOptions
    ) -> Descriptor:
        """See :class:`containerd_hybrid.diff.api.Comparer`."""
        await asyncio.to_thread(layer_folder, upper)
        return await self._comparer.compare(scope, lower, upper, options)

    def _make(self, work: _Work, native: bool, image: Path) -> tuple[str, int]:
        """The image appears when it is whole and its bytes were the layer's."""
        # The same layer gives the same image, wherever it is made.
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"erofs:blobs/{work.layer.digest}"))
        try:
            if native:
                found = work.uncompress_to(work.draft)
            elif self._tar_index:
                found = self._index(work, name)
            else:
                command = (PROGRAM, "--tar=f", "--aufs", "--quiet", "-Enoinline_data", *self._options)
                found = work.pipe_to([*command, "-U", name, str(work.draft)])
            descriptor = os.open(work.draft, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            work.draft.replace(image)
        except OSError as error:
            raise error_for_os(error, f"make {image}") from error
        finally:
            work.draft.unlink(missing_ok=True)
        return found

    def _index(self, work: _Work, name: str) -> tuple[str, int]:
        archive = work.draft.with_name(f".{_LAYER}.tar")
        try:
            found = work.uncompress_to(archive)
            command = (PROGRAM, "--tar=i", "--aufs", "--quiet", *self._options, "-U", name, str(work.draft))
            with archive.open("rb") as tar:
                _finish(_start(command, tar.fileno()), command)
                _append(tar.fileno(), work.draft)
        finally:
            archive.unlink(missing_ok=True)
        return found


class _Work:
    """One layer on its way; all methods block."""

    def __init__(
        self, blob: int, layer: Descriptor, compression: str, draft: Path, cancel: _native.CancelToken
    ) -> None:
        self.layer = layer
        self.draft = draft
        self._blob = blob
        self._compression = compression
        self._cancel = cancel

    def uncompress_to(self, path: Path) -> tuple[str, int]:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            return self._uncompress(descriptor)
        finally:
            os.close(descriptor)

    def pipe_to(self, command: Sequence[str]) -> tuple[str, int]:
        """Run a program that reads the archive; it may stop where the archive's contents end."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            program = _start(command, reading)
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        try:
            try:
                found = self._uncompress(writing)
            finally:
                os.close(writing)
        except BaseException:
            program.kill()
            program.communicate()
            raise
        _finish(program, command)
        return found

    def _uncompress(self, sink: int) -> tuple[str, int]:
        return _native.unpack_layer(
            self._blob,
            sink,
            compression=self._compression,
            digest=str(self.layer.digest),
            size=self.layer.size or None,
            cancel=self._cancel,
        )


def layer_folder(mounts: Sequence[Mount]) -> Path:
    """The folder of the snapshot that is behind the mounts.

    Raises:
        UnimplementedError: it is not one of the snapshotter erofs.
    """
    if not mounts:
        raise UnimplementedError("no mounts for erofs differ: not implemented")
    folder = ""
    last = mounts[-1]
    if mounts[0].type.startswith("mkfs/"):
        folder = str(Path(mounts[0].source).parent)
    else:
        match last.type.rpartition("/")[2]:
            case "bind" | "erofs":
                folder = str(Path(last.source).parent)
            case "overlay":
                options = dict(option.partition("=")[::2] for option in last.options)
                place = options.get("upperdir") or (mounts[0].source if "lowerdir" in options else "")
                folder = str(Path(place).parent) if place else ""
    if not folder:
        raise UnimplementedError(f'invalid filesystem type "{last.type}" for erofs differ: not implemented')
    if not Path(folder, _MARK).exists():
        raise UnimplementedError("mount layer type must be erofs-layer: not implemented")
    return Path(folder)


def _compression(media_type: str, native: bool) -> str:
    if native:
        match media_type.partition("+")[2]:
            case "":
                return "none"
            case "zstd":
                return "zstd"
            case suffix:
                raise UnimplementedError(f"unsupported erofs layer suffix: {suffix}")
    if not is_layer(media_type) or media_type.endswith("+encrypted"):
        raise UnimplementedError(f"unsupported media type: {media_type}: not implemented")
    return layer_compression(media_type)


def _start(command: Sequence[str], source: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError as error:
        raise UnimplementedError(f"{command[0]} is not installed: install erofs-utils") from error


def _finish(program: subprocess.Popen[bytes], command: Sequence[str]) -> None:
    said = program.communicate()[0].decode(errors="replace").strip()
    if program.returncode:
        raise UnknownError(f"erofs apply failed: {' '.join(command)}: status {program.returncode}: {said}")


def _append(source: int, target: Path) -> None:
    size = os.fstat(source).st_size
    descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
    try:
        start, offset = os.lseek(descriptor, 0, os.SEEK_END), 0
        while offset < size:
            offset += os.copy_file_range(
                source, descriptor, min(size - offset, _COPY), offset, start + offset
            )
    finally:
        os.close(descriptor)
