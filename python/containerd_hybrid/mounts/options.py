"""Mounts rewritten for a purpose, by their option strings alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from containerd_hybrid.model import Mount

_VOLATILE = frozenset({"volatile", "fsync=volatile"})
_ESCAPED_OR_COLON = re.compile(r"\\.|:", re.DOTALL)


def read_only(mounts: Sequence[Mount]) -> list[Mount]:
    """The same view of the same files, without a way to change them.

    The upper folder of an overlay becomes its topmost lower one, so that the overlay needs no work folder
    and the snapshot can be in use elsewhere. Owners stay as they are on disk: ``uidmap`` and ``gidmap`` of
    an overlay are dropped.
    """
    return [_read_only_overlay(mount) if mount.type == "overlay" else _read_only(mount) for mount in mounts]


def without_volatile(mounts: Sequence[Mount]) -> list[Mount]:
    """Without the option that lets the kernel refuse to mount the same upper folder a second time."""
    return [
        replace(mount, options=tuple(_without(mount.options, _VOLATILE)))
        if mount.type == "overlay"
        else mount
        for mount in mounts
    ]


def _read_only(mount: Mount) -> Mount:
    return replace(mount, options=(*_without(mount.options, {"ro", "rw"}), "ro"))


def _read_only_overlay(mount: Mount) -> Mount:
    upper = ""
    kept: list[str] = []
    for option in _without(mount.options, {"ro", "rw"} | _VOLATILE):
        key, _, value = option.partition("=")
        if key == "upperdir":
            upper = value
        elif key not in {"workdir", "uidmap", "gidmap"}:
            kept.append(option)
    if upper:
        # Colons separate lower folders; in the one upper folder they stand for themselves.
        first = _ESCAPED_OR_COLON.sub(lambda found: "\\:" if found[0] == ":" else found[0], upper)
        kept = [
            f"lowerdir={first}:{option.removeprefix('lowerdir=')}"
            if option.startswith("lowerdir=")
            else option
            for option in kept
        ]
    return replace(mount, options=(*kept, "ro"))


def _without(options: Iterable[str], unwanted: Iterable[str]) -> list[str]:
    return [option for option in options if option not in set(unwanted)]
