"""The unpacker: layer after layer into snapshots that appear under their chain IDs."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from containerd_hybrid.content.api import ContentStore, read_document
from containerd_hybrid.diff.api import Applier
from containerd_hybrid.errors import (
    AlreadyExistsError,
    DigestMismatchError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
)
from containerd_hybrid.leases.api import LeaseManager, protected
from containerd_hybrid.model import Descriptor, Digest, Platform, Scope, chain_id
from containerd_hybrid.model.descriptor import is_index, is_layer
from containerd_hybrid.model.manifest import (
    Index,
    Manifest,
    choose_manifest,
    parse_image_config,
    parse_manifest_or_index,
)
from containerd_hybrid.snapshots.api import Kind, Snapshotter
from containerd_hybrid.unpack.api import UnpackedImage, UnpackProgress

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
SNAPSHOT_REF_LABEL = "containerd.io/snapshot.ref"


class LayerUnpacker:
    """Unpacks with the given snapshotters; ``default`` is used when none is named."""

    def __init__(
        self,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        applier: Applier,
        leases: LeaseManager,
        *,
        default: str,
    ) -> None:
        self._content = content
        self._snapshotters = snapshotters
        self._applier = applier
        self._leases = leases
        self._default = default
        self._locks = _KeyedLocks()

    async def unpack(
        self,
        scope: Scope,
        target: Descriptor,
        platform: Platform,
        snapshotter: str = "",
        *,
        progress: Callable[[UnpackProgress], None] | None = None,
        ready: Callable[[Descriptor], Awaitable[None]] | None = None,
    ) -> UnpackedImage:
        """See :class:`containerd_hybrid.unpack.api.Unpacker`."""
        name = snapshotter or self._default
        driver = self._snapshotters.get(name)
        if driver is None:
            known = ", ".join(sorted(self._snapshotters))
            raise InvalidArgumentError(f"snapshotter not loaded: {name}: use one of {known}")
        manifest_descriptor, manifest = await self._manifest(scope, target, platform)
        config = parse_image_config(await read_document(self._content, scope, manifest.config))
        layers = [layer for layer in manifest.layers if is_layer(layer.media_type)]
        if len(layers) != len(config.diff_ids) or not layers:
            raise InvalidArgumentError(
                f"cannot unpack {manifest_descriptor.digest}: the manifest has {len(layers)} layers, "
                f"its config {manifest.config.digest} has {len(config.diff_ids)} diff IDs"
            )
        async with protected(self._leases, scope) as held:
            for index, layer in enumerate(layers):
                chain = chain_id(config.diff_ids[: index + 1])
                parent = str(chain_id(config.diff_ids[:index])) if index else ""
                if ready is not None:
                    await ready(layer)
                async with self._locks.hold((scope.namespace, name, str(chain))):
                    state = await self._unpack_layer(
                        held, driver, layer, config.diff_ids[index], chain, parent, progress
                    )
                if progress is not None:
                    progress(UnpackProgress(layer, state, chain))
            top = chain_id(config.diff_ids)
            label = f"containerd.io/gc.ref.snapshot.{name}"
            await self._content.update(held, manifest.config.digest, {label: str(top)}, (f"labels.{label}",))
        return UnpackedImage(manifest_descriptor, manifest.config, top, name)

    async def _manifest(
        self, scope: Scope, target: Descriptor, platform: Platform
    ) -> tuple[Descriptor, Manifest]:
        """Follow indexes down to the manifest for the platform."""
        current = target
        while True:
            document = parse_manifest_or_index(
                await read_document(self._content, scope, current), current.media_type
            )
            if isinstance(document, Manifest):
                return current, document
            current = self._choose(document, current, platform)

    def _choose(self, index: Index, descriptor: Descriptor, platform: Platform) -> Descriptor:
        chosen = choose_manifest(index, platform)
        if chosen is None:
            offered = ", ".join(str(entry.platform) for entry in index.manifests if entry.platform) or "none"
            raise NotFoundError(
                f"no manifest for platform {platform} in {descriptor.digest} (it has: {offered})"
            )
        if is_index(chosen.media_type) and chosen.digest == descriptor.digest:
            raise InvalidArgumentError(f"index {descriptor.digest} contains itself")
        return chosen

    async def _unpack_layer(
        self,
        scope: Scope,
        driver: Snapshotter,
        layer: Descriptor,
        diff_id: Digest,
        chain: Digest,
        parent: str,
        progress: Callable[[UnpackProgress], None] | None,
    ) -> str:
        if await self._is_unpacked(scope, driver, chain):
            return "exists"
        if progress is not None:
            progress(UnpackProgress(layer, "extracting", chain))
        key = f"extract-{secrets.token_hex(8)} {chain}"
        try:
            mounts = await driver.prepare(scope, key, parent, {SNAPSHOT_REF_LABEL: str(chain)})
        except AlreadyExistsError:
            # A remote snapshotter answers so when it has the layer already.
            if await self._is_unpacked(scope, driver, chain):
                return "exists"
            raise
        try:
            applied = await self._applier.apply(scope, layer, mounts)
            if applied.diff_id != diff_id:
                raise DigestMismatchError(
                    f"wrong diff ID of layer {layer.digest}: its config says {diff_id}, its bytes are "
                    f"{applied.diff_id}"
                )
            await driver.commit(scope, str(chain), key, {SNAPSHOT_REF_LABEL: str(chain)})
        except BaseException as error:
            await _remove_quietly(driver, scope, key)
            if isinstance(error, AlreadyExistsError) and await self._is_unpacked(scope, driver, chain):
                return "exists"
            raise
        label = UNCOMPRESSED_LABEL
        await self._content.update(scope, layer.digest, {label: str(diff_id)}, (f"labels.{label}",))
        return "done"

    async def _is_unpacked(self, scope: Scope, driver: Snapshotter, chain: Digest) -> bool:
        try:
            info = await driver.stat(scope, str(chain))
        except NotFoundError:
            return False
        return info.kind is Kind.COMMITTED


async def _remove_quietly(driver: Snapshotter, scope: Scope, key: str) -> None:
    """A clean-up that fails must not hide the error that made it necessary; the lease's end retries it."""
    with suppress(HybridError):
        await asyncio.shield(asyncio.ensure_future(driver.remove(scope, key)))


class _KeyedLocks:
    """A lock for each key that somebody holds or waits for."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, ...], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._users: dict[tuple[str, ...], int] = defaultdict(int)

    @asynccontextmanager
    async def hold(self, key: tuple[str, ...]) -> AsyncIterator[None]:
        self._users[key] += 1
        try:
            async with self._locks[key]:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
