"""The unpacker: layers become snapshots that appear under their chain IDs, each after the one below it.

A layer is read while it arrives, and where the snapshotter takes a parent at commit, applied before those
below it are there. Both are attempts: what they cannot do (a blob that begins anew, a layer that has to
know what it changes) is done once more from the verified blob, on the parent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from containerd_hybrid._native import Growing
from containerd_hybrid.content.api import ContentStore, read_document
from containerd_hybrid.diff.api import Applier
from containerd_hybrid.errors import (
    AlreadyExistsError,
    DigestMismatchError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from containerd_hybrid.leases.api import LeaseManager, protected
from containerd_hybrid.model import Descriptor, Digest, Mount, Platform, Scope, chain_id
from containerd_hybrid.model.descriptor import is_index, is_layer
from containerd_hybrid.model.manifest import (
    Index,
    Manifest,
    choose_manifest,
    parse_image_config,
    parse_manifest_or_index,
)
from containerd_hybrid.snapshots.api import (
    DIFF_ID_LABEL,
    REBASE,
    REF_LABEL,
    Snapshotter,
    is_committed,
    rebasable,
    staged,
)
from containerd_hybrid.tracing.api import span
from containerd_hybrid.unpack.api import Arrivals, UnpackedImage, UnpackProgress
from containerd_hybrid.workers import in_turn, together

logger = logging.getLogger(__name__)

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"


# More than bodies are received at once by default: each of those is read while it comes.
_LEAST_AT_ONCE = 4


class LayerUnpacker:
    """Unpacks with the given snapshotters; ``default`` is used when none is named.

    ``at_once`` bounds the layers that are being applied, 0 by what this machine has processors for.
    """

    def __init__(
        self,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        applier: Applier,
        leases: LeaseManager,
        *,
        default: str,
        at_once: int = 0,
    ) -> None:
        self._content = content
        self._snapshotters = snapshotters
        self._applier = applier
        self._leases = leases
        self._default = default
        self._locks = _KeyedLocks()
        self._slots = asyncio.Semaphore(at_once or max(_LEAST_AT_ONCE, os.cpu_count() or 1))

    async def unpack(
        self,
        scope: Scope,
        target: Descriptor,
        platform: Platform,
        snapshotter: str = "",
        *,
        progress: Callable[[UnpackProgress], None] | None = None,
        arrivals: Arrivals | None = None,
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
            job = _Job(held, driver, config.diff_ids, arrivals, progress)
            steps = [self._layer(job, index, layer) for index, layer in enumerate(layers)]
            if REBASE in driver.capabilities:
                await together(steps)
            else:
                await in_turn(steps)
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

    async def _layer(self, job: _Job, index: int, layer: Descriptor) -> None:
        step = _Step(job, layer, index)
        async with self._locks.hold((job.scope.namespace, job.driver.name, str(step.chain))):
            # The lowest of those that wait goes first, so none waits for a lock of one above it.
            state = await self._unpack_layer(step)
        job.done[index].set()
        step.tell(state)

    async def _unpack_layer(self, step: _Step) -> str:
        job, layer = step.job, step.layer
        if await self._is_unpacked(job, step.chain):
            # Nothing of it is needed, but that it is here: it may still be on its way.
            await step.whole()
            return "exists"
        growing = await step.begun()
        try:
            made = await self._attempt(step, growing) or await self._plainly(step)
        except _ExistsError:
            return "exists"
        label = UNCOMPRESSED_LABEL
        await self._content.update(job.scope, layer.digest, {label: made}, (f"labels.{label}",))
        return "done"

    async def _attempt(self, step: _Step, growing: Growing | None) -> str | None:
        """The layer while it arrives, or before those below it; None when it has to be done plainly."""
        blind = not step.is_next and REBASE in step.job.driver.capabilities
        if growing is None and not blind:
            return None
        try:
            return await self._make(step, growing, blind=blind)
        except (ResourceExhaustedError, AlreadyExistsError):
            raise
        except HybridError as error:
            # Also when the archive seems to be damaged: the blob's own verdict comes first.
            logger.debug(
                "layer applied once more", extra={"layer": str(step.layer.digest), "why": str(error)}
            )
            return None

    async def _plainly(self, step: _Step) -> str:
        await step.whole()
        await step.below()
        return await self._make(step, None, blind=False)

    async def _make(self, step: _Step, growing: Growing | None, *, blind: bool) -> str:
        """One snapshot with the layer in it, or none; the diff ID."""
        job, driver, chain = step.job, step.job.driver, step.chain
        if not blind:
            await step.below()
        key = f"extract-{secrets.token_hex(8)} {chain}"
        try:
            async with self._slots:
                # Inside, because who is cancelled while it is prepared has it all the same. A remote
                # snapshotter answers AlreadyExistsError when it has the layer already.
                parent = "" if blind else step.parent
                mounts = await driver.prepare(job.scope, key, parent, step.labels)
                if not staged(mounts):
                    step.tell("extracting")
                    await self._apply(step, rebasable(mounts) if blind else mounts, growing, blind)
            await step.whole()
            await step.below()
            await driver.commit(job.scope, str(chain), key, step.labels, step.parent if blind else "")
        except BaseException as error:
            await _remove_quietly(driver, job.scope, key)
            if isinstance(error, AlreadyExistsError) and await self._is_unpacked(job, chain):
                raise _ExistsError from None
            raise
        return str(step.diff_id)

    async def _apply(
        self, step: _Step, mounts: Sequence[Mount], growing: Growing | None, blind: bool
    ) -> None:
        if growing is None:
            await self._require(step)
        with span("unpack layer", layer__digest=str(step.layer.digest), snapshotter=step.job.driver.name):
            applied = await self._applier.apply(
                step.job.scope, step.layer, mounts, growing=growing, blind=blind
            )
        if applied.diff_id != step.diff_id:
            raise DigestMismatchError(
                f"wrong diff ID of layer {step.layer.digest}: its config says {step.diff_id}, its bytes are "
                f"{applied.diff_id}"
            )

    async def _require(self, step: _Step) -> None:
        try:
            await self._content.info(step.job.scope, step.layer.digest)
        except NotFoundError:
            raise NotFoundError(
                f"layer {step.layer.digest} is neither here nor unpacked with {step.job.driver.name}: "
                "pull or import its image again"
            ) from None

    async def _is_unpacked(self, job: _Job, chain: Digest) -> bool:
        return await is_committed(job.driver, job.scope, str(chain))


class _ExistsError(Exception):
    """Somebody else has made the snapshot meanwhile."""


class _Job:
    """One image on its way to its snapshots."""

    def __init__(
        self,
        scope: Scope,
        driver: Snapshotter,
        diff_ids: tuple[Digest, ...],
        arrivals: Arrivals | None,
        progress: Callable[[UnpackProgress], None] | None,
    ) -> None:
        self.scope = scope
        self.driver = driver
        self.diff_ids = diff_ids
        self.arrivals = arrivals
        self.progress = progress
        self.done = [asyncio.Event() for _ in diff_ids]


class _Step:
    """One layer of it."""

    def __init__(self, job: _Job, layer: Descriptor, index: int) -> None:
        self.job = job
        self.layer = layer
        self.diff_id = job.diff_ids[index]
        self.chain = chain_id(job.diff_ids[: index + 1])
        self.parent = str(chain_id(job.diff_ids[:index])) if index else ""
        self.labels = {REF_LABEL: str(self.chain), DIFF_ID_LABEL: str(self.diff_id)}
        self._below = job.done[index - 1] if index else None
        self._said = ""

    @property
    def is_next(self) -> bool:
        """Whether all below it is there."""
        return self._below is None or self._below.is_set()

    async def below(self) -> None:
        if self._below is not None:
            await self._below.wait()

    async def begun(self) -> Growing | None:
        return await self.job.arrivals.begun(self.layer) if self.job.arrivals is not None else None

    async def whole(self) -> None:
        if self.job.arrivals is not None:
            await self.job.arrivals.whole(self.layer)

    def tell(self, state: str) -> None:
        if self.job.progress is not None and state != self._said:
            self._said = state
            self.job.progress(UnpackProgress(self.layer, state, self.chain))


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
