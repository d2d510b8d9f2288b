"""The daemon as a process: what it does not inherit, its folders, its place among other processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path

from containerd_hybrid.errors import (
    FailedPreconditionError,
    InvalidConfigError,
    NotFoundError,
    UnknownError,
    error_for_os,
)

_CGROUPS = Path("/sys/fs/cgroup")
_FIRST_OTHER_DESCRIPTOR = 3
_LOCK = "containerd-hybrid.lock"
# bbolt locks its whole file while it is open.
_BOLT = Path("io.containerd.metadata.v1.bolt") / "meta.db"


def shed_inheritance() -> None:
    """Drop what a parent may have left us: descriptors, blocked and ignored signals, a tight umask.

    A descriptor that somebody waits on would otherwise stay open as long as the daemon runs, and a
    umask of 077 would make the folders of container images unreadable to the users in them.
    """
    for entry in list(Path("/proc/self/fd").iterdir()):
        descriptor = int(entry.name)
        if descriptor < _FIRST_OTHER_DESCRIPTOR:
            continue
        with contextlib.suppress(OSError):
            # Python opens everything with close-on-exec, so what is without came through an exec.
            if not fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                os.close(descriptor)
    _open_missing_stdio()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.umask(0o022)


def _open_missing_stdio() -> None:
    """A closed standard stream would be the number of the next file opened."""
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one
            os.set_inheritable(descriptor, True)


def make_folders(root: Path, state: Path, temp: Path | None) -> None:
    """Make the top folders: root 0700, state 0711 (containers in user namespaces pass through it).

    Raises:
        InvalidConfigError: root or state is missing, or both are the same.
        HybridError: a folder cannot be made.
    """
    if not root.is_absolute() or not state.is_absolute():
        raise InvalidConfigError("root and state must be absolute paths")
    if root == state:
        raise InvalidConfigError("root and state must be different paths")
    _folder(root, 0o700, exact=True)
    _folder(state, 0o711, exact=False)
    if temp is not None:
        _folder(temp, 0o700, exact=True)


def _folder(path: Path, mode: int, *, exact: bool) -> None:
    try:
        existed = path.is_dir()
        path.mkdir(parents=True, exist_ok=True)
        if exact or not existed:
            path.chmod(mode)
    except PermissionError:
        # A daemon that is root only in its own user namespace may have been given such a folder.
        if not path.is_dir():
            raise
    except OSError as error:
        raise error_for_os(error, f"make {path}") from error


class FolderLocks:
    """Keeps a second daemon off the same root and state. Released by the kernel if we are killed."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def take(self, *folders: Path) -> None:
        """Lock the folders.

        Raises:
            FailedPreconditionError: another daemon has one of them; the message has its process id.
        """
        try:
            for folder in folders:
                self._descriptors.append(_locked(folder))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let others have the folders."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _locked(folder: Path) -> int:
    _refuse_containerd(folder)
    path = folder / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise error_for_os(error, f"open {path}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise FailedPreconditionError(
            f"{folder} is in use by the daemon with process id {owner or 'unknown'}: "
            "stop that one, or give this one other --root and --state folders"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_containerd(root: Path) -> None:
    """Blobs may be shared with a containerd that is not running, but not with one that is."""
    try:
        descriptor = os.open(root / _BOLT, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FailedPreconditionError(
            f"{root} is in use by containerd: stop it, or give this daemon another --root folder"
        ) from None
    finally:
        os.close(descriptor)


def set_oom_score(score: int) -> None:
    """Set how readily the kernel kills this process when memory is short, -1000 (never) to 1000.

    Raises:
        InvalidConfigError: out of range.
        HybridError: not permitted.
    """
    if not -1000 <= score <= 1000:
        raise InvalidConfigError(f"oom_score {score} out of range: must be between -1000 and 1000")
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score))
    except OSError as error:
        raise error_for_os(error, f"set the OOM score to {score}") from error


def join_cgroup(path: str) -> None:
    """Move this process into a cgroup: made when missing on v1, expected to be there on v2.

    Raises:
        NotFoundError: v2 has no such cgroup, or no hierarchy is mounted.
        UnknownError: the kernel refused.
    """
    relative = path.lstrip("/")
    if (_CGROUPS / "cgroup.controllers").exists():
        folder = _CGROUPS / relative
        if not folder.is_dir():
            raise NotFoundError(f"cgroup {folder} does not exist")
        _enter(folder)
        return
    hierarchies = [folder for folder in _CGROUPS.iterdir() if (folder / "cgroup.procs").exists()]
    if not hierarchies:
        raise NotFoundError(f"no cgroup hierarchy below {_CGROUPS}")
    for hierarchy in hierarchies:
        folder = hierarchy
        for part in Path(relative).parts:
            folder = folder / part
            _make_cgroup(folder)
        _enter(folder)


def _make_cgroup(folder: Path) -> None:
    if folder.is_dir():
        return
    try:
        folder.mkdir()
        # A fresh cpuset is empty and takes no process.
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists() and not (folder / name).read_text().strip():
                (folder / name).write_text((folder.parent / name).read_text())
    except OSError as error:
        raise error_for_os(error, f"make cgroup {folder}") from error


def _enter(folder: Path) -> None:
    try:
        (folder / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise UnknownError(
            f"cannot join cgroup {folder}: {(error.strerror or str(error)).lower()}"
        ) from error
