"""Update masks: which fields a request replaces (google.protobuf.FieldMask as containerd reads it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model.identifiers import quoted

V = TypeVar("V")


def map_key(path: str, field: str) -> str | None:
    """The key in a path like ``labels.KEY``, which may have dots itself; None for other paths."""
    prefix = field + "."
    return path[len(prefix) :] if path.startswith(prefix) else None


def with_key(current: Mapping[str, V], given: Mapping[str, V], key: str) -> dict[str, V]:
    """``current`` with one key as ``given`` has it, or without it when ``given`` has it not."""
    result = dict(current)
    if key in given:
        result[key] = given[key]
    else:
        result.pop(key, None)
    return result


def updated_labels(
    current: Mapping[str, str], given: Mapping[str, str], fieldpaths: Sequence[str], what: str
) -> dict[str, str]:
    """Labels after an update of an object of which nothing but the labels can change.

    No field paths, or ``labels``, replace all; ``labels.KEY`` replaces one.

    Raises:
        InvalidArgumentError: another path; the message names it and ``what`` (``content info "sha256:…"``).
    """
    if not fieldpaths:
        return dict(given)
    labels = dict(current)
    for path in fieldpaths:
        key = map_key(path, "labels")
        if key is not None:
            labels = with_key(labels, given, key)
        elif path == "labels":
            labels = dict(given)
        else:
            raise unknown_path(path, what)
    return labels


def unknown_path(path: str, what: str) -> InvalidArgumentError:
    """The error for a path that names no field, or one that cannot change."""
    return InvalidArgumentError(f"cannot update {quoted(path)} field on {what}: invalid argument")
