"""Where a blob was seen: labels ``containerd.io/distribution.source.HOST``, and what a push makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from containerd_hybrid.content.api import ContentStore
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model import Digest, Reference, Scope
from containerd_hybrid.model.labels import DISTRIBUTION_SOURCE, validate_label

# More candidates for a mount than this cost more requests than the upload of a small blob.
_CANDIDATES = 2


async def note_source(content: ContentStore, scope: Scope, digest: Digest, reference: Reference) -> None:
    """Add the repository to the blob's label of its host."""
    key = _key(reference)
    known = _repositories((await content.info(scope, digest)).labels, key)
    if reference.path in known:
        return
    value = ",".join(sorted({*known, reference.path}))
    try:
        validate_label(key, value)
    except InvalidArgumentError:
        return  # a blob of very many repositories; those that are listed are enough
    await content.update(scope, digest, {key: value}, (f"labels.{key}",))


def mount_candidates(labels: Mapping[str, str], target: Reference) -> Sequence[str]:
    """Repositories of the target's host that have the blob, those with the most path in common first."""
    found = [path for path in _repositories(labels, _key(target)) if path != target.path]
    return sorted(found, key=lambda path: -_common(path, target.path))[:_CANDIDATES]


def _key(reference: Reference) -> str:
    host = reference.host
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return f"{DISTRIBUTION_SOURCE}.{name}"


def _repositories(labels: Mapping[str, str], key: str) -> list[str]:
    return [path for path in labels.get(key, "").split(",") if path]


def _common(one: str, other: str) -> int:
    count = 0
    for mine, theirs in zip(one.split("/"), other.split("/"), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
