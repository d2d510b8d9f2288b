"""Who a process runs as: ``user[:group]`` by number, or by name as the image's own files have it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from containerd_hybrid.client.options import User
from containerd_hybrid.client.rootfiles import read_below
from containerd_hybrid.errors import InvalidArgumentError

# Larger than any real /etc/passwd; the file comes from an image and is not to be trusted.
_MAX_FILE = 1 << 20
# What runc takes, and so containerd.
_MAX_ID = (1 << 31) - 1


def resolve_user(user: str, root: Path | None) -> User:
    """The identity for ``user`` in the root file system ``root`` (None: nothing is looked up); empty is root.

    A number that /etc/passwd does not know runs with group 0. The groups that list the user are
    added only when no group was named, and the group itself is always among them: a program that
    checks its groups does not look at the first one separately (CVE-2023-25173). All as containerd
    does it.

    Raises:
        InvalidArgumentError: a name that the image does not know, or a number out of range.
    """
    name, separator, group = (user or "0").partition(":")
    if not name or (separator and not group):
        raise InvalidArgumentError(f"invalid user {user!r}: expected user or user:group, by name or number")
    entry = _find(root, "passwd", name, fields=4)
    if entry is not None:
        name, uid, gid = entry[0], _number(entry[2], user), _number(entry[3], user)
    elif name.isdecimal():
        uid, gid = _number(name, user), 0
    else:
        raise InvalidArgumentError(
            f"no user {name!r} in the image's /etc/passwd: use a number, or another name"
        )
    if group:
        gid = _group(root, group, user)
    groups = [gid]
    if not group and entry is not None:
        groups += [
            int(line[2])
            for line in _entries(root, "group", 4)
            if line[0] != name and name in line[3].split(",") and line[2].isdecimal()
        ]
    return User(uid, gid, tuple(dict.fromkeys(groups)))


def _group(root: Path | None, group: str, user: str) -> int:
    entry = _find(root, "group", group, fields=3)
    if entry is not None:
        return _number(entry[2], user)
    if group.isdecimal():
        return _number(group, user)
    raise InvalidArgumentError(f"no group {group!r} in the image's /etc/group: use another, or a number")


def _find(root: Path | None, file: str, wanted: str, *, fields: int) -> list[str] | None:
    """The entry of that name or, for a number, of that id."""
    column = 2 if wanted.isdecimal() else 0
    return next((entry for entry in _entries(root, file, fields) if entry[column] == wanted), None)


def _number(text: str, user: str) -> int:
    if text.isdecimal() and int(text) <= _MAX_ID:
        return int(text)
    raise InvalidArgumentError(f"invalid user {user!r}: {text!r} is not a number from 0 to {_MAX_ID}")


def _entries(root: Path | None, file: str, fields: int) -> Iterator[list[str]]:
    """The lines of ``/etc/FILE`` that have so many fields; nothing when there is none."""
    data = (read_below(root, f"etc/{file}", _MAX_FILE) if root is not None else None) or b""
    for line in data.decode(errors="replace").splitlines():
        entry = line.split(":")
        if len(entry) >= fields:
            yield entry
