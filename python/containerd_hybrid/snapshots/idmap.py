"""User namespace mappings as snapshot labels carry them: ``container:host:size`` joined by commas."""

from __future__ import annotations

import re
from collections.abc import Mapping

from containerd_hybrid.errors import InvalidArgumentError

UID_LABEL = "containerd.io/snapshot/uidmapping"
GID_LABEL = "containerd.io/snapshot/gidmapping"

_RANGE = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,10})")
_NO_ID = 2**32 - 1


def mapped_root(labels: Mapping[str, str]) -> tuple[int, int] | None:
    """The user and group of the host that the labels map a container's root to; None without labels.

    Raises:
        InvalidArgumentError: a mapping cannot be read, or has no place for root.
    """
    uid_map, gid_map = labels.get(UID_LABEL), labels.get(GID_LABEL)
    if uid_map is None and gid_map is None:
        return None
    return _host_id_of_root(uid_map), _host_id_of_root(gid_map)


def _host_id_of_root(mapping: str | None) -> int:
    if not mapping:
        return 0
    ranges = [_parse_range(text) for text in mapping.split(",")]
    for container, host, size in ranges:
        if container == 0 < size:
            return host
    raise InvalidArgumentError(f"container ID 0 cannot be mapped to a host ID by {mapping!r}")


def _parse_range(text: str) -> tuple[int, int, int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise InvalidArgumentError(f"invalid mapping {text!r}: expected container:host:size")
    container, host, size = map(int, match.groups())
    if max(container, host, size) >= _NO_ID:
        raise InvalidArgumentError(f"invalid mapping {text!r}: IDs end at {_NO_ID - 1}")
    return container, host, size
