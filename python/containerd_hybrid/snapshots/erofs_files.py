"""Layer images of EROFS: how they are named, made, marked and recognized."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from containerd_hybrid.errors import (
    FailedPreconditionError,
    UnimplementedError,
    UnknownError,
    error_for_os,
)
from containerd_hybrid.model import Digest

LAYER = "layer.erofs"
MERGED = "fsmeta.erofs"
WRITABLE = "rwlayer.img"
MARK = ".erofslayer"
"""Lies in every active snapshot, so that the differ knows whose folder it is."""

PROGRAM = "mkfs.erofs"

_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602
_IMMUTABLE, _VERITY = 0x10, 0x0010_0000
_ENABLE_VERITY = 0x40806685
# struct fsverity_enable_arg: version, hash algorithm (SHA-256), block size, and what is not used.
_VERITY_ARGUMENT = struct.pack("=4I112x", 1, 1, 4096, 0)


def kernel_has_erofs() -> bool:
    """Whether the file system is registered; its module may have to be loaded by hand."""
    lines = Path("/proc/filesystems").read_text("ascii").splitlines()
    return any(line.split()[-1] == "erofs" for line in lines if line.strip())


def verity_metadata(layer: Path) -> Path:
    """Where a layer's dm-verity root hash is, if it was made with one."""
    return layer.with_name(f"{layer.name}.dmverity")


def cached(folders: Sequence[Path], diff_id: Digest) -> Path | None:
    """A layer that somebody converted before: ``FOLDER/ALGORITHM/XX/HEX.erofs``; the first folder wins."""
    for folder in folders:
        found = folder / diff_id.algorithm / diff_id.hex[:2] / f"{diff_id.hex}.erofs"
        try:
            if found.is_file():
                return found
        except OSError:
            continue  # a folder that cannot be read now is a folder without the layer
    return None


def image_of_folder(folder: Path, image: Path) -> None:
    """Make ``image`` of what is in ``folder``; it appears when it is whole.

    Raises:
        UnimplementedError: mkfs.erofs is not installed.
        ResourceExhaustedError, UnknownError: it failed.
    """
    draft = image.with_name(f".{image.name}.new")
    draft.unlink(missing_ok=True)
    try:
        run([PROGRAM, "--quiet", "-Enoinline_data", str(draft), str(folder)])
        keep(draft, image)
    finally:
        draft.unlink(missing_ok=True)


def keep(draft: Path, image: Path) -> None:
    """Give a finished image its name, on disk before it is said to be there."""
    try:
        descriptor = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(image)
    except OSError as error:
        raise error_for_os(error, f"keep the layer {image}") from error


def run(command: Sequence[str]) -> str:
    """Run a program of erofs-utils to its end; what it says."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except FileNotFoundError as error:
        raise UnimplementedError(f"{command[0]} is not installed: install erofs-utils") from error
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        raise UnknownError(f"{' '.join(command)} failed with status {done.returncode}: {said}")
    return said


def set_immutable(path: Path, wanted: bool) -> None:
    """Protect a file against everybody, or no more. A link is left alone, and so is what is not there.

    Raises:
        UnimplementedError: its file system cannot.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return
        raise error_for_os(error, f"open {path}") from error
    try:
        flags = _flags(descriptor)
        changed = flags | _IMMUTABLE if wanted else flags & ~_IMMUTABLE
        if changed != flags:
            fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("=i", changed))
    except OSError as error:
        if not wanted and error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            return  # where it cannot be set, there is nothing to take away
        raise error_for_os(error, f"change the attributes of {path}") from error
    finally:
        os.close(descriptor)


def enable_verity(path: Path) -> None:
    """Have the kernel check every read of the file from now on (fs-verity); once more is no error.

    Raises:
        FailedPreconditionError: the kernel or the file system cannot.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _ENABLE_VERITY, _VERITY_ARGUMENT)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise FailedPreconditionError(
                f"fsverity is not supported on the file system of {path}: {os.strerror(error.errno)}"
            ) from error
        raise error_for_os(error, f"enable fsverity for {path}") from error
    finally:
        os.close(descriptor)


def has_verity(path: Path) -> bool:
    """Whether :func:`enable_verity` was done to the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return bool(_flags(descriptor) & _VERITY)
    except OSError as error:
        raise error_for_os(error, f"read the attributes of {path}") from error
    finally:
        os.close(descriptor)


def check_verity(folder: Path) -> None:
    """Raises: FailedPreconditionError: files in ``folder`` cannot have fs-verity."""
    with tempfile.TemporaryDirectory(prefix="check-", dir=folder) as name:
        probe = Path(name, "file")
        probe.write_bytes(b"x")
        enable_verity(probe)


def empty(folder: Path) -> None:
    """Remove what is in a folder; the folder keeps its owner and mode."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _flags(descriptor: int) -> int:
    (flags,) = struct.unpack("=i", fcntl.ioctl(descriptor, _GETFLAGS, bytes(4)))
    return int(flags)
