"""What the machine and this program offer, for ``hyctl system info``."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import containerd_hybrid
from containerd_hybrid import _native
from containerd_hybrid._programs import shim_path
from containerd_hybrid.app.api import SystemInfo
from containerd_hybrid.app.release import REVISION, SERVED_VERSION
from containerd_hybrid.errors import HybridError

_LIBRARIES = ("grpcio", "protobuf", "aiohttp")
_OCI_RUNTIMES = ("runc", "crun", "youki", "runsc", "kata-runtime")
_FILE_SYSTEMS = ("overlay", "erofs", "btrfs", "xfs", "fuse")
# The release of the kernel that a system call (or a use of one) came with.
_SINCE = {
    "new mount API (fsopen)": (5, 2),
    "pidfd_open": (5, 3),
    "openat2": (5, 6),
    "id-mapped mounts": (5, 12),
    "overlayfs on user namespaces": (5, 11),
    "id-mapped overlayfs layers": (5, 19),
}
_CGROUPS = Path("/sys/fs/cgroup")


class HostInformer:
    """Implements :class:`containerd_hybrid.app.api.SystemInformer`; looks anew at each question."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root = root
        self._state = state

    async def info(self) -> SystemInfo:
        """See :class:`~containerd_hybrid.app.api.SystemInfo`."""
        return await asyncio.to_thread(self._info)

    def _info(self) -> SystemInfo:
        name = os.uname()
        return SystemInfo(
            version=containerd_hybrid.__version__,
            api_version=SERVED_VERSION,
            revision=REVISION,
            libraries=dict(_libraries()),
            kernel=f"{name.sysname} {name.release}",
            architecture=name.machine,
            cgroups=cgroup_version(),
            kernel_features=dict(_kernel_features(name.release)),
            implementations=implementations(),
            runtimes=dict(_runtimes()),
            root=str(self._root),
            state=str(self._state),
        )


def cgroup_version(root: Path = _CGROUPS) -> str:
    """``v2`` (unified), ``v1``, ``hybrid`` (v1 with a unified tree beside it), or ``none``."""
    if (root / "cgroup.controllers").exists():
        return "v2"
    try:
        folders = [entry for entry in root.iterdir() if (entry / "cgroup.procs").exists()]
    except OSError:
        return "none"
    if not folders:
        return "none"
    return "hybrid" if any((folder / "cgroup.controllers").exists() for folder in folders) else "v1"


def implementations() -> dict[str, str]:
    """What the native module chose on this processor."""
    return {"gzip": _native.gzip_backend(), "zstd": "libzstd", "sha256": _sha256()}


def _sha256() -> str:
    """The hash's code looks at the same flags when it is first called."""
    flags = _words("/proc/cpuinfo", ("flags", "Features"))
    if "sha_ni" in flags:
        return "SHA-NI"
    return "ARMv8 SHA2" if platform.machine() == "aarch64" and "sha2" in flags else "software"


def _words(file: str, keys: tuple[str, ...]) -> set[str]:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith(keys)), set())


def _libraries() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "sqlite", sqlite3.sqlite_version
    from importlib import metadata

    for name in _LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _kernel_features(release: str) -> Iterator[tuple[str, bool]]:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    for name, since in _SINCE.items():
        yield name, version >= since
    known = _file_systems()
    for name in _FILE_SYSTEMS:
        # One that is a module is listed when it was loaded.
        yield f"{name} file system", name in known
    yield "user namespaces", _read("/proc/sys/user/max_user_namespaces") not in ("", "0")
    yield "seccomp", Path("/proc/sys/kernel/seccomp").exists()
    yield "AppArmor", _read("/sys/module/apparmor/parameters/enabled") == "Y"
    yield "SELinux", Path("/sys/fs/selinux/enforce").exists()


def _file_systems() -> set[str]:
    return {line.split()[-1] for line in _read("/proc/filesystems").splitlines() if line.strip()}


def _read(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""


def _runtimes() -> Iterator[tuple[str, str]]:
    try:
        yield "io.containerd.runc.v2", str(shim_path())
    except HybridError as error:
        yield "io.containerd.runc.v2", f"missing: {error.message}"
    for name in _OCI_RUNTIMES:
        found = shutil.which(name)
        if found:
            yield name, found
    for folder in dict.fromkeys([*os.get_exec_path(), str(Path(sys.argv[0]).absolute().parent)]):
        for program in sorted(Path(folder).glob("containerd-shim-*-v*")):
            yield program.name, str(program)
