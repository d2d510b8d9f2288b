"""Image store to registry: blobs first, then manifests, then the indexes that name them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from containerd_hybrid.content.api import ContentStore, read_document
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.images.api import ImageStore
from containerd_hybrid.model import Descriptor, Digest, Platform, Reference, Scope
from containerd_hybrid.model.descriptor import is_index, is_manifest
from containerd_hybrid.model.manifest import Index, Manifest, parse_manifest_or_index
from containerd_hybrid.model.reference import has_tag
from containerd_hybrid.registry.api import PushOutcome, RegistryClient, Repository
from containerd_hybrid.retention.api import was_dropped, why_missing
from containerd_hybrid.transfer.api import Progress, ProgressSink, RegistryPlace
from containerd_hybrid.transfer.progress import TransferProgress
from containerd_hybrid.transfer.selection import wanted_manifests
from containerd_hybrid.transfer.sources import mount_candidates
from containerd_hybrid.workers import together

_MAX_DEPTH = 8


class RegistryPush:
    """See :meth:`containerd_hybrid.transfer.api.RegistryTransfers.push`; ``uploads`` blobs go at once."""

    def __init__(
        self, content: ContentStore, images: ImageStore, registries: RegistryClient, uploads: int = 3
    ) -> None:
        self._content = content
        self._images = images
        self._registries = registries
        self._slots = asyncio.Semaphore(max(1, uploads))

    async def push(
        self,
        scope: Scope,
        name: str,
        target: RegistryPlace,
        platforms: Sequence[Platform],
        tell: ProgressSink,
    ) -> None:
        reference = Reference.parse(target.reference)
        image = await self._images.get(scope, name)
        root = image.target
        if reference.digest not in (None, root.digest):
            raise InvalidArgumentError(
                f"cannot push {name} as {target.reference}: its digest is {root.digest}"
            )
        tell(Progress(f"Pushing to {target}"))
        tell(Progress("pushing content", name, descriptor=root))
        repository = self._registries.repository(reference, target.options)
        tag = reference.tag if has_tag(target.reference) else ""
        progress = TransferProgress(tell, name, "uploading")
        plan = _Plan(self._content, scope, name, platforms, progress)
        await plan.add(root, None, 0)
        await together(
            self._blob(scope, repository, reference, blob, parent, labels, progress)
            for blob, parent, labels in plan.blobs.values()
        )
        await together(
            self._document(scope, repository, blob, tag if blob.digest == root.digest else "", progress)
            for blob in plan.manifests.values()
        )
        # Those that were seen last are named by those seen before.
        for blob in reversed(plan.indexes.values()):
            own = tag if blob.digest == root.digest else ""
            await self._document(scope, repository, blob, own, progress)
        tell(Progress("pushed content", name, descriptor=root))
        tell(Progress(f"Completed push to {target}", descriptor=root))

    async def _blob(
        self,
        scope: Scope,
        repository: Repository,
        reference: Reference,
        blob: Descriptor,
        parent: Descriptor | None,
        labels: Mapping[str, str],
        progress: TransferProgress,
    ) -> None:
        async def read(offset: int, length: int) -> bytes:
            try:
                return await self._content.read_at(scope, blob.digest, offset, length)
            except NotFoundError:
                if parent is not None and await was_dropped(self._content, scope, parent, blob):
                    why = await why_missing(self._content, scope, parent, blob)
                    raise NotFoundError(f"cannot push {reference}: {why}") from None
                raise _missing(blob, reference) from None

        async with self._slots:
            outcome = await repository.push_blob(
                blob,
                read,
                mount_from=mount_candidates(labels, reference),
                progress=lambda count: progress.moved(blob, count),
            )
        _tell(progress, blob, outcome)

    async def _document(
        self, scope: Scope, repository: Repository, blob: Descriptor, tag: str, progress: TransferProgress
    ) -> None:
        data = await read_document(self._content, scope, blob)
        async with self._slots:
            try:
                outcome = await repository.push_manifest(blob, data, tag)
            except InvalidArgumentError as error:
                if not is_index(blob.media_type):
                    raise
                raise InvalidArgumentError(
                    f"{error.message}: the registry may miss manifests that the index names: push all "
                    "platforms, or a single one by its digest"
                ) from error
        _tell(progress, blob, outcome)


class _Plan:
    """What has to go: in the order of the walk, each once."""

    def __init__(
        self,
        content: ContentStore,
        scope: Scope,
        name: str,
        platforms: Sequence[Platform],
        progress: TransferProgress,
    ) -> None:
        self._content = content
        self._scope = scope
        self._name = name
        self._platforms = platforms
        self._progress = progress
        # With what names it, and the labels that say where it may be mounted from.
        self.blobs: dict[Digest, tuple[Descriptor, Descriptor | None, Mapping[str, str]]] = {}
        self.manifests: dict[Digest, Descriptor] = {}
        self.indexes: dict[Digest, Descriptor] = {}

    async def add(self, blob: Descriptor, parent: Descriptor | None, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise InvalidArgumentError(f"{blob.digest}: indexes are nested more than {_MAX_DEPTH} deep")
        labels = await self._labels(blob)
        if not (is_index(blob.media_type) or is_manifest(blob.media_type)):
            if labels is None and parent is not None:
                if blob.urls:
                    return  # a foreign layer, which stays where its owner has it
                # The registry may have it: of a pull of one platform the others' layers are not here.
                labels = await self._labels(parent)
            self._progress.waiting(blob, parent)
            self.blobs[blob.digest] = (blob, parent, labels or {})
            return
        if labels is None:
            raise _missing(blob, self._name)
        self._progress.waiting(blob, parent)
        document = await self._document(blob)
        if isinstance(document, Index):
            # Seen again deeper, it moves behind what names it there.
            self.indexes.pop(blob.digest, None)
            self.indexes[blob.digest] = blob
            children = wanted_manifests(document, self._platforms, 0, self._name)
        else:
            self.manifests[blob.digest] = blob
            children = (document.config, *document.layers)
        for child in children:
            await self.add(child, blob, depth + 1)

    async def _labels(self, blob: Descriptor) -> Mapping[str, str] | None:
        """None for a blob that is not here."""
        try:
            return (await self._content.info(self._scope, blob.digest)).labels
        except NotFoundError:
            return None

    async def _document(self, blob: Descriptor) -> Manifest | Index:
        data = await read_document(self._content, self._scope, blob)
        return parse_manifest_or_index(data, blob.media_type)


def _missing(blob: Descriptor, image: object) -> NotFoundError:
    return NotFoundError(
        f"cannot push {image}: {blob.media_type or 'blob'} {blob.digest} is neither here nor there: "
        "pull or import all of the image, or push a single platform"
    )


def _tell(progress: TransferProgress, blob: Descriptor, outcome: PushOutcome) -> None:
    if outcome is PushOutcome.EXISTS:
        progress.exists(blob)
    else:
        progress.complete(blob)
