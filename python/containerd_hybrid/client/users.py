"""Who a process runs as: ``user[:group]`` by number, or by name as the image's own files have it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from containerd_hybrid.client.spec import User
from containerd_hybrid.errors import InvalidArgumentError

# Larger than any real /etc/passwd; the file comes from an image and is not to be trusted.
_MAX_FILE = 1 << 20


def needs_root_filesystem(user: str) -> bool:
    """Whether the image's files have to be read: for a name, or a number without a group."""
    uid, _, gid = user.partition(":")
    return bool(user) and not (uid.isdecimal() and gid.isdecimal())


def resolve_user(user: str, root: Path | None) -> User:
    """The identity for ``user``; ``root`` is the root file system when one is needed.

    A number that the image's /etc/passwd does not know runs with group 0, as containerd does it.

    Raises:
        InvalidArgumentError: a name that the image does not know.
    """
    if not user:
        return User()
    name, _, group = user.partition(":")
    uid, gid, known = 0, 0, False
    for entry in _entries(root, "passwd"):
        if len(entry) >= 4 and name in {entry[0], entry[2]} and entry[2].isdecimal() and entry[3].isdecimal():
            name, uid, gid, known = entry[0], int(entry[2]), int(entry[3]), True
            break
    if not known:
        if not name.isdecimal():
            raise InvalidArgumentError(f"no user {name!r} in the image's /etc/passwd")
        uid = int(name)
    extra: list[int] = []
    if group:
        gid = _group(root, group)
    elif known:
        extra = [
            int(entry[2])
            for entry in _entries(root, "group")
            if len(entry) >= 4 and name in entry[3].split(",") and entry[2].isdecimal()
        ]
    return User(uid, gid, tuple(dict.fromkeys(extra)))


def _group(root: Path | None, group: str) -> int:
    for entry in _entries(root, "group"):
        if len(entry) >= 3 and group in {entry[0], entry[2]} and entry[2].isdecimal():
            return int(entry[2])
    if group.isdecimal():
        return int(group)
    raise InvalidArgumentError(f"no group {group!r} in the image's /etc/group")


def _entries(root: Path | None, file: str) -> Iterator[list[str]]:
    """The fields of each line of ``/etc/FILE``; nothing when there is none.

    No symbolic link is followed: it would lead out of the image's root.
    """
    if root is None:
        return
    try:
        folder = os.open(root / "etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return
    finally:
        os.close(folder)
    try:
        text = os.read(descriptor, _MAX_FILE).decode(errors="replace")
    finally:
        os.close(descriptor)
    for line in text.splitlines():
        yield line.split(":")
