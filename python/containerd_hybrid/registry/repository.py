"""One repository for one operation: resolver, fetcher, pusher and lists over the same connections."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from containerd_hybrid.errors import UnknownError
from containerd_hybrid.model import Descriptor, Digest, Reference
from containerd_hybrid.registry.api import BlobReader, Body, Capability, PushOutcome
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.fetcher import TargetFetcher
from containerd_hybrid.registry.http import Request
from containerd_hybrid.registry.pusher import TargetPusher
from containerd_hybrid.registry.referrers import TargetReferrers
from containerd_hybrid.registry.resolver import TargetResolver
from containerd_hybrid.registry.target import Target
from containerd_hybrid.registry.upload import UploadSettings

_PAGE = "1000"


class TargetRepository:
    """Implements :class:`containerd_hybrid.registry.api.Repository`."""

    def __init__(self, target: Target, uploads: UploadSettings) -> None:
        self._target = target
        self._resolver = TargetResolver(target)
        self._fetcher = TargetFetcher(target)
        self._pusher = TargetPusher(target, uploads)
        self._referrers = TargetReferrers(target)

    async def resolve(self, reference: Reference) -> Descriptor:
        return await self._resolver.resolve(reference)

    def fetch(
        self, blob: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[Body]:
        return self._fetcher.fetch(blob, offset, length)

    async def read(self, blob: Descriptor) -> bytes:
        return await self._fetcher.read(blob)

    async def push_blob(
        self,
        blob: Descriptor,
        read: BlobReader,
        *,
        mount_from: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> PushOutcome:
        return await self._pusher.push_blob(blob, read, mount_from=mount_from, progress=progress)

    async def push_manifest(self, manifest: Descriptor, data: bytes, tag: str = "") -> PushOutcome:
        return await self._pusher.push_manifest(manifest, data, tag)

    async def tags(self) -> Sequence[str]:
        async def ask(endpoint: Endpoint, attempts: int | None) -> list[str]:
            url = self._target.url(endpoint, "tags", "list", query=(("n", _PAGE),))
            doing = f"list tags of {self._target.reference.repository}"
            return await list_names(self._target, endpoint, url, "tags", doing, (), attempts)

        return await self._target.each(Capability.RESOLVE, ask)

    async def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]:
        return await self._referrers.referrers(subject, artifact_type)

    async def delete_manifest(self, reference: str | Digest) -> None:
        await self._delete("manifests", str(reference))

    async def delete_blob(self, digest: Digest) -> None:
        await self._delete("blobs", str(digest))

    async def _delete(self, kind: str, name: str) -> None:
        endpoint = (await self._target.endpoints(Capability.PUSH))[0]
        mark = "@" if ":" in name else ":"
        response = await self._target.open(
            endpoint,
            Request("DELETE", self._target.url(endpoint, kind, name)),
            doing=f"delete {self._target.reference.repository}{mark}{name}",
            scopes=(self._target.scope("delete,pull,push"),),
            accept=(200, 202, 204),
        )
        response.close()


async def list_names(
    target: Target,
    endpoint: Endpoint,
    url: str,
    key: str,
    doing: str,
    scopes: Sequence[str],
    attempts: int | None,
) -> list[str]:
    """A list of names in pages: ``tags`` of a repository, ``repositories`` of a registry."""
    found: list[str] = []
    async for _, data in target.pages(endpoint, url, doing=doing, scopes=scopes, attempts=attempts):
        try:
            names = json.loads(data).get(key) or []
        except (ValueError, AttributeError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UnknownError(f"cannot {doing}: {endpoint.host} answered with something else than a list")
        found.extend(names)
    return found
