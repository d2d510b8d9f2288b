"""Which manifests of an index an operation is about."""

from __future__ import annotations

from collections.abc import Sequence

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.model import Descriptor, Platform
from containerd_hybrid.model.manifest import Index, ranked_for


def wanted_manifests(
    index: Index, platforms: Sequence[Platform], limit: int = 0, name: str = ""
) -> tuple[Descriptor, ...]:
    """The entries for the platforms, each by what serves it best, and those that name no platform.

    All without platforms; at most ``limit`` if that is not 0, best first.

    Raises:
        NotFoundError: none is; the message says what ``name`` has.
    """
    ranked = ranked_for(index.manifests, platforms)
    for position, entry in enumerate(index.manifests):
        if not platforms or entry.platform is None:
            ranked.setdefault(position, 1_000 if platforms else 0)
    if not ranked and platforms:
        offered = sorted({str(entry.platform) for entry in index.manifests if entry.platform})
        raise NotFoundError(
            f"no match for platform {', '.join(map(str, platforms))} in {name or 'the index'} "
            f"(it has: {', '.join(offered) or 'none'}): not found"
        )
    chosen = sorted(ranked, key=lambda position: (ranked[position], position))
    return tuple(index.manifests[position] for position in (chosen[:limit] if limit else chosen))
