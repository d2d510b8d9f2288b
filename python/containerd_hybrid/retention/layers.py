"""Implements :class:`containerd_hybrid.retention.api.Retention` on our stores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from containerd_hybrid.content.api import ContentRecipes, ContentStore, read_document
from containerd_hybrid.errors import HybridError, InvalidArgumentError, NotFoundError
from containerd_hybrid.leases.api import LeaseManager, LeaseResource
from containerd_hybrid.metadata.api import NamespaceStore
from containerd_hybrid.model import Digest, Scope, chain_id
from containerd_hybrid.model.descriptor import is_layer
from containerd_hybrid.model.labels import GC_REF_CONTENT, LAYERS_DROPPED
from containerd_hybrid.model.manifest import Manifest, parse_image_config, parse_manifest_or_index
from containerd_hybrid.retention.api import POLICY_LABEL, Policy
from containerd_hybrid.snapshots.api import LayerFolders, Snapshotter, is_committed
from containerd_hybrid.unpack.api import UnpackedImage

logger = logging.getLogger(__name__)


class LayerRetention:
    """``default`` is the policy of namespaces without a label, ``snapshotter`` the one that "" means.

    Without ``recipes`` (the blobs are in another process) that policy keeps them.
    """

    def __init__(
        self,
        namespaces: NamespaceStore,
        content: ContentStore,
        leases: LeaseManager,
        snapshotters: Mapping[str, Snapshotter],
        recipes: ContentRecipes | None = None,
        *,
        default: Policy,
        snapshotter: str,
    ) -> None:
        self._namespaces = namespaces
        self._content = content
        self._leases = leases
        self._snapshotters = snapshotters
        self._recipes = recipes
        self._default = default
        self._snapshotter = snapshotter

    async def policy(self, scope: Scope) -> Policy:
        named = (await self._namespaces.get(scope.namespace)).labels.get(POLICY_LABEL)
        if named is None:
            return self._default
        try:
            return Policy(named)
        except ValueError:
            known = ", ".join(policy.value for policy in Policy)
            raise InvalidArgumentError(
                f"label {POLICY_LABEL} of namespace {scope.namespace} is {named!r}: use one of {known}"
            ) from None

    async def settle(self, scope: Scope, image: UnpackedImage) -> None:
        policy = await self.policy(scope)
        digest = image.manifest.digest
        labels = (await self._content.info(scope, digest)).labels
        manifest = parse_manifest_or_index(
            await read_document(self._content, scope, image.manifest), image.manifest.media_type
        )
        assert isinstance(manifest, Manifest)
        if policy is Policy.DROP:
            layers = {str(layer.digest) for layer in manifest.layers if is_layer(layer.media_type)}
            held = [
                key for key, value in labels.items() if key.startswith(GC_REF_CONTENT) and value in layers
            ]
            # Without a value a label is none.
            await self._update(scope, digest, {**dict.fromkeys(held, ""), LAYERS_DROPPED: image.snapshotter})
            return
        if policy is Policy.RECIPE and self._recipes is not None:
            await self._convert(scope, image, manifest)
        if LAYERS_DROPPED in labels and await self._are_here(scope, manifest):
            await self._update(scope, digest, {LAYERS_DROPPED: ""})

    async def _convert(self, scope: Scope, image: UnpackedImage, manifest: Manifest) -> None:
        """Make the layers' blobs recipes; what cannot be one, for whatever reason, stays a blob."""
        driver = self._snapshotters[image.snapshotter]
        if self._recipes is None or not isinstance(driver, LayerFolders):
            return
        config = parse_image_config(await read_document(self._content, scope, manifest.config))
        layers = [layer for layer in manifest.layers if is_layer(layer.media_type)]
        for count, layer in enumerate(layers):
            chain = str(chain_id(config.diff_ids[: count + 1]))
            try:
                await self._content.info(scope, layer.digest)
                folder = await driver.layer_folder(scope, chain)
                if folder is None:
                    return
                stands = partial(is_committed, driver, scope, chain)
                why = await self._recipes.convert(layer.digest, folder, stands)
            except HybridError as error:
                why = error.message
            if why:
                logger.debug("blob kept", extra={"layer": str(layer.digest), "why": why})

    async def needless(self, scope: Scope, manifest: Manifest, snapshotters: frozenset[str]) -> set[Digest]:
        if not snapshotters or await self.policy(scope) is not Policy.DROP:
            return set()
        config = parse_image_config(await read_document(self._content, scope, manifest.config))
        layers = [layer for layer in manifest.layers if is_layer(layer.media_type)]
        if len(layers) != len(config.diff_ids):
            return set()  # for the unpacker to complain about
        chains = [str(chain_id(config.diff_ids[: count + 1])) for count in range(len(layers))]
        return {
            layer.digest
            for layer, chain in zip(layers, chains, strict=True)
            if all([await self._is_held(scope, name, chain) for name in snapshotters])
        }

    async def _is_held(self, scope: Scope, name: str, chain: str) -> bool:
        name = name or self._snapshotter
        driver = self._snapshotters.get(name)
        if driver is None or not await is_committed(driver, scope, chain):
            return False
        if scope.lease is not None:
            await self._leases.add_resource(scope, scope.lease, LeaseResource(f"snapshots/{name}", chain))
        # Held from here on, if it has not been collected in between.
        return await is_committed(driver, scope, chain)

    async def _are_here(self, scope: Scope, manifest: Manifest) -> bool:
        try:
            for layer in manifest.layers:
                await self._content.info(scope, layer.digest)
        except NotFoundError:
            return False
        return True

    async def _update(self, scope: Scope, digest: Digest, labels: Mapping[str, str]) -> None:
        await self._content.update(scope, digest, labels, tuple(f"labels.{key}" for key in labels))
