"""Unix sockets to listen on: private, owned as configured, and never stolen from a live daemon."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
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


def prepare(path: str, owner: SocketOwner) -> str:
    """Make the socket's folder; the name to bind to, which :func:`publish` then puts in place.

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
    _check_free(path)
    # Short, because the folder's name may have used up what a socket's path may have.
    temporary = str(folder / f".{os.getpid() % 256:02x}")
    _check_free(temporary)
    with contextlib.suppress(FileNotFoundError):
        Path(temporary).unlink()
    return temporary


def publish(temporary: str, path: str, owner: SocketOwner, mode: int = MODE) -> tuple[int, int] | None:
    """Put a socket that listens already at its path, replacing a dead one; its :func:`identity`.

    So nobody sees it with other permissions than it is meant to have, and a server that removes
    what it bound when it stops does not remove the socket of its successor.
    """
    Path(temporary).chmod(mode)
    os.chown(temporary, owner.uid, owner.gid)
    Path(temporary).replace(path)
    return identity(path)


def bind(path: str, owner: SocketOwner, mode: int = MODE) -> socket.socket:
    """A listening socket at ``path``; see :func:`prepare` for errors."""
    temporary = prepare(path, owner)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.bind(temporary)
        listener.listen(_BACKLOG)
        publish(temporary, path, owner, mode)
    except BaseException:
        listener.close()
        raise
    return listener


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


def _check_free(path: str) -> None:
    """FailedPreconditionError unless there is nothing, or a socket that nobody listens on."""
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
    # Anything but a refusal means somebody: EAGAIN a listener whose queue is full, EACCES another user's.
    if outcome not in {errno.ECONNREFUSED, errno.ENOENT}:
        raise FailedPreconditionError(
            f"{path} is in use by another daemon: stop that one, or choose another address"
        )
