"""Unix sockets to listen on: private, owned as configured, and never stolen from a live daemon."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from containerd_hybrid.errors import FailedPreconditionError, InvalidArgumentError

MODE = 0o660
_MAX_PATH = 104
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class SocketOwner:
    """User and group that a socket, and a folder made for it, belong to."""

    uid: int
    gid: int


def prepare(path: str, owner: SocketOwner) -> None:
    """Make the socket's folder and remove a socket that nobody listens on.

    Raises:
        InvalidArgumentError: the path is not absolute or too long for a socket.
        FailedPreconditionError: somebody listens there, or what is there is no socket.
    """
    if not path.startswith("/"):
        raise InvalidArgumentError(f"socket path {path!r} must be absolute")
    if len(os.fsencode(path)) > _MAX_PATH:
        raise InvalidArgumentError(f"{path!r}: unix socket path too long (> {_MAX_PATH})")
    folder = Path(path).parent
    if not folder.exists():
        folder.mkdir(mode=0o770, parents=True)
        os.chown(folder, owner.uid, owner.gid)
    _remove_stale(path)


def bind(path: str, owner: SocketOwner) -> socket.socket:
    """A listening socket at ``path``; see :func:`prepare` for errors."""
    prepare(path, owner)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with private_creation():
            listener.bind(path)
        os.chown(path, owner.uid, owner.gid)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def private_creation() -> Iterator[None]:
    """Sockets bound inside get mode 0660 from their first moment. Call it before threads make files."""
    previous = os.umask(0o777 & ~MODE)
    try:
        yield
    finally:
        os.umask(previous)


def identity(path: str) -> tuple[int, int] | None:
    """What tells the socket at ``path`` from another one put there later; None when there is none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def remove(path: str, expected: tuple[int, int] | None) -> None:
    """Remove the socket if it is still the one that :func:`identity` told of."""
    if expected is not None and identity(path) == expected:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FailedPreconditionError(
            f"{path} exists and is not a socket: remove it or choose another address"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        outcome = probe.connect_ex(path)
    # EAGAIN: a listener whose queue is full. EPERM and the like cannot happen to root, and for others
    # they mean that the socket is not theirs to take.
    if outcome not in {errno.ECONNREFUSED, errno.ENOENT, errno.EPROTOTYPE}:
        raise FailedPreconditionError(
            f"{path} is in use by another daemon: stop that one, or choose another address"
        )
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
