"""From bytes to a repository: what is there already is not sent, what a neighbour has is mounted."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence

from containerd_hybrid.errors import (
    DigestMismatchError,
    HybridError,
    InvalidDigestError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from containerd_hybrid.model import Descriptor, Digest
from containerd_hybrid.model.manifest import Manifest, parse_manifest_or_index
from containerd_hybrid.registry.api import BlobReader, Capability, PushOutcome
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.http import Request, Response
from containerd_hybrid.registry.referrers import TargetReferrers
from containerd_hybrid.registry.target import Target
from containerd_hybrid.registry.upload import Upload, UploadSettings

logger = logging.getLogger(__name__)

_DONE = frozenset({200, 201, 202, 204})


class TargetPusher:
    """See :class:`containerd_hybrid.registry.api.Pusher`. All goes to the first host that takes pushes."""

    def __init__(self, target: Target, settings: UploadSettings) -> None:
        self._target = target
        self._settings = settings
        self._referrers = TargetReferrers(target)
        self._scopes = (target.scope("pull,push"),)

    async def push_blob(
        self,
        blob: Descriptor,
        read: BlobReader,
        *,
        mount_from: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> PushOutcome:
        endpoint = (await self._target.endpoints(Capability.PUSH))[0]
        if await self._has(
            endpoint, self._target.url(endpoint, "blobs", str(blob.digest)), blob, anywhere=True
        ):
            return PushOutcome.EXISTS
        tell = progress or _nobody
        for path in mount_from:
            started = await self._mount(endpoint, blob, path)
            if started is None:
                continue
            started.close()
            if started.status == 201:
                tell(blob.size)
                return PushOutcome.MOUNTED
            await self._upload(endpoint, blob, read, tell, started)
            return PushOutcome.UPLOADED
        await self._upload(endpoint, blob, read, tell, None)
        return PushOutcome.UPLOADED

    async def push_manifest(self, manifest: Descriptor, data: bytes, tag: str = "") -> PushOutcome:
        endpoint = (await self._target.endpoints(Capability.PUSH))[0]
        url = self._target.url(endpoint, "manifests", tag or str(manifest.digest))
        if await self._has(endpoint, url, manifest, anywhere=not tag):
            return PushOutcome.EXISTS
        doing = f"push {self._target.reference.repository}{f':{tag}' if tag else ''}@{manifest.digest}"
        request = Request("PUT", url, {"Content-Type": manifest.media_type}, data)
        response = await self._target.open(endpoint, request, doing=doing, scopes=self._scopes, accept=_DONE)
        response.close()
        self._check_digest(response, manifest, doing)
        document = parse_manifest_or_index(data, manifest.media_type)
        subject = document.subject if isinstance(document, Manifest) else None
        if subject is not None and not response.header("OCI-Subject"):
            await self._referrers.add(endpoint, subject.digest, _as_referrer(manifest, data))
        return PushOutcome.UPLOADED

    async def _has(self, endpoint: Endpoint, url: str, blob: Descriptor, *, anywhere: bool) -> bool:
        """Whether it is there; a tag counts only when it points to this digest."""
        response = await self._target.open(
            endpoint,
            Request("HEAD", url, {"Accept": f"{blob.media_type or '*/*'}, */*"}),
            doing=f"push {self._target.reference.repository}@{blob.digest}",
            scopes=self._scopes,
            accept={200, 404, 405},
        )
        response.close()
        if response.status != 200:
            return False
        return anywhere or response.header("Docker-Content-Digest") == str(blob.digest)

    async def _mount(self, endpoint: Endpoint, blob: Descriptor, path: str) -> Response | None:
        query = (("mount", str(blob.digest)), ("from", path))
        request = Request("POST", self._uploads(endpoint, query))
        try:
            return await self._target.open(
                endpoint,
                request,
                doing=f"mount {blob.digest} of {path}",
                scopes=(*self._scopes, self._target.scope("pull", path)),
                accept=(201, 202),
            )
        except (UnauthenticatedError, PermissionDeniedError, NotFoundError) as error:
            # The other repository may be none of ours.
            logger.info("blob not mounted", extra={"error": error.message})
            return None

    def _uploads(self, endpoint: Endpoint, query: Sequence[tuple[str, str]] = ()) -> str:
        return self._target.url(endpoint, "blobs", "uploads/", query=query)

    async def _start(self, endpoint: Endpoint, blob: Descriptor) -> Response:
        response = await self._target.open(
            endpoint,
            Request("POST", self._uploads(endpoint)),
            doing=f"push {self._target.reference.repository}@{blob.digest}",
            scopes=self._scopes,
            accept={200, 202, 204},
        )
        response.close()
        return response

    async def _upload(
        self,
        endpoint: Endpoint,
        blob: Descriptor,
        read: BlobReader,
        tell: Callable[[int], None],
        started: Response | None,
    ) -> None:
        retry = self._target.exchange.retry
        failures = 0
        upload: Upload | None = None
        while True:
            try:
                if upload is None:
                    answer = started or await self._start(endpoint, blob)
                    started = None
                    upload = Upload(self._target, endpoint, blob, read, answer, self._scopes, tell)
                    response = await self._first(upload)
                else:
                    response = await upload.chunks(self._settings.resume_bytes, await upload.offset())
                response.close()
                self._check_digest(response, blob, f"push {blob.digest}")
                return
            except (UnavailableError, NotFoundError, OutOfRangeError) as error:
                failures += 1
                delay = retry.delay(failures)
                if delay is None or (upload is None and not isinstance(error, UnavailableError)):
                    await self._give_up(upload)
                    raise
                logger.info("upload goes on after a failure", extra={"error": error.message})
                # A session that is lost, or whose place is, begins anew; an interrupted one goes on.
                if not isinstance(error, UnavailableError):
                    upload = None
                await retry.sleep(delay)
            except HybridError:
                await self._give_up(upload)
                raise

    async def _first(self, upload: Upload) -> Response:
        if self._settings.chunk_bytes:
            return await upload.chunks(self._settings.chunk_bytes)
        return await upload.whole()

    async def _give_up(self, upload: Upload | None) -> None:
        if upload is not None:
            await upload.cancel()

    def _check_digest(self, response: Response, blob: Descriptor, doing: str) -> None:
        text = response.header("Docker-Content-Digest")
        try:
            found = Digest.parse(text) if text else blob.digest
        except InvalidDigestError:
            return  # a digest that says nothing contradicts nothing
        if found.algorithm == blob.digest.algorithm and found != blob.digest:
            raise DigestMismatchError(f"cannot {doing}: the registry stored it as {found}")


def _as_referrer(manifest: Descriptor, data: bytes) -> Descriptor:
    """The descriptor that a list of referrers has for a manifest."""
    document = json.loads(data)
    config = document.get("config") or {}
    return Descriptor(
        manifest.media_type,
        manifest.digest,
        manifest.size,
        annotations=document.get("annotations") or {},
        artifact_type=document.get("artifactType") or config.get("mediaType") or "",
    )


def _nobody(count: int) -> None:
    """Nobody listens."""
