"""One upload session: a blob in one piece, or in chunks from where a broken connection left it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Container
from dataclasses import dataclass
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from containerd_hybrid.errors import (
    DataLossError,
    HybridError,
    OutOfRangeError,
    UnknownError,
)
from containerd_hybrid.model import Descriptor
from containerd_hybrid.registry.api import BlobReader
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.http import OCTETS, Request, Response, origin
from containerd_hybrid.registry.target import Target

_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
_PIECE = 1 << 20
_DONE = frozenset({200, 201, 202, 204})


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """``chunk_bytes`` 0: in one piece, and in chunks of ``resume_bytes`` only after a failure."""

    chunk_bytes: int = 0
    resume_bytes: int = 64 << 20
    attempts: int = 5


class Upload:
    """A session that a host has opened by the answer ``started``."""

    def __init__(
        self,
        target: Target,
        endpoint: Endpoint,
        blob: Descriptor,
        read: BlobReader,
        started: Response,
        scopes: tuple[str, ...],
        progress: Callable[[int], None],
    ) -> None:
        self._target = target
        self._endpoint = endpoint
        self._blob = blob
        self._read = read
        self._scopes = scopes
        self._progress = progress
        self._doing = f"push {target.reference.repository}@{blob.digest}"
        self._asked = started.url
        self._location = ""
        self._failed: HybridError | None = None
        self._follow(started)
        smallest = started.header("OCI-Chunk-Min-Length")
        self.smallest_chunk = int(smallest) if smallest.isdigit() else 0

    async def whole(self) -> Response:
        """The one request of a monolithic upload."""
        return await self._send("PUT", 0, self._blob.size, {}, final=True)

    async def chunks(self, size: int, offset: int = 0) -> Response:
        """PATCH after PATCH from ``offset``, and the PUT that ends them.

        Raises:
            OutOfRangeError: the host lost its place more than once at the same one.
        """
        size = max(size, self.smallest_chunk)
        refused_at = -1
        while offset < self._blob.size:
            end = min(offset + size, self._blob.size)
            headers = {"Content-Range": f"{offset}-{end - 1}"}
            response = await self._send("PATCH", offset, end, headers, final=False)
            response.close()
            if response.status == 416:
                if refused_at == offset:
                    raise OutOfRangeError(f"cannot {self._doing}: the host refuses bytes from {offset}")
                refused_at = offset
                offset = await self.offset()
                continue
            self._follow(response)
            received = _received(response.header("Range"))
            offset = end if received is None else received
            if received is not None and not 0 < received <= self._blob.size:
                raise UnknownError(f"cannot {self._doing}: the host says that it has {received} bytes")
        return await self._send("PUT", self._blob.size, self._blob.size, {}, final=True)

    async def offset(self) -> int:
        """How many bytes the host has.

        Raises:
            NotFoundError: the session is gone.
        """
        response = await self._open(Request("GET", self._location), accept=(200, 202, 204))
        response.close()
        self._follow(response)
        return _received(response.header("Range")) or 0

    async def cancel(self) -> None:
        """Tell the host that the session is not needed; what it answers does not matter."""
        try:
            response = await self._open(Request("DELETE", self._location), accept=range(200, 500), attempts=1)
        except HybridError:
            return
        response.close()

    async def _send(
        self, method: str, start: int, end: int, headers: dict[str, str], *, final: bool
    ) -> Response:
        url = _with_query(self._location, "digest", str(self._blob.digest)) if final else self._location
        headers = {"Content-Type": OCTETS, **headers}
        self._failed = None
        request = Request(
            method,
            url,
            headers,
            upload=(lambda: self._bytes(start, end)) if end > start else None,
            length=end - start,
            repeatable=False,
        )
        accept = _DONE if final else {202, 204, 416}
        try:
            return await self._open(request, accept=accept)
        except HybridError:
            if self._failed is not None:
                raise self._failed from None
            raise

    async def _bytes(self, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            try:
                data = await self._read(start, min(_PIECE, end - start))
                if not data:
                    raise DataLossError(f"{self._blob.digest} ends at {start} of {self._blob.size} bytes")
            except HybridError as error:
                # The transport would only say that it could not send.
                self._failed = error
                raise
            yield data
            start += len(data)
            self._progress(start)

    async def _open(
        self, request: Request, *, accept: Container[int], attempts: int | None = None
    ) -> Response:
        if origin(request.url) != origin(self._asked):
            return await self._target.open_stranger(
                request, doing=self._doing, accept=accept, attempts=attempts
            )
        return await self._target.open(
            self._endpoint, request, doing=self._doing, scopes=self._scopes, accept=accept, attempts=attempts
        )

    def _follow(self, response: Response) -> None:
        """The session goes on where the answer says, absolutely or relative to what was asked."""
        location = response.header("Location")
        if location:
            self._location = urljoin(response.url, location)
        if not self._location:
            raise UnknownError(f"cannot {self._doing}: the host opened an upload without saying where")


def _received(value: str) -> int | None:
    """Bytes that a ``Range: 0-99`` stands for; ``0-0`` is what an empty session has, or one byte."""
    found = _RANGE.fullmatch(value.strip())
    if found is None:
        return None
    last = int(found[1])
    return last + 1 if last else 0


def _with_query(url: str, name: str, value: str) -> str:
    parts = urlsplit(url)
    pair = urlencode([(name, value)])
    # What the host wrote stays as it is: it may be signed.
    return urlunsplit(parts._replace(query=f"{parts.query}&{pair}" if parts.query else pair))
