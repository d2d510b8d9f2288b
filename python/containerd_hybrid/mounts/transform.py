"""Mounts rewritten before they are made, by the first part of their type: ``format/TYPE`` and so on.

Options for the transformers begin with ``X-containerd.``, which mount(8) leaves to programs, and do not
reach the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.api import ActiveMount

_TEMPLATE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


class Transformer(Protocol):
    """May block: called in a thread."""

    def transform(self, mount: Mount, active: Sequence[ActiveMount]) -> Mount:
        """``mount``, whose type is what follows the transformer's name; ``active`` were made before it."""
        ...


class Format:
    """Fills in what earlier mounts turned out to be, in source, target and options.

    ``{{ source N }}``, ``{{ target N }}`` and ``{{ mount N }}`` (where it is mounted) of the active mount
    N; ``{{ overlay A B }}``, the mount points from A to B joined by colons, backwards if A is greater.
    """

    def transform(self, mount: Mount, active: Sequence[ActiveMount]) -> Mount:
        def filled(text: str) -> str:
            return _TEMPLATE.sub(lambda found: _evaluate(found[1], active, text), text)

        return replace(
            mount,
            source=filled(mount.source),
            target=filled(mount.target),
            options=tuple(filled(option) for option in mount.options),
        )


_ONE: dict[str, Callable[[ActiveMount], str]] = {
    "source": lambda one: one.mount.source,
    "target": lambda one: one.mount.target,
    "mount": lambda one: one.mount_point,
}


def _evaluate(expression: str, active: Sequence[ActiveMount], text: str) -> str:
    match expression.split():
        case [name, index] if name in _ONE and index.isdecimal():
            if int(index) >= len(active):
                raise InvalidArgumentError(
                    f"mount template {text!r}: index out of bounds: {index}, has {len(active)} active mounts"
                )
            return _ONE[name](active[int(index)])
        case ["overlay", start, end] if start.isdecimal() and end.isdecimal():
            first, last = int(start), int(end)
            if max(first, last) >= len(active):
                raise InvalidArgumentError(
                    f"mount template {text!r}: invalid range: {start}-{end}, has {len(active)} active mounts"
                )
            step = 1 if first <= last else -1
            return ":".join(active[index].mount_point for index in range(first, last + step, step))
    raise InvalidArgumentError(
        f"mount template {text!r}: {{{{{expression}}}}} is none of"
        " {{ source N }}, {{ target N }}, {{ mount N }}, {{ overlay A B }}"
    )
