"""Store once: what a namespace keeps of the blobs of layers that are unpacked.

A layer that is unpacked is on the disk twice: its files, and the blob that they came from. The blob is
needed to export or push the image, to unpack it with another snapshotter, and to mend it.

The policy is the namespace's label :data:`POLICY_LABEL`, else the configuration's. It is looked at when this
daemon unpacks an image (a pull, an import, ``hyctl image unpack``); clients that unpack by themselves decide
by themselves, by the labels of the manifest.
"""

from __future__ import annotations

import enum
from typing import Protocol

from containerd_hybrid.content.api import ContentStore
from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.model import Descriptor, Digest, Scope
from containerd_hybrid.model.descriptor import is_layer
from containerd_hybrid.model.labels import LAYERS_DROPPED
from containerd_hybrid.model.manifest import Manifest
from containerd_hybrid.unpack.api import UnpackedImage

POLICY_LABEL = "io.containerd.hybrid/unpacked-layers"
"""On a namespace: one of the policies."""


class Policy(enum.Enum):
    """What becomes of a layer's blob when the layer is unpacked.

    ``drop``: the manifest lets go of it, as with containerd's ``discard_unpacked_layers``; it is collected
    when nothing else holds it. ``recipe``: it is made of the unpacked files when it is asked for, where
    that was seen to give it exactly.
    """

    KEEP = "keep"
    DROP = "drop"
    RECIPE = "recipe"


class Retention(Protocol):
    """Applies the policies of namespaces."""

    async def policy(self, scope: Scope) -> Policy:
        """The namespace's policy.

        Raises:
            InvalidArgumentError: its label is none; names the label.
        """
        ...

    async def settle(self, scope: Scope, image: UnpackedImage) -> None:
        """Do with the layers of an image what the policy says; its blobs have their labels already."""
        ...

    async def needless(self, scope: Scope, manifest: Manifest, snapshotters: frozenset[str]) -> set[Digest]:
        """The layers of ``manifest`` that a pull need not fetch: they are unpacked and would be dropped.

        ``snapshotters`` are those that it unpacks with ("" for the default); without any, all layers are
        needed. What is unpacked is put under the scope's lease. The config has to be here.
        """
        ...


async def was_dropped(content: ContentStore, scope: Scope, parent: Descriptor, blob: Descriptor) -> str:
    """The snapshotter that a child of a manifest was unpacked with when it was dropped; "" if it was not."""
    if not is_layer(blob.media_type):
        return ""
    return (await content.info(scope, parent.digest)).labels.get(LAYERS_DROPPED, "")


async def why_missing(content: ContentStore, scope: Scope, parent: Descriptor, blob: Descriptor) -> str:
    """What to say about a child of a manifest that is not here, and what to do about it."""
    what = f"{blob.media_type or 'blob'} {blob.digest} of {parent.digest}"
    snapshotter = await was_dropped(content, scope, parent, blob)
    if snapshotter:
        return (
            f"{what} was dropped after it had been unpacked with {snapshotter}: let namespace "
            f"{scope.namespace} keep its layers ({POLICY_LABEL}=keep) and pull the image again"
        )
    return f"{what} is not here: pull or import the image again, with this platform"


async def require_child(content: ContentStore, scope: Scope, parent: Descriptor, blob: Descriptor) -> None:
    """
    Raises:
        NotFoundError: a child of a manifest is not here; says why.
    """
    try:
        await content.info(scope, blob.digest)
    except NotFoundError:
        raise NotFoundError(await why_missing(content, scope, parent, blob)) from None
