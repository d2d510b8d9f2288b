"""``mkfs/TYPE``: an image file with an empty file system, made before it is mounted for the first time."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnknownError, error_for_os
from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.api import ActiveMount
from containerd_hybrid.mounts.beneath import Roots

_PREFIX = "X-containerd.mkfs."
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?([kmgtp]?)i?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_MODE = 0o640


class MakeFileSystem:
    """``X-containerd.mkfs.size=SIZE``, and ``fs=`` (ext4; ext2, ext3, xfs) and ``uuid=`` like it.

    A file that is there already is mounted as it is. It appears only when its file system is complete.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots

    def transform(self, mount: Mount, active: Sequence[ActiveMount]) -> Mount:
        settings: dict[str, str] = {}
        kept = []
        for option in mount.options:
            if not option.startswith(_PREFIX):
                kept.append(option)
                continue
            key, separator, value = option.removeprefix(_PREFIX).partition("=")
            if not separator or key not in {"size", "fs", "uuid"}:
                raise InvalidArgumentError(f"unknown mount option {option}: use size=, fs= or uuid=")
            settings[key] = value
        size = parse_size(settings.get("size", ""))
        if not size:
            given = settings.get("size", "")
            raise InvalidArgumentError(f"mkfs requires {_PREFIX}size=SIZE, such as 64MiB; it is {given!r}")
        command = _command(settings.get("fs", "ext4"), settings.get("uuid", ""))
        with self._roots.parent(mount.source, "mkfs") as (folder, name):
            if not _exists(folder, name):
                _create(folder, name, size, command, mount.source)
        return replace(mount, options=tuple(kept))


def parse_size(text: str) -> int:
    """Bytes of ``64MiB``, ``64m``, ``1.5GB``, in powers of 1024 as in containerd; 0 for what is no size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return 0
    from decimal import Decimal

    return int(Decimal(match[1]) * 1024 ** _POWERS[match[2].lower()])


def _command(kind: str, uuid: str) -> list[str]:
    match kind:
        case "ext2" | "ext3" | "ext4":
            return [f"mkfs.{kind}", "-q", *(["-U", uuid] if uuid else [])]
        case "xfs":
            return ["mkfs.xfs", "-q", *(["-m", f"uuid={uuid}"] if uuid else [])]
    raise InvalidArgumentError(f"unsupported filesystem {kind!r}: use ext2, ext3, ext4 or xfs")


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _create(folder: int, name: str, size: int, command: list[str], path: str) -> None:
    fresh = f".{name}.{os.getpid()}.new"
    try:
        image = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, _MODE, dir_fd=folder)
        try:
            os.ftruncate(image, size)
            _run([*command, f"/dev/fd/{image}"], image, path)
            os.fsync(image)
        finally:
            os.close(image)
        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException as error:
        if _exists(folder, fresh):
            os.unlink(fresh, dir_fd=folder)
        if isinstance(error, OSError):
            raise error_for_os(error, f"create the file {path}") from error
        raise


def _run(command: list[str], image: int, path: str) -> None:
    try:
        done = subprocess.run(
            command,
            pass_fds=[image],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot format {path}: {command[0]} is not installed") from error
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip()
        raise UnknownError(f"failed format {path}: {command[0]} failed: {said}: status {done.returncode}")
