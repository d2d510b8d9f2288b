"""From a descriptor to its bytes, from any offset."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from containerd_hybrid._native import HttpBody
from containerd_hybrid.errors import (
    DigestMismatchError,
    HybridError,
    NotFoundError,
    OutOfRangeError,
    ResourceExhaustedError,
    SizeMismatchError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.model import Descriptor, Digest
from containerd_hybrid.model.descriptor import is_index, is_manifest
from containerd_hybrid.model.manifest import MAX_DOCUMENT_BYTES
from containerd_hybrid.registry.api import Body, BodySink, Capability, ReceivingSink
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.http import Request, Response, shown_url
from containerd_hybrid.registry.target import Target

logger = logging.getLogger(__name__)

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# Bytes that are gathered before they are written: a write costs a change of thread.
_PIECE = 512 << 10


class TargetFetcher:
    """See :class:`containerd_hybrid.registry.api.Fetcher`."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @asynccontextmanager
    async def fetch(
        self, blob: Descriptor, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[Body]:
        wanted = _Wanted(blob, offset, blob.size if length is None else offset + length, length is not None)
        response = await self._open(wanted)
        try:
            yield ResponseBody(response, blob, offset, wanted.end)
        finally:
            response.close()

    async def read(self, blob: Descriptor) -> bytes:
        if blob.size > MAX_DOCUMENT_BYTES:
            raise ResourceExhaustedError(
                f"{blob.digest} has {blob.size} bytes, more than the {MAX_DOCUMENT_BYTES} that are read"
            )
        sink = _Memory()
        async with self.fetch(blob) as body:
            await body.copy_to(sink)
        found = Digest.of(bytes(sink.data), blob.digest.algorithm)
        if found != blob.digest:
            raise DigestMismatchError(
                f"cannot fetch {self._target.reference.repository}@{blob.digest}: the registry sent {found}"
            )
        return bytes(sink.data)

    async def _open(self, wanted: _Wanted) -> Response:
        blob = wanted.blob
        doing = f"fetch {self._target.reference.repository}@{blob.digest}"
        for url in blob.urls:
            try:
                return await self._open_foreign(url, wanted, doing)
            except HybridError as error:
                logger.info("foreign layer not fetched from its URL", extra={"error": error.message})
        kind = "manifests" if is_manifest(blob.media_type) or is_index(blob.media_type) else "blobs"

        async def ask(endpoint: Endpoint, attempts: int | None) -> Response:
            request = _request(self._target.url(endpoint, kind, str(blob.digest)), wanted)
            response = await self._target.open(
                endpoint, request, doing=doing, accept=(200, 206), attempts=attempts
            )
            return await _positioned(response, wanted, f"{doing} at {endpoint.host}")

        return await self._target.each(Capability.PULL, ask)

    async def _open_foreign(self, url: str, wanted: _Wanted, doing: str) -> Response:
        if urlsplit(url).scheme not in {"http", "https"}:
            raise NotFoundError(f"cannot {doing}: {shown_url(url)} is no URL of http or https")
        request = _request(url, wanted)
        response = await self._target.open_stranger(request, doing=doing, accept=(200, 206), attempts=1)
        return await _positioned(response, wanted, doing)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Bytes of a blob from ``begin`` to before ``end``; ``is_part``: those and no others."""

    blob: Descriptor
    begin: int
    end: int
    is_part: bool


class ResponseBody:
    """Implements :class:`containerd_hybrid.registry.api.Body`."""

    def __init__(self, response: Response, blob: Descriptor, offset: int, end: int) -> None:
        self._response = response
        self._blob = blob
        self._end = end
        self.offset = offset

    async def copy_to(self, sink: BodySink) -> int:
        native = self._response.native()
        if native is not None and isinstance(sink, ReceivingSink):
            return await self._receive(native, sink)
        began = self.offset
        pieces: list[bytes] = []
        gathered = 0
        try:
            while data := await self._response.chunk():
                self.offset += len(data)
                if self.offset > self._end:
                    raise self._too_long()
                pieces.append(data)
                gathered += len(data)
                if gathered >= _PIECE:
                    # Taken out first: who is cancelled while it writes has written.
                    data, pieces, gathered = b"".join(pieces), [], 0
                    await sink.write(data)
        except (UnavailableError, asyncio.CancelledError):
            # What came before is not asked for again.
            if pieces:
                await sink.write(b"".join(pieces))
            raise
        if pieces:
            await sink.write(b"".join(pieces))
        self._check_end()
        return self.offset - began

    async def _receive(self, native: HttpBody, sink: ReceivingSink) -> int:
        began = self.offset
        shown = shown_url(self._response.url)
        try:
            self.offset = await sink.receive(native, self._end - began)
        except UnavailableError as error:
            raise UnavailableError(f"GET {shown}: {error.message}") from error
        except SizeMismatchError:
            raise self._too_long() from None
        self._check_end()
        return self.offset - began

    def _check_end(self) -> None:
        if self.offset < self._end:
            raise UnavailableError(
                f"{shown_url(self._response.url)}: the host ended after {self.offset} of {self._end} bytes"
            )

    def _too_long(self) -> SizeMismatchError:
        return SizeMismatchError(
            f"{self._blob.digest} has to have {self._blob.size} bytes, and more came from "
            f"{shown_url(self._response.url)}"
        )


class _Memory:
    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> int:
        self.data += data
        return len(self.data)


def _request(url: str, wanted: _Wanted) -> Request:
    blob, offset = wanted.blob, wanted.begin
    # Bytes are stored as their digest says, so the host must not compress them for the way.
    headers = {"Accept": f"{blob.media_type or '*/*'}, */*", "Accept-Encoding": "identity"}
    if offset or wanted.is_part:
        headers["Range"] = f"bytes={offset}-{wanted.end - 1 if wanted.is_part else ''}"
    return Request("GET", url, headers)


async def _positioned(response: Response, wanted: _Wanted, doing: str) -> Response:
    """The answer, its next byte being the first that is wanted."""
    try:
        await _position(response, wanted, doing)
    except BaseException:
        response.close()
        raise
    return response


async def _position(response: Response, wanted: _Wanted, doing: str) -> None:
    offset = wanted.begin
    if wanted.is_part and response.status != 206:
        raise OutOfRangeError(f"cannot {doing}: the host gives no parts of it")
    encoding = response.header("Content-Encoding").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnknownError(f"cannot {doing}: the host compresses it ({encoding}), which was not asked for")
    start = 0
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(response.header("Content-Range").strip())
        start = int(found[1]) if found else -1
        if start != offset:
            raise UnknownError(f"cannot {doing}: asked for bytes from {offset}, the host sent others")
    length = response.header("Content-Length")
    if length.isdigit() and start + int(length) != wanted.end:
        raise SizeMismatchError(
            f"cannot {doing}: it has to have {wanted.end} bytes, the host has {start + int(length)}"
        )
    # A host without ranges sends all of it, and what is here already is passed over.
    to_skip = offset - start
    while to_skip:
        data = await response.chunk()
        if not data:
            raise SizeMismatchError(f"cannot {doing}: the host has less than {offset} bytes of it")
        if len(data) > to_skip:
            response.unread(data[to_skip:])
        to_skip -= min(to_skip, len(data))
