"""Snapshots as images of EROFS, overlaid by the kernel, in containerd's layout and with its mounts.

::

    <root>/snapshots/<id>/
        layer.erofs     what this snapshot adds to its parents, once it is committed
        fsmeta.erofs    the metadata of this layer and all below it, if somebody merged them
        .erofslayer     says to the differ that it may write layer.erofs; only of active snapshots
        fs, work        where changes are written until then
        rwlayer.img     where they are written instead with a ``default_size``: an ext4 file system
        .converted      layer.erofs was made here, and its commit may still fail

The differ ``erofs`` writes ``layer.erofs`` straight from a layer's archive. What any other has written
into ``fs`` (or ``rwlayer.img``) is converted when it is committed.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from containerd_hybrid import _native
from containerd_hybrid.errors import (
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    InvalidConfigError,
    InvalidDigestError,
    NotFoundError,
    UnimplementedError,
    error_for_os,
)
from containerd_hybrid.model import Digest, Mount
from containerd_hybrid.snapshots import erofs_files as files
from containerd_hybrid.snapshots import overlay_support
from containerd_hybrid.snapshots.api import DIFF_ID_LABEL, REBASE, REF_LABEL, DriverSnapshot, Kind, Usage
from containerd_hybrid.snapshots.folders import SnapshotFolders
from containerd_hybrid.snapshots.idmap import GID_LABEL, UID_LABEL, mapped_root
from containerd_hybrid.snapshots.sizelimit import SizeLimits, max_size

log = logging.getLogger(__name__)

_CONVERTED = ".converted"


@dataclass(frozen=True, slots=True)
class ErofsSettings:
    """The keys of the plug-in's configuration. ``default_size`` is in bytes, 0 for none.

    ``dmverity_mode``: ``auto`` (layers that have a root hash are mounted with it), ``on`` (others are
    refused) or ``off``.
    """

    overlay_options: tuple[str, ...] = ()
    enable_fsverity: bool = False
    set_immutable: bool = False
    default_size: int = 0
    dmverity_mode: str = "auto"
    layer_content_caches: tuple[Path, ...] = ()


class ErofsSnapshotDriver:
    """The :class:`~containerd_hybrid.snapshots.api.SnapshotDriver` ``erofs`` in ``root``.

    Raises:
        UnimplementedError: the kernel has no EROFS, or ``mkfs.erofs`` is not installed.
        InvalidConfigError: settings that cannot be, or not together.
        FailedPreconditionError: fs-verity is wanted where it cannot be had.
    """

    name = "erofs"

    def __init__(self, root: Path, settings: ErofsSettings = ErofsSettings()) -> None:
        _check(settings)
        self._settings = settings
        self._limits = SizeLimits(root)
        self._folders = SnapshotFolders(root, self._before_removal)
        if not files.kernel_has_erofs():
            raise UnimplementedError("EROFS unsupported, please `modprobe erofs`")
        if shutil.which(files.PROGRAM) is None:
            raise UnimplementedError(f"{files.PROGRAM} is not installed: install erofs-utils")
        if not settings.default_size:
            overlay_support.check(root)
        if settings.enable_fsverity:
            files.check_verity(root)
        self._remaps = overlay_support.can_map_ids()
        self.capabilities = ("only-remap-ids", *(("remap-ids",) if self._remaps else ()), REBASE)

    def create(self, snapshot: DriverSnapshot) -> None:
        """Make the folders.

        A layer that is in a cache is linked into a snapshot without a parent that is prepared for it.

        Raises:
            FailedPreconditionError: its labels limit its size and the file system cannot.
        """
        owner = mapped_root(snapshot.labels)
        with self._folders.make(snapshot.id) as folder:
            if not self._settings.default_size:
                self._limits.impose(snapshot, folder)
            upper = folder / "fs"
            upper.mkdir()
            mode = 0o755
            if snapshot.parents:
                above = (self._folders.path(snapshot.parents[0]) / "fs").stat()
                mode = above.st_mode & 0o7777
                owner = owner or (above.st_uid, above.st_gid)
            if owner is not None:
                os.chown(upper, *owner)
            upper.chmod(mode)
            if snapshot.kind is not Kind.ACTIVE:
                return
            if not self._settings.default_size:
                (folder / "work").mkdir()
                (folder / "work").chmod(0o711)
            (folder / files.MARK).touch(0o644)
            self._stage(snapshot, folder)

    def mounts(self, snapshot: DriverSnapshot) -> list[Mount]:
        """Layers, each an image, and what is to be put above them; for the mount manager where they stack.

        Raises:
            FailedPreconditionError: a layer is not as safe as the settings want it.
        """
        folder = self._folders.path(snapshot.id)
        if not snapshot.parents:
            return self._lowest(snapshot, folder)
        if snapshot.kind is not Kind.ACTIVE and len(snapshot.parents) == 1:
            return [self._image(snapshot.parents[0])]
        mounts, options = self._writable(snapshot, folder)
        first = len(mounts)
        for index, parent in enumerate(snapshot.parents):
            merged = self._merged(snapshot.parents[index:])
            mounts.append(merged or self._image(parent))
            if merged:
                break
        if self._remaps:
            named = (("uidmap", UID_LABEL), ("gidmap", GID_LABEL))
            options += [f"{key}={snapshot.labels[label]}" for key, label in named if label in snapshot.labels]
        if len(mounts) - first == 1:
            if snapshot.kind is not Kind.ACTIVE:
                lone = Mount("format/bind", f"{{{{ mount {first} }}}}", (*options, "ro", "rbind"))
                return [*mounts, lone]
            options.append(f"lowerdir={{{{ mount {first} }}}}")
        else:
            options.append(f"lowerdir={{{{ overlay {first} {len(mounts) - 1} }}}}")
        options += self._settings.overlay_options
        return [*mounts, Mount("format/mkdir/overlay", "overlay", tuple(options))]

    def commit(self, snapshot: DriverSnapshot) -> Usage:
        """Make the layer's image, unless the differ has; until the commit is settled, changes are kept."""
        folder = self._folders.path(snapshot.id)
        layer = folder / files.LAYER
        try:
            if not layer.exists() or (folder / _CONVERTED).exists():
                (folder / _CONVERTED).touch()
                layer.unlink(missing_ok=True)
                self._convert(folder, layer)
            if self._settings.enable_fsverity:
                files.enable_verity(layer)
            return _file_usage(layer)
        except OSError as error:
            raise error_for_os(error, f"commit snapshot {snapshot.id}") from error

    def settle(self, id: int) -> None:
        """Throw away what the image was made of, and protect the image."""
        folder = self._folders.path(id)
        try:
            if (folder / _CONVERTED).exists():
                files.empty(folder / "fs")
                (folder / files.WRITABLE).unlink(missing_ok=True)
                (folder / _CONVERTED).unlink()
        except OSError as error:
            raise error_for_os(error, f"settle snapshot {id}") from error
        self._limits.lift(folder)
        if self._settings.set_immutable:
            files.set_immutable(folder / files.LAYER, True)

    def usage(self, snapshot: DriverSnapshot) -> Usage:
        """What was written so far, as it lies on disk before it is converted."""
        folder = self._folders.path(snapshot.id)
        layer, image = folder / files.LAYER, folder / files.WRITABLE
        if layer.exists() and not (folder / _CONVERTED).exists():
            return _file_usage(layer)
        if image.exists():
            return _file_usage(image)
        return Usage(*_native.disk_usage(folder / "fs"))

    def remove(self, id: int) -> None:
        self._folders.remove(id)

    def ids(self) -> list[int]:
        return self._folders.ids()

    def labels(self, id: int) -> Mapping[str, str]:
        return {}

    # --- parts of mounts

    def _lowest(self, snapshot: DriverSnapshot, folder: Path) -> list[Mount]:
        """Without a parent: an image that is there already, else a place to write to."""
        if (folder / files.LAYER).exists() and not (folder / _CONVERTED).exists():
            if self._settings.enable_fsverity and not files.has_verity(folder / files.LAYER):
                raise FailedPreconditionError(f"fsverity is not enabled on {folder / files.LAYER}")
            return [self._image(snapshot.id)]
        access = "ro" if snapshot.kind is Kind.VIEW else "rw"
        if not self._settings.default_size or snapshot.kind is Kind.VIEW:
            return [Mount("bind", str(folder / "fs"), (access, "rbind"))]
        made = _made_in_block("upper", folder / "fs")
        bind = Mount("format/mkdir/bind", "{{ mount 0 }}/upper", (made, access, "rbind"))
        return [self._block(snapshot, folder), bind]

    def _writable(self, snapshot: DriverSnapshot, folder: Path) -> tuple[list[Mount], list[str]]:
        """What has to be mounted for the upper half of the overlay, and its options."""
        if snapshot.kind is not Kind.ACTIVE:
            return [], []
        if not self._settings.default_size:
            return [], [f"workdir={folder / 'work'}", f"upperdir={folder / 'fs'}"]
        made = [_made_in_block("upper", folder / "fs"), _made_in_block("work")]
        used = ["workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper"]
        return [self._block(snapshot, folder)], made + used

    def _block(self, snapshot: DriverSnapshot, folder: Path) -> Mount:
        size = max_size(snapshot.labels) or self._settings.default_size
        options = ("X-containerd.mkfs.fs=ext4", f"X-containerd.mkfs.size={size}", "rw", "loop")
        return Mount("mkfs/ext4", str(folder / files.WRITABLE), options)

    def _image(self, id: int) -> Mount:
        layer = self._folders.path(id) / files.LAYER
        if not layer.exists():
            raise NotFoundError(f"failed to find valid erofs layer blob: {layer} does not exist: not found")
        options = ["ro", "loop"]
        if self._settings.dmverity_mode != "off":
            metadata = files.verity_metadata(layer)
            if metadata.exists():
                options.append(f"X-containerd.dmverity={metadata}")
            elif self._settings.dmverity_mode == "on":
                raise FailedPreconditionError(
                    f"dm-verity mode is 'on' but .dmverity metadata not found for layer {layer}: pull the "
                    "image again, or set dmverity_mode to 'auto': failed precondition"
                )
        return Mount("erofs", str(layer), tuple(options))

    def _merged(self, ids: Sequence[int]) -> Mount | None:
        """The metadata of the first of ``ids`` and all below it in one image, which refers to theirs."""
        image = self._folders.path(ids[0]) / files.MERGED
        if not image.exists() or not image.stat().st_size:
            return None
        devices = (f"device={self._folders.path(layer) / files.LAYER}" for layer in reversed(ids))
        return Mount("erofs", str(image), ("ro", "loop", *devices))

    # --- making and removing

    def _stage(self, snapshot: DriverSnapshot, folder: Path) -> None:
        diff_id = snapshot.labels.get(DIFF_ID_LABEL, "")
        if snapshot.parents or not diff_id or REF_LABEL not in snapshot.labels:
            return
        try:
            blob = files.cached(self._settings.layer_content_caches, Digest.parse(diff_id))
        except InvalidDigestError:
            return
        if blob is None:
            return
        (folder / files.LAYER).symlink_to(blob)
        metadata = files.verity_metadata(blob)
        if self._settings.dmverity_mode == "off":
            return
        if metadata.exists():
            shutil.copyfile(metadata, files.verity_metadata(folder / files.LAYER))
        elif self._settings.dmverity_mode == "on":
            raise FailedPreconditionError(f"the cached layer {blob} has no dm-verity metadata")

    def _convert(self, folder: Path, layer: Path) -> None:
        upper, image = folder / "fs", folder / files.WRITABLE
        if not image.exists():
            files.image_of_folder(upper, layer)
            return
        root = upper.stat()
        _native.mount_all([("ext4", str(image), "", ["ro", "loop", "noload"])], upper)
        try:
            written = upper / "upper"
            if written.is_dir():
                files.image_of_folder(written, layer)
                root = written.stat()
        finally:
            _native.unmount_all(upper)
        # Children take after this folder, not after the one in the image.
        os.chown(upper, root.st_uid, root.st_gid)
        upper.chmod(root.st_mode & 0o7777)
        if not layer.exists():  # mounted, but never as far as its folder
            files.image_of_folder(upper, layer)

    def _before_removal(self, folder: Path) -> None:
        """Undo what would be in the way: a conversion's mount, a protected file, a quota."""
        _native.unmount_all(folder / "fs")
        try:
            files.set_immutable(folder / files.LAYER, False)
        except HybridError as error:
            log.warning("snapshotter erofs: %s", error)
        self._limits.lift(folder)


