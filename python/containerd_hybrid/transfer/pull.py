"""Registry to image store: the tree below a name is fetched, labelled, unpacked, and then named."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence

from containerd_hybrid._native import Growing
from containerd_hybrid.content.api import ContentStore, read_document
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.images.api import Image, ImageStore, ReferenceRule, child_labels, put_image
from containerd_hybrid.leases.api import LeaseManager, protected
from containerd_hybrid.model import Descriptor, Digest, Platform, Reference, Scope
from containerd_hybrid.model.descriptor import is_config, is_index, is_manifest
from containerd_hybrid.model.labels import GC_BREF_IMAGE, GC_EXPIRE
from containerd_hybrid.model.manifest import Index, Manifest, choose_manifest, parse_manifest_or_index
from containerd_hybrid.model.platform import match_rank
from containerd_hybrid.registry.api import RegistryClient, Repository
from containerd_hybrid.retention.api import Policy, Retention
from containerd_hybrid.transfer.api import (
    Progress,
    ProgressSink,
    RegistryPlace,
    StoreTarget,
    UnpackTarget,
)
from containerd_hybrid.transfer.fetch import BlobFetches
from containerd_hybrid.transfer.progress import TransferProgress
from containerd_hybrid.transfer.selection import wanted_manifests
from containerd_hybrid.transfer.sources import note_source
from containerd_hybrid.unpack.api import UnpackedImage, Unpacker, UnpackProgress
from containerd_hybrid.workers import together

logger = logging.getLogger(__name__)

# Deeper than any honest image; a bound for what is made to hurt.
_MAX_DEPTH = 8
# What registries once said of every config (distribution#1622).
_LEGACY_CONFIG = "application/octet-stream"
_LONG_AGO = "1970-01-01T00:00:00Z"


class RegistryPull:
    """See :meth:`containerd_hybrid.transfer.api.RegistryTransfers.pull`."""

    def __init__(
        self,
        content: ContentStore,
        images: ImageStore,
        unpacker: Unpacker,
        leases: LeaseManager,
        registries: RegistryClient,
        fetches: BlobFetches,
        retention: Retention | None = None,
    ) -> None:
        self._content = content
        self._images = images
        self._retention = retention
        self._unpacker = unpacker
        self._leases = leases
        self._registries = registries
        self._fetches = fetches

    async def pull(
        self,
        scope: Scope,
        source: RegistryPlace,
        target: StoreTarget,
        unpack: Sequence[UnpackTarget],
        tell: ProgressSink,
    ) -> Sequence[Image]:
        reference = Reference.parse(source.reference)
        if not target.name and not any(_has_name(rule) for rule in target.references):
            raise NotFoundError("no image name found: give the image a name")
        if self._retention is not None:
            await self._retention.policy(scope)  # one that is none is told before anything is fetched
        repository = self._registries.repository(reference, source.options)
        async with protected(self._leases, scope) as held:
            tell(Progress(f"Resolving from {source}"))
            root = await repository.resolve(reference)
            tell(Progress(f"Pulling from {source}"))
            tell(Progress("fetching image content", source.reference, descriptor=root))
            progress = TransferProgress(tell, source.reference, "downloading")
            here = [one for one in unpack if _runs_here(one)]
            needless = _Needless(self._retention, here)
            tree = _Tree(
                self._content, self._fetches, held, repository, reference, target, progress, needless
            )
            unpacked: list[UnpackedImage] = []
            await together([tree.fetch(root), self._unpack_all(held, root, unpack, tree, progress, unpacked)])
            if self._retention is not None:
                for one in unpacked:
                    await self._retention.settle(held, one)
            images = []
            for name, labels in _names(root, target):
                images.append(await put_image(self._images, held, Image(name, root, labels)))
                tell(Progress("saved", name, descriptor=root))
            tell(Progress(f"Completed pull from {source}"))
            return images

    async def _unpack_all(
        self,
        scope: Scope,
        root: Descriptor,
        targets: Sequence[UnpackTarget],
        tree: _Tree,
        progress: TransferProgress,
        unpacked: list[UnpackedImage],
    ) -> None:
        """Each layer as soon as it and those below it are here, while others are on their way."""
        for target in targets:
            if not _runs_here(target):
                # As containerd does: what cannot run here is kept for whoever takes it elsewhere.
                logger.warning(
                    "image of another platform not unpacked", extra={"platform": str(target.platform)}
                )
            elif await self._is_runnable(scope, root, target.platform, tree):
                image = await self._unpacker.unpack(
                    scope,
                    root,
                    target.platform,
                    target.snapshotter,
                    progress=lambda step: _tell_layer(progress, step),
                    arrivals=tree,
                )
                unpacked.append(image)

    async def _is_runnable(self, scope: Scope, root: Descriptor, platform: Platform, tree: _Tree) -> bool:
        """Whether it is an image with a root file system, and no other artifact; waits for its config too."""
        current = root
        for _ in range(_MAX_DEPTH):
            await tree.whole(current)
            document = parse_manifest_or_index(
                await read_document(self._content, scope, current), current.media_type
            )
            if not isinstance(document, Index):
                await tree.whole(document.config)
                kind = document.config.media_type
                return bool(document.layers) and (is_config(kind) or kind == _LEGACY_CONFIG)
            chosen = choose_manifest(document, platform)
            if chosen is None:
                return True  # for the unpacker to say what is missing
            current = chosen
        return False


class _Needless:
    """Which manifests a pull unpacks, and the layers of these that it need not fetch for that."""

    def __init__(self, retention: Retention | None, targets: Sequence[UnpackTarget]) -> None:
        self._retention = retention
        self._targets = targets

    def chosen(self, index: Index) -> set[Digest]:
        """The entries that will be unpacked, or lead to what will be."""
        chosen = (choose_manifest(index, target.platform) for target in self._targets)
        return {entry.digest for entry in chosen if entry is not None}

    async def may_be_some(self, scope: Scope) -> bool:
        if self._retention is None or not self._targets:
            return False
        return await self._retention.policy(scope) is Policy.DROP

    async def layers(self, scope: Scope, manifest: Manifest) -> set[Digest]:
        assert self._retention is not None
        names = frozenset(target.snapshotter for target in self._targets)
        return await self._retention.needless(scope, manifest, names)


class _Tree:
    """One pull's walk from the root to the layers."""

    def __init__(
        self,
        content: ContentStore,
        fetches: BlobFetches,
        scope: Scope,
        repository: Repository,
        reference: Reference,
        target: StoreTarget,
        progress: TransferProgress,
        needless: _Needless,
    ) -> None:
        self._needless = needless
        self._content = content
        self._fetches = fetches
        self._scope = scope
        self._repository = repository
        self._reference = reference
        self._target = target
        self._progress = progress
        self._arrivals: dict[Digest, asyncio.Event] = defaultdict(asyncio.Event)
        self._is_over = False

    async def fetch(self, root: Descriptor) -> None:
        await self._fetch(root, None, whole=True, unpacks=True, depth=0)
        # Who waits for something that was not chosen finds that it is not here.
        self._is_over = True
        for arrival in self._arrivals.values():
            arrival.set()

    async def whole(self, layer: Descriptor) -> None:
        """Wait until the blob is here, or nothing more comes."""
        if not self._is_over:
            await self._arrivals[layer.digest].wait()

    async def begun(self, layer: Descriptor) -> Growing | None:
        """Wait until it is here or on its way; see :class:`containerd_hybrid.unpack.api.Arrivals`."""
        if self._is_over or self._arrivals[layer.digest].is_set():
            return None
        arrival = asyncio.ensure_future(self.whole(layer))
        begin = asyncio.ensure_future(self._fetches.begun(layer))
        try:
            await asyncio.wait({arrival, begin}, return_when=asyncio.FIRST_COMPLETED)
            growing = begin.result() if begin.done() and not arrival.done() else None
            if growing is None:
                await arrival
            return growing
        finally:
            arrival.cancel()
            begin.cancel()

    async def _fetch(
        self, blob: Descriptor, parent: Descriptor | None, *, whole: bool, unpacks: bool, depth: int
    ) -> None:
        """``whole``: with the layers, not only what describes them. ``unpacks``: and these are unpacked."""
        if depth > _MAX_DEPTH:
            raise InvalidArgumentError(f"{blob.digest}: indexes are nested more than {_MAX_DEPTH} deep")
        self._progress.waiting(blob, parent)
        fetched = await self._fetches.fetch(
            self._scope, self._repository, blob, lambda count: self._progress.moved(blob, count)
        )
        if fetched:
            self._progress.complete(blob)
        else:
            self._progress.exists(blob)
        self._arrivals[blob.digest].set()
        if is_index(blob.media_type) or is_manifest(blob.media_type):
            await self._fetch_children(blob, whole=whole, unpacks=unpacks, depth=depth)
        await note_source(self._content, self._scope, blob.digest, self._reference)

    async def _without_needless(
        self, blob: Descriptor, manifest: Manifest, chosen: Sequence[Descriptor], depth: int
    ) -> tuple[Descriptor, ...]:
        """What of a manifest is left to be fetched once its config, which says what is unpacked, is here."""
        if not await self._needless.may_be_some(self._scope):
            return tuple(chosen)
        await self._fetch(manifest.config, blob, whole=True, unpacks=False, depth=depth + 1)
        needless = await self._needless.layers(self._scope, manifest)
        for layer in chosen:
            if layer.digest in needless:
                self._progress.exists(layer)
                self._arrivals[layer.digest].set()
        return tuple(child for child in chosen if child.digest not in needless | {manifest.config.digest})

    async def _fetch_children(self, blob: Descriptor, *, whole: bool, unpacks: bool, depth: int) -> None:
        document = parse_manifest_or_index(
            await read_document(self._content, self._scope, blob), blob.media_type
        )
        if isinstance(document, Index):
            listed = document.manifests
            wanted = wanted_manifests(
                document,
                self._target.platforms if whole else (),
                self._target.manifest_limit,
                str(blob.digest),
            )
            chosen = listed if self._target.all_metadata and not self._target.manifest_limit else wanted
            wholes = {entry.digest for entry in wanted} if whole else set()
            unpacked = self._needless.chosen(document) if unpacks else set()
        else:
            unpacked = set()
            listed = (document.config, *document.layers)
            # A layer twice in one image is fetched once.
            chosen = tuple({entry.digest: entry for entry in (listed if whole else listed[:1])}.values())
            wholes = {entry.digest for entry in chosen}
        for child in chosen:
            self._progress.waiting(child, blob)
        if whole and unpacks and isinstance(document, Manifest):
            chosen = await self._without_needless(blob, document, chosen, depth)
        await together(
            self._fetch(
                child,
                blob,
                whole=child.digest in wholes,
                unpacks=child.digest in unpacked,
                depth=depth + 1,
            )
            for child in chosen
        )
        # All children, those of other platforms too: they may come later, and belong to this one then.
        labels = dict(zip(child_labels(listed), (str(child.digest) for child in listed), strict=True))
        if labels:
            await self._content.update(
                self._scope, blob.digest, labels, tuple(f"labels.{key}" for key in labels)
            )


def _runs_here(target: UnpackTarget) -> bool:
    return match_rank(Platform.host(), target.platform) is not None


def _tell_layer(progress: TransferProgress, step: UnpackProgress) -> None:
    if step.state == "extracting":
        progress.extracting(step.layer)
    elif step.state == "done":
        progress.extracted(step.layer)


def _names(root: Descriptor, target: StoreTarget) -> list[tuple[str, dict[str, str]]]:
    """The names for what was pulled, each with its labels."""
    further = dict(target.labels)
    if target.name:
        # They live as long as the image's own name does.
        further |= {GC_BREF_IMAGE: target.name, GC_EXPIRE: _LONG_AGO}
    found = [(target.name, dict(target.labels))] if target.name else []
    found += [(_named(rule, root), further) for rule in target.references if _has_name(rule)]
    return found


def _has_name(rule: ReferenceRule) -> bool:
    return rule.add_digest or not rule.is_prefix


def _named(rule: ReferenceRule, root: Descriptor) -> str:
    return f"{rule.name}@{root.digest}" if rule.add_digest else rule.name
