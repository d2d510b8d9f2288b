"""Requests and answers as the rest of the package sees them, whatever carries them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

from containerd_hybrid._native import HttpBody
from containerd_hybrid.errors import ResourceExhaustedError

UploadBody: TypeAlias = Callable[[], AsyncIterator[bytes]]
"""Begins the body anew; a redirect or a new token sends it once more."""

OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Request:
    """``url`` is absolute and goes out as it is. ``upload`` has ``length`` bytes.

    ``headers`` are the request's own; those of the host and the authorisation are added by who sends it.
    ``repeatable``: sending it again after a failure whose effect is unknown does no harm.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    upload: UploadBody | None = None
    length: int = 0
    repeatable: bool = True

    def with_headers(self, headers: Iterable[tuple[str, str]]) -> Request:
        """With these in place of its own of the same names; one that comes twice has both values."""
        added: dict[str, tuple[str, str]] = {}
        for name, value in headers:
            known = added.get(name.lower())
            added[name.lower()] = (name, f"{known[1]}, {value}" if known else value)
        kept = {name: value for name, value in self.headers.items() if name.lower() not in added}
        return replace(self, headers={**kept, **dict(added.values())})

    @property
    def shown(self) -> str:
        """For messages: without the query, which may be signed."""
        return f"{self.method} {shown_url(self.url)}"


class Response(Protocol):
    """An answer whose body is still to be read. Header names are in lower case."""

    @property
    def status(self) -> int: ...

    @property
    def url(self) -> str: ...

    @property
    def is_foreign(self) -> bool:
        """Whether a redirect led to another host than the one that was asked."""
        ...

    def header(self, name: str) -> str: ...

    def headers(self, name: str) -> list[str]: ...

    async def chunk(self) -> bytes:
        """Some bytes of the body, empty at its end.

        Raises:
            UnavailableError: the connection broke, or nothing came for too long.
        """
        ...

    def native(self) -> HttpBody | None:
        """The body as it is left to be received by Rust; None when it comes another way."""
        ...

    def unread(self, data: bytes) -> None:
        """Give back the end of the last chunk; the next one begins with it."""
        ...

    async def read(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            ResourceExhaustedError: it is longer than ``limit``.
        """
        ...

    def close(self) -> None:
        """Give up the connection, or give it back when the body was read."""
        ...


async def read_whole(response: Response, request: Request, limit: int) -> bytes:
    """What :meth:`Response.read` does, for whatever gives chunks."""
    data = bytearray()
    while chunk := await response.chunk():
        data += chunk
        if len(data) > limit:
            response.close()
            raise ResourceExhaustedError(
                f"{request.shown}: the answer is longer than the {limit} bytes that are read"
            )
    return bytes(data)


def shown_url(url: str) -> str:
    """A URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what authorisation is for."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
