"""Several differs, of which the first that can do it does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from containerd_hybrid.diff.api import AppliedLayer, Applier, Comparer, DiffOptions
from containerd_hybrid.errors import UnimplementedError
from containerd_hybrid.model import Descriptor, Mount, Scope

T = TypeVar("T")


class OrderedApplier:
    """An :class:`~containerd_hybrid.diff.api.Applier` of others, by the names of their plug-ins."""

    def __init__(self, appliers: Mapping[str, Applier]) -> None:
        self._appliers = appliers

    async def apply(
        self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount], **how: Any
    ) -> AppliedLayer:
        """See :class:`containerd_hybrid.diff.api.Applier`."""
        return await _first(self._appliers, lambda applier: applier.apply(scope, layer, mounts, **how))


class OrderedComparer:
    """A :class:`~containerd_hybrid.diff.api.Comparer` of others, by the names of their plug-ins."""

    def __init__(self, comparers: Mapping[str, Comparer]) -> None:
        self._comparers = comparers

    async def compare(
        self, scope: Scope, lower: Sequence[Mount], upper: Sequence[Mount], options: DiffOptions
    ) -> Descriptor:
        """See :class:`containerd_hybrid.diff.api.Comparer`."""
        return await _first(self._comparers, lambda comparer: comparer.compare(scope, lower, upper, options))


D = TypeVar("D")


async def _first(differs: Mapping[str, D], ask: Callable[[D], Awaitable[T]]) -> T:
    """The first answer that is not "not implemented".

    Raises:
        UnimplementedError: none can; the message has the reason of each.
    """
    reasons = []
    for name, differ in differs.items():
        try:
            return await ask(differ)
        except UnimplementedError as error:
            reasons.append(error.message if len(differs) == 1 else f"{name}: {error.message}")
    raise UnimplementedError("; ".join(reasons))
