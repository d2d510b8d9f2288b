"""Registries whose images are judged: a name that is resolved is one that every verifier agreed to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from containerd_hybrid.errors import HybridError, UnknownError
from containerd_hybrid.model import Descriptor, Digest, Reference
from containerd_hybrid.registry.api import (
    BlobReader,
    Body,
    PushOutcome,
    RegistryClient,
    RegistryOptions,
    Repository,
)
from containerd_hybrid.verification.api import ImageVerifier, Judgement

logger = logging.getLogger(__name__)


class VerifiedRegistries:
    """Implements :class:`containerd_hybrid.registry.api.RegistryClient` over another one, for pulls."""

    def __init__(self, registries: RegistryClient, verifiers: Mapping[str, ImageVerifier]) -> None:
        self._registries = registries
        self._verifiers = verifiers

    def repository(self, reference: Reference, options: RegistryOptions) -> Repository:
        return _VerifiedRepository(self._registries.repository(reference, options), self._verifiers)

    async def catalog(self, host: str, options: RegistryOptions) -> Sequence[str]:
        return await self._registries.catalog(host, options)


class _VerifiedRepository:
    """One operation. Only resolving is more than handed on."""

    def __init__(self, repository: Repository, verifiers: Mapping[str, ImageVerifier]) -> None:
        self._repository = repository
        self._verifiers = verifiers

    async def resolve(self, reference: Reference) -> Descriptor:
        """
        Raises:
            UnknownError: a verifier blocked it, or gave no judgement; the message says which and why.
        """
        image = await self._repository.resolve(reference)
        for verifier_name, verifier in self._verifiers.items():
            await self._judge(verifier_name, verifier, str(reference), image)
        return image

    async def _judge(self, by: str, verifier: ImageVerifier, name: str, image: Descriptor) -> None:
        fields = {"verifier": by, "image": name, "digest": str(image.digest)}
        try:
            judgement: Judgement = await verifier.verify(name, image)
        except HybridError as error:
            logger.error("no judgement from the image verifier", extra={**fields, "error": error.message})
            raise UnknownError(
                f"blocking pull of {name} with digest {image.digest}: image verifier {by} returned error: "
                f"{error.message}"
            ) from error
        fields["reason"] = judgement.reason
        if not judgement.ok:
            logger.warning("image verifier blocked a pull", extra=fields)
            raise UnknownError(
                f"image verifier {by} blocked pull of {name} with digest {image.digest} for reason: "
                f"{judgement.reason}"
            )
        logger.debug("image verifier allowed a pull", extra=fields)

    def fetch(
        self, blob: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[Body]:
        return self._repository.fetch(blob, offset, length)

    async def read(self, blob: Descriptor) -> bytes:
        return await self._repository.read(blob)

    async def push_blob(
        self,
        blob: Descriptor,
        read: BlobReader,
        *,
        mount_from: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> PushOutcome:
        return await self._repository.push_blob(blob, read, mount_from=mount_from, progress=progress)

    async def push_manifest(self, manifest: Descriptor, data: bytes, tag: str = "") -> PushOutcome:
        return await self._repository.push_manifest(manifest, data, tag)

    async def tags(self) -> Sequence[str]:
        return await self._repository.tags()

    async def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]:
        return await self._repository.referrers(subject, artifact_type)

    async def delete_manifest(self, reference: str | Digest) -> None:
        await self._repository.delete_manifest(reference)

    async def delete_blob(self, digest: Digest) -> None:
        await self._repository.delete_blob(digest)
