"""``loop``: a file as a block device, at a link to the device, for later mounts to use.

Unlike the mount option ``loop``, whose device goes with its one mount, this one stays until it is
unmounted. Beside the link lies a note of which file the device stands on, because after a reboot the same
device may be somebody else's. Sources: ``linux/loop.h``, losetup(8).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containerd_hybrid.errors import NotFoundError, UnimplementedError, error_for_os
from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.api import ActiveMount

_CONTROL = "/dev/loop-control"
_CTL_GET_FREE, _CONFIGURE, _SET_STATUS, _GET_STATUS = 0x4C82, 0x4C0A, 0x4C04, 0x4C05
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16

# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encryption, key size, flags; names.
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG_HEAD = struct.Struct("=2I")
_RESERVED = bytes(64)

# A free device is only found, not reserved; others look for one at the same time.
_ATTEMPTS = 100
_LOST_RACE = {errno.EBUSY, errno.ENOENT, errno.ENXIO}


class LoopHandler:
    """A :class:`~containerd_hybrid.mounts.api.MountHandler`. Options: ``ro``, ``direct-io``."""

    def mount(self, mount: Mount, mount_point: Path, active: Sequence[ActiveMount]) -> ActiveMount:
        started = time.time_ns()
        flags = _AUTOCLEAR  # until the link is there, so that a failure leaves no device
        if "ro" in mount.options:
            flags |= _READ_ONLY
        if "direct-io" in mount.options:
            flags |= _DIRECT_IO
        device, path = _attach(mount.source, flags)
        note = _note(mount_point)
        try:
            note.write_text(_Status.of(device).backing)
            mount_point.symlink_to(path)
            _Status.of(device).set_autoclear(device, False)
        except OSError as error:
            mount_point.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            raise error_for_os(error, f"keep the loop device {path} for {mount.source}") from error
        finally:
            os.close(device)
        return ActiveMount(mount, str(mount_point), started)

    def unmount(self, mount_point: Path) -> None:
        device = _open_ours(mount_point)
        try:
            if device is not None:
                _Status.of(device).set_autoclear(device, True)
            mount_point.unlink(missing_ok=True)
            _note(mount_point).unlink(missing_ok=True)
        except OSError as error:
            raise error_for_os(error, f"release the loop device of {mount_point}") from error
        finally:
            if device is not None:
                os.close(device)

    def alive(self, mount_point: Path) -> bool:
        device = _open_ours(mount_point)
        if device is None:
            return False
        os.close(device)
        return True


@dataclass(frozen=True, slots=True)
class _Status:
    """``struct loop_info64`` as the kernel gives it."""

    fields: tuple[Any, ...]

    @classmethod
    def of(cls, device: int) -> _Status:
        return cls(_INFO.unpack(fcntl.ioctl(device, _GET_STATUS, bytes(_INFO.size))))

    @property
    def backing(self) -> str:
        """Device and inode of the file."""
        return f"{self.fields[0]}:{self.fields[1]}"

    def set_autoclear(self, device: int, wanted: bool) -> None:
        flags = int(self.fields[8]) & ~_AUTOCLEAR | (_AUTOCLEAR if wanted else 0)
        fcntl.ioctl(device, _SET_STATUS, _INFO.pack(*self.fields[:8], flags, *self.fields[9:]))


def _note(mount_point: Path) -> Path:
    return mount_point.with_name(f"{mount_point.name}-loop")


def _open_ours(mount_point: Path) -> int | None:
    """The device behind the link, if it still stands on the same file."""
    try:
        wanted = _note(mount_point).read_text()
        device = os.open(mount_point, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _Status.of(device).backing == wanted:
            return device
    except OSError:  # not a loop device, or on no file
        pass
    os.close(device)
    return None


def attach_for_mount(file: str) -> tuple[int, str]:
    """A read-only device on a file, gone with its last user: the descriptor, or what is mounted of it."""
    return _attach(file, _READ_ONLY | _AUTOCLEAR)


def _attach(file: str, flags: int) -> tuple[int, str]:
    mode = os.O_CLOEXEC | (os.O_RDONLY if flags & _READ_ONLY else os.O_RDWR)
    try:
        backing = os.open(file, mode)
    except FileNotFoundError as error:
        raise NotFoundError(f"loop device for {file}: no such file") from error
    except OSError as error:
        raise error_for_os(error, f"open {file} for a loop device") from error
    try:
        for attempt in range(_ATTEMPTS):
            path = f"/dev/loop{_free_number()}"
            try:
                return _configure(path, mode, backing, flags, file), path
            except OSError as error:
                if error.errno not in _LOST_RACE or attempt == _ATTEMPTS - 1:
                    raise error_for_os(error, f"put the loop device {path} on {file}") from error
                time.sleep(min(attempt, 20) * (time.monotonic_ns() % 1000) / 1e6)
        raise AssertionError("unreachable")
    finally:
        os.close(backing)


def _free_number() -> int:
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UnimplementedError(f"this system has no loop devices: {_CONTROL} does not exist") from error
    except OSError as error:
        raise error_for_os(error, f"open {_CONTROL}") from error
    try:
        return fcntl.ioctl(control, _CTL_GET_FREE)
    except OSError as error:
        raise error_for_os(error, "find a free loop device") from error
    finally:
        os.close(control)


def _configure(path: str, mode: int, backing: int, flags: int, file: str) -> int:
    device = os.open(path, mode)
    # The name is for people who run losetup; a longer one is cut, the kernel knows the file by itself.
    name = os.fsencode(file)[:63]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    try:
        fcntl.ioctl(device, _CONFIGURE, _CONFIG_HEAD.pack(backing, 0) + info + _RESERVED)
    except BaseException:
        os.close(device)
        raise
    return device
