"""What a manifest or index refers to, and the labels that tell the collector so."""

from __future__ import annotations

from collections.abc import Sequence

from containerd_hybrid.content.api import ContentStore, read_document
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.images.api import child_labels
from containerd_hybrid.model import Descriptor, Platform, Scope
from containerd_hybrid.model.descriptor import is_index, is_manifest
from containerd_hybrid.model.manifest import Index, parse_manifest_or_index, wanted_of

# Deeper nesting than any real image has; a bound for archives that are made to hurt.
_MAX_DEPTH = 8


async def children(content: ContentStore, scope: Scope, parent: Descriptor) -> tuple[Descriptor, ...]:
    """The blobs a manifest or index names: config first, then layers, lowest first. None for other blobs."""
    if not (is_index(parent.media_type) or is_manifest(parent.media_type)):
        return ()
    document = parse_manifest_or_index(await read_document(content, scope, parent), parent.media_type)
    if isinstance(document, Index):
        return document.manifests
    return (document.config, *document.layers)


async def label_tree(
    content: ContentStore, scope: Scope, root: Descriptor, platforms: Sequence[Platform] = ()
) -> None:
    """Label ``root`` and everything below it with references to their children, leaves first.

    Leaves first, so that a label never points to a blob of which it is not known that it is here.
    Of an index below ``root`` manifests may be missing, as archives of one platform of an image have
    it, but not all; of a manifest nothing may.

    Raises:
        NotFoundError: a blob that is wanted is missing.
    """
    await _label(content, scope, root, platforms, 0)


async def _label(
    content: ContentStore, scope: Scope, parent: Descriptor, platforms: Sequence[Platform], depth: int
) -> None:
    if depth > _MAX_DEPTH:
        raise InvalidArgumentError(f"{parent.digest}: indexes are nested more than {_MAX_DEPTH} deep")
    sparse = depth > 0 and is_index(parent.media_type)
    labels: dict[str, str] = {}
    missing: list[Descriptor] = []
    listed = await children(content, scope, parent)
    wanted = wanted_of(listed, platforms) if is_index(parent.media_type) else listed
    whole = 0
    for label, child in zip(child_labels(listed), listed, strict=True):
        if not await _is_here(content, scope, child):
            if child in wanted:
                missing.append(child)
            continue
        labels[label] = str(child.digest)
        if child not in wanted:
            continue  # what describes another platform is kept, but not what that needs
        whole += 1
        if is_index(child.media_type) or is_manifest(child.media_type):
            await _label(content, scope, child, platforms, depth + 1)
    if missing and not (sparse and whole):
        raise NotFoundError(
            f"{missing[0].media_type or 'blob'} {missing[0].digest} of {parent.digest} is missing: "
            "copy or make the archive again"
        )
    if labels:
        await content.update(scope, parent.digest, labels, tuple(f"labels.{key}" for key in labels))


async def _is_here(content: ContentStore, scope: Scope, blob: Descriptor) -> bool:
    try:
        await content.info(scope, blob.digest)
    except NotFoundError:
        return False
    return True
