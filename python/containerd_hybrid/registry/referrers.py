"""Referrers: what says something about a manifest; by the API, or by the tag that stands in for it.

Source: OCI distribution spec 1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from containerd_hybrid.model import Descriptor, Digest
from containerd_hybrid.model.descriptor import OCI_INDEX
from containerd_hybrid.model.manifest import (
    MAX_DOCUMENT_BYTES,
    Index,
    descriptor_to_json,
    parse_manifest_or_index,
)
from containerd_hybrid.registry.api import Capability
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.http import Request
from containerd_hybrid.registry.target import Target


class TargetReferrers:
    """Reads both forms, and writes the tag for registries that have no API."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]:
        async def ask(endpoint: Endpoint, attempts: int | None) -> list[Descriptor]:
            try:
                return await self._by_api(endpoint, subject, artifact_type, attempts)
            except (NotFoundError, UnimplementedError, InvalidArgumentError):
                return await self._by_tag(endpoint, subject)

        found = await self._target.each(Capability.REFERRERS, ask)
        return [entry for entry in found if not artifact_type or entry.artifact_type == artifact_type]

    async def add(self, endpoint: Endpoint, subject: Digest, referrer: Descriptor) -> None:
        """Add to the list that the fallback tag points to."""
        entries = [
            entry for entry in await self._by_tag(endpoint, subject) if entry.digest != referrer.digest
        ]
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor_to_json(entry) for entry in (*entries, referrer)],
        }
        response = await self._target.open(
            endpoint,
            Request(
                "PUT",
                self._target.url(endpoint, "manifests", referrers_tag(subject)),
                {"Content-Type": OCI_INDEX},
                json.dumps(document, separators=(",", ":")).encode(),
            ),
            doing=f"add a referrer of {self._target.reference.repository}@{subject}",
            scopes=(self._target.scope("pull,push"),),
            accept=(200, 201, 202, 204),
        )
        response.close()

    async def _by_api(
        self, endpoint: Endpoint, subject: Digest, artifact_type: str, attempts: int | None
    ) -> list[Descriptor]:
        query = [("artifactType", artifact_type)] if artifact_type else []
        url = self._target.url(endpoint, "referrers", str(subject), query=query)
        found: list[Descriptor] = []
        doing = f"list referrers of {self._target.reference.repository}@{subject}"
        async for response, data in self._target.pages(endpoint, url, doing=doing, attempts=attempts):
            if response.header("Content-Type").partition(";")[0].strip() != OCI_INDEX:
                # A host that answers to everything; this one does not know the API.
                raise NotFoundError(f"cannot {doing}: {endpoint.host} has no referrers API")
            found.extend(_entries(data))
        return found

    async def _by_tag(self, endpoint: Endpoint, subject: Digest) -> list[Descriptor]:
        response = await self._target.open(
            endpoint,
            Request(
                "GET", self._target.url(endpoint, "manifests", referrers_tag(subject)), {"Accept": OCI_INDEX}
            ),
            doing=f"list referrers of {self._target.reference.repository}@{subject}",
            accept=(200, 404),
        )
        try:
            if response.status == 404:
                return []
            return _entries(await response.read(MAX_DOCUMENT_BYTES))
        finally:
            response.close()


def referrers_tag(subject: Digest) -> str:
    """The tag that lists a manifest's referrers where there is no API."""
    return f"{subject.algorithm}-{subject.hex}"[:128]


def _entries(data: bytes) -> list[Descriptor]:
    document = parse_manifest_or_index(data, OCI_INDEX)
    return list(document.manifests) if isinstance(document, Index) else []
