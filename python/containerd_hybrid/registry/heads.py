"""HTTP messages as a person debugs them: their heads, without what is secret."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from containerd_hybrid.registry.http import Request, Response, shown_url

_TOLD = (
    *("Content-Length", "Content-Range", "Content-Type", "Date", "Docker-Content-Digest"),
    *("Docker-Distribution-Api-Version", "Docker-Upload-Uuid", "Etag", "Link", "Location"),
    *("Oci-Filters-Applied", "Oci-Subject", "Range", "Ratelimit-Limit", "Ratelimit-Remaining"),
    *("Retry-After", "Server", "Warning", "Www-Authenticate"),
)
_HIDDEN = "<hidden>"
# Signed, or the key to an upload that goes on.
_URLS = {"location", "link"}


def request_head(request: Request) -> str:
    """The request line and the headers, each with its CRLF, and an empty line."""
    parts = urlsplit(request.url)
    lines = [f"{request.method} {parts.path or '/'} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
    lines += [f"{name}: {_header(name, value)}" for name, value in request.headers.items()]
    if request.body is not None or request.upload is not None:
        lines.append(f"Content-Length: {request.length if request.body is None else len(request.body)}")
    return _head(lines)


def response_head(response: Response) -> str:
    """The status line and those headers that say something about the exchange."""
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {response.status} {phrase}".rstrip()]
    for name in _TOLD:
        lines += [f"{name}: {_header(name, value)}" for value in response.headers(name)]
    return _head(lines)


def _header(name: str, value: str) -> str:
    lower = name.lower()
    if lower in _URLS:
        return shown_url(value) if "://" in value else value.partition("?")[0]
    if lower == "authorization":
        return f"{value.partition(' ')[0]} {_HIDDEN}"
    # Headers of the configuration may hold keys under any name.
    secret = ("cookie", "token", "secret", "key", "auth")
    return _HIDDEN if lower != "www-authenticate" and any(mark in lower for mark in secret) else value


def _head(lines: list[str]) -> str:
    printable = ("".join(mark if mark.isprintable() else " " for mark in line) for line in lines)
    return "\r\n".join([*printable, "", ""])
