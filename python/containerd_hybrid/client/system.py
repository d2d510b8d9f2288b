"""What this machine's kernel offers to containers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# In the kernel's order (linux/capability.h): the position is the number.
_NAMES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES)
# Folders of /dev that a container has for itself, or that hold no devices.
_NOT_SHARED = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})


@dataclass(frozen=True, slots=True)
class Device:
    """A device node; ``type`` is ``c`` or ``b``, ``mode`` the permission bits."""

    path: str
    type: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


def capability_names() -> list[str]:
    """The capabilities that this process may hand on, for privileged containers."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
            return [name for number, name in enumerate(CAPABILITIES) if mask >> number & 1]
    return []


def host_devices() -> list[Device]:
    """The device nodes below /dev, for privileged containers, without those that each has its own of."""
    return list(_devices("/dev"))


def is_cgroup_v2() -> bool:
    """Whether /sys/fs/cgroup is the unified hierarchy and nothing else."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _devices(folder: str) -> Iterator[Device]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _NOT_SHARED:
                    yield from _devices(entry.path)
            elif entry.name != "console":
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # unplugged since
                if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                    yield Device(
                        entry.path,
                        "c" if stat.S_ISCHR(status.st_mode) else "b",
                        os.major(status.st_rdev),
                        os.minor(status.st_rdev),
                        stat.S_IMODE(status.st_mode),
                        status.st_uid,
                        status.st_gid,
                    )
