"""Implements :class:`containerd_hybrid.fsck.api.Fsck` on our stores."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from containerd_hybrid.content.api import BlobStore, ContentInfo, ContentStore, read_document
from containerd_hybrid.errors import DataLossError, HybridError, NotFoundError
from containerd_hybrid.fsck.api import Problem, Summary
from containerd_hybrid.fsck.layers import LayerChecker, Unpacked
from containerd_hybrid.fsck.sources import BlobSources
from containerd_hybrid.images.api import ImageStore
from containerd_hybrid.metadata.api import Database, DigestLocks, NamespaceStore
from containerd_hybrid.model import Descriptor, Digest, Scope, chain_id
from containerd_hybrid.model.descriptor import is_index, is_layer, is_manifest
from containerd_hybrid.model.manifest import Index, Manifest, parse_image_config, parse_manifest_or_index
from containerd_hybrid.registry.api import RegistryOptions
from containerd_hybrid.snapshots.api import is_committed

# Deeper than any honest image; a bound for what is made to hurt.
_MAX_DEPTH = 8


@dataclass(slots=True)
class _Tally:
    """What a check has looked at so far; ``sound`` blobs are read once, whatever namespaces have them."""

    blobs: int = 0
    bytes: int = 0
    layers: int = 0
    passed_over: int = 0
    sound: dict[Digest, int] = field(default_factory=dict)


class StoreChecker:
    """Checks metadata, blobs and layers. ``sources`` is where blobs can be fetched from again."""

    def __init__(
        self,
        database: Database,
        namespaces: NamespaceStore,
        content: ContentStore,
        blobs: BlobStore,
        locks: DigestLocks,
        images: ImageStore,
        layers: LayerChecker,
        sources: BlobSources,
    ) -> None:
        self._database = database
        self._namespaces = namespaces
        self._content = content
        self._blobs = blobs
        self._locks = locks
        self._images = images
        self._layers = layers
        self._sources = sources

    async def check(
        self,
        *,
        repair: bool = False,
        namespaces: Sequence[str] = (),
        registry: RegistryOptions | None = None,
    ) -> AsyncIterator[Problem | Summary]:
        for line in await self._database.check():
            yield Problem("database", "", "meta.db", line, remedy="restore it, or remove it and pull anew")
        tally = _Tally()
        known = [one.name for one in await self._namespaces.list()]
        for name in namespaces:
            if name not in known:
                raise NotFoundError(f"namespace {name}: not found")
        for name in namespaces or known:
            async for problem in self._namespace(Scope(name), tally, repair, registry or RegistryOptions()):
                yield problem
        yield Summary(tally.blobs, tally.bytes, tally.layers, tally.passed_over)

    async def _namespace(
        self, scope: Scope, tally: _Tally, repair: bool, registry: RegistryOptions
    ) -> AsyncIterator[Problem]:
        types: dict[Digest, Descriptor] = {}
        users: dict[Digest, list[str]] = defaultdict(list)
        for image in await self._images.list(scope):
            async for blob, _ in self._tree(scope, image.target):
                types[blob.digest] = blob
                users[blob.digest].append(image.name)
        broken: set[Digest] = set()
        async for info in self._content.walk(scope):
            tally.blobs += 1
            tally.bytes += info.size
            problem = await self._blob(scope, info, tally.sound)
            if problem is not None and repair:
                tally.sound.pop(info.digest, None)  # its bytes are about to be others
                blob = types.get(info.digest) or Descriptor("", info.digest, info.size)
                problem = await self._fetch_again(scope, info, blob, users[info.digest], problem, registry)
            if problem is not None:
                if not problem.repaired:
                    broken.add(info.digest)
                yield problem
        for unpacked in await self._unpacked(scope):
            if unpacked.layer.digest in broken:
                tally.passed_over += 1
                continue
            result = await self._layers.check(scope, unpacked, repair=repair)
            if result is None:
                tally.passed_over += 1
                continue
            tally.layers += 1
            if isinstance(result, Problem):
                yield result

    # --- blobs

    async def _blob(self, scope: Scope, info: ContentInfo, sound: dict[Digest, int]) -> Problem | None:
        """``sound`` has the sizes of those that were read before: namespaces share their bytes."""
        problem = Problem("content", scope.namespace, str(info.digest), "")
        try:
            if info.digest not in sound:
                sound[info.digest] = (await asyncio.to_thread(self._blobs.verify, info.digest)).size
        except NotFoundError:
            # Removed since it was listed?
            if await self._has(scope, info.digest):
                return replace(problem, what="its bytes are missing")
            return None
        except DataLossError as error:
            return replace(problem, what=error.message)
        size = sound[info.digest]
        if size != info.size:
            return replace(problem, what=f"the record says {info.size} bytes, the blob has {size}")
        return None

    async def _fetch_again(
        self,
        scope: Scope,
        info: ContentInfo,
        blob: Descriptor,
        images: Sequence[str],
        problem: Problem,
        registry: RegistryOptions,
    ) -> Problem:
        async with self._locks.hold(info.digest):
            # Whoever reads it must rather be told than be given wrong bytes.
            with suppress(NotFoundError):
                await asyncio.to_thread(self._blobs.remove, info.digest)
        try:
            await self._sources.fetch(scope, blob, images, info.labels, registry)
        except HybridError as error:
            return replace(problem, remedy=f"pull its image again; it could not be fetched: {error.message}")
        return replace(problem, repaired=True)

    async def _has(self, scope: Scope, digest: Digest) -> bool:
        try:
            await self._content.info(scope, digest)
        except NotFoundError:
            return False
        return True

    # --- images

    async def _tree(
        self, scope: Scope, root: Descriptor
    ) -> AsyncIterator[tuple[Descriptor, Manifest | Index | None]]:
        """The blobs below an image's target, once each, as far as what names them can be read."""
        seen = {root.digest}
        level = [root]
        for _ in range(_MAX_DEPTH + 1):
            below: list[Descriptor] = []
            for blob in level:
                document = await self._document(scope, blob)
                yield blob, document
                if isinstance(document, Index):
                    below += document.manifests
                elif document is not None:
                    below += (document.config, *document.layers)
            level = list({blob.digest: blob for blob in below if blob.digest not in seen}.values())
            seen |= {blob.digest for blob in level}

    async def _document(self, scope: Scope, blob: Descriptor) -> Manifest | Index | None:
        if not (is_index(blob.media_type) or is_manifest(blob.media_type)):
            return None
        try:
            data = await read_document(self._content, scope, blob)
            if Digest.of(data) != blob.digest:
                return None
            return parse_manifest_or_index(data, blob.media_type)
        except HybridError:
            return None

    async def _unpacked(self, scope: Scope) -> list[Unpacked]:
        """The layers of all images that are unpacked, each once a snapshotter, lowest first."""
        found: dict[tuple[str, Digest], Unpacked] = {}
        for image in await self._images.list(scope):
            async for _, document in self._tree(scope, image.target):
                if not isinstance(document, Manifest):
                    continue
                layers = [layer for layer in document.layers if is_layer(layer.media_type)]
                try:
                    config = parse_image_config(await read_document(self._content, scope, document.config))
                except HybridError:
                    continue
                if len(layers) != len(config.diff_ids):
                    continue
                for name, snapshotter in self._layers.snapshotters.items():
                    parent = ""
                    for index, layer in enumerate(layers):
                        chain = chain_id(config.diff_ids[: index + 1])
                        if await is_committed(snapshotter, scope, str(chain)):
                            found.setdefault(
                                (name, chain),
                                Unpacked(name, str(chain), parent, layer, config.diff_ids[index]),
                            )
                        parent = str(chain)
        return list(found.values())
