"""From a tag or digest to a descriptor: HEAD, and GET where that does not tell enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from containerd_hybrid.errors import (
    DigestMismatchError,
    InvalidArgumentError,
    InvalidDigestError,
    NotFoundError,
    ResourceExhaustedError,
    UnknownError,
)
from containerd_hybrid.model import Descriptor, Digest, Reference
from containerd_hybrid.model.descriptor import (
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    is_index,
    is_manifest,
)
from containerd_hybrid.model.manifest import MAX_DOCUMENT_BYTES, Index, parse_manifest_or_index
from containerd_hybrid.registry.api import Capability
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.http import Request, Response
from containerd_hybrid.registry.target import Target

ACCEPT = f"{DOCKER_MANIFEST}, {DOCKER_MANIFEST_LIST}, {OCI_MANIFEST}, {OCI_INDEX}, */*"
# After these a GET may succeed, or at least say what is wrong, which a HEAD cannot.
_ASK_AGAIN = frozenset({400, 403, 405, 406, 501})
_VAGUE = frozenset({"", "application/json", "application/octet-stream"})
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of one host. ``digest`` is what the answer has to have, if that is known."""

    url: str
    digest: Digest | None
    doing: str
    attempts: int | None


class TargetResolver:
    """See :class:`containerd_hybrid.registry.api.Resolver`."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def resolve(self, reference: Reference) -> Descriptor:
        doing = f"resolve {reference}"
        wanted = str(reference.digest) if reference.digest is not None else reference.tag
        capability = Capability.PULL
        if reference.digest is None:
            capability |= Capability.RESOLVE

        def asker(kind: str) -> Callable[[Endpoint, int | None], Awaitable[Descriptor]]:
            async def ask(endpoint: Endpoint, attempts: int | None) -> Descriptor:
                url = self._target.url(endpoint, kind, wanted)
                return await self._ask(endpoint, _Question(url, reference.digest, doing, attempts))

            return ask

        try:
            return await self._target.each(capability, asker("manifests"))
        except NotFoundError:
            if reference.digest is None:
                raise
            # Old registries have some manifests among their blobs only.
            try:
                return await self._target.each(capability, asker("blobs"))
            except NotFoundError:
                pass
            raise

    async def _ask(self, endpoint: Endpoint, question: _Question) -> Descriptor:
        head = await self._target.open(
            endpoint,
            Request("HEAD", question.url, {"Accept": ACCEPT}),
            doing=question.doing,
            accept={200, *_ASK_AGAIN},
            attempts=question.attempts,
        )
        head.close()
        if head.status == 200:
            media_type, digest = _media_type(head, question), _header_digest(head, question)
            length = head.header("Content-Length")
            if digest is not None and length.isdigit() and int(length) > 0 and media_type not in _VAGUE:
                return _descriptor(media_type, digest, int(length), question)
        return await self._get(endpoint, question)

    async def _get(self, endpoint: Endpoint, question: _Question) -> Descriptor:
        response = await self._target.open(
            endpoint,
            Request("GET", question.url, {"Accept": ACCEPT}),
            doing=question.doing,
            attempts=question.attempts,
        )
        try:
            data = await response.read(MAX_DOCUMENT_BYTES)
        finally:
            response.close()
        media_type, promised = _media_type(response, question), _header_digest(response, question)
        digest = Digest.of(data, promised.algorithm if promised is not None else "sha256")
        if promised is not None and digest != promised:
            raise DigestMismatchError(
                f"cannot {question.doing}: {endpoint.host} sent {digest}, promised was {promised}"
            )
        if media_type in _VAGUE:
            media_type = _own_media_type(data)
        return _descriptor(media_type, digest, len(data), question)


def _media_type(response: Response, question: _Question) -> str:
    media_type = response.header("Content-Type").partition(";")[0].strip()
    # Some registries serve what is too old for any media type as text.
    if media_type.startswith(_SCHEMA1) or media_type == "text/plain":
        raise InvalidArgumentError(
            f"cannot {question.doing}: schema 1 image manifests are no longer supported: "
            "build or convert the image anew"
        )
    return media_type


def _header_digest(response: Response, question: _Question) -> Digest | None:
    """The digest that the answer has or has to have.

    Raises:
        DigestMismatchError: the host says that it has something else.
    """
    text = response.header("Docker-Content-Digest")
    if not text:
        return question.digest
    try:
        digest = Digest.parse(text)
    except InvalidDigestError as error:
        raise UnknownError(f"cannot {question.doing}: the registry sent an {error.message}") from error
    if question.digest is not None and digest.algorithm != question.digest.algorithm:
        return question.digest
    if question.digest not in (None, digest):
        raise DigestMismatchError(f"cannot {question.doing}: the registry has {digest} in its place")
    return digest


def _own_media_type(data: bytes) -> str:
    document = parse_manifest_or_index(data)
    if is_index(document.media_type) or is_manifest(document.media_type):
        return document.media_type
    return OCI_INDEX if isinstance(document, Index) else OCI_MANIFEST


def _descriptor(media_type: str, digest: Digest, size: int, question: _Question) -> Descriptor:
    if size > MAX_DOCUMENT_BYTES:
        raise ResourceExhaustedError(
            f"cannot {question.doing}: the manifest has {size} bytes, "
            f"more than the {MAX_DOCUMENT_BYTES} that are accepted"
        )
    return Descriptor(media_type, digest, size)