def _check(settings: ErofsSettings) -> None:
    if settings.dmverity_mode not in {"auto", "on", "off"}:
        raise InvalidConfigError(
            f'invalid dmverity_mode "{settings.dmverity_mode}": must be "auto", "on", or "off"'
        )
    if settings.default_size < 0:
        raise InvalidArgumentError(f"default_size is negative: {settings.default_size}")
    if settings.dmverity_mode == "on" and not Path("/sys/module/dm_verity").exists():
        raise FailedPreconditionError(
            "dmverity_mode is 'on' but dm-verity is not supported on this system: load dm_verity"
        )
    if not settings.layer_content_caches:
        return
    for key in ("enable_fsverity", "set_immutable"):
        if getattr(settings, key):
            raise InvalidConfigError(f"{key} is incompatible with layer_content_caches")
    for folder in settings.layer_content_caches:
        if not folder.is_absolute():
            raise InvalidConfigError(f'layer_content_caches "{folder}" must be an absolute path')


def _made_in_block(name: str, like: Path | None = None) -> str:
    """The option to make a folder in the writable file system, by default for the host's root."""
    attributes = "0755"
    if like is not None:
        status = like.stat()
        owner, mode = (status.st_uid, status.st_gid), status.st_mode & 0o777
        if (owner, mode) != ((0, 0), 0o755):
            attributes = f"{mode:04o}:{owner[0]}:{owner[1]}"
    return f"X-containerd.mkdir.path={{{{ mount 0 }}}}/{name}:{attributes}"


def _file_usage(path: Path) -> Usage:
    return Usage(path.stat().st_blocks * 512, 1)
