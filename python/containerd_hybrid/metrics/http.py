"""As much of an HTTP/1.1 server as watching a daemon takes, hard to hold up and hard to fill.

One request a connection. A request is whatever somebody sends: its head, its body, the time it may take
and the number of connections have limits. Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, TypeAlias

from containerd_hybrid.errors import HybridError, InvalidArgumentError

logger = logging.getLogger(__name__)

MAX_HEAD: Final = 8 << 10
MAX_BODY: Final = 4 << 10
MAX_CONNECTIONS: Final = 64
READ_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 30.0
_REQUEST_LINE = re.compile(r"([A-Z]+) (/[!-~]*) HTTP/1\.[0-9]")
_DIGITS = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` is without the query, whose values are as they came: of a name the last one counts."""

    method: str
    path: str
    body: bytes = b""
    query: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Response:
    """``headers`` are besides those of length, type and connection."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] | None = None


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
Routes: TypeAlias = Mapping[str, Mapping[str, Handler]]


class HttpServer:
    """Serves ``routes``, which are handlers by path and method; HEAD is answered wherever GET is.

    An InvalidArgumentError of a handler is answered as 400 with its message, any other as 500.
    """

    def __init__(
        self, routes: Routes, *, read_seconds: float = READ_SECONDS, connections: int = MAX_CONNECTIONS
    ) -> None:
        self._routes = routes
        self._read_seconds = read_seconds
        self._connections = connections
        self._running: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    async def serve(self, listener: socket.socket) -> None:
        """Answer on a listening socket, in the background; it is closed with the server."""
        self._servers.append(await asyncio.start_server(self._connected, sock=listener, limit=MAX_HEAD))

    async def drain(self, timeout: float) -> None:
        """Accept nothing new and let the answers under way end, for ``timeout`` seconds at most."""
        for server in self._servers:
            server.close()
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)

    async def close(self) -> None:
        """End everything now."""
        await self.drain(0)
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._running) >= self._connections:
            writer.transport.abort()
            return
        self._running.add(task)
        try:
            await self._answer(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # and end quietly: whoever cancelled is the server's own close
        except OSError:
            writer.transport.abort()
        finally:
            self._running.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = ""
        try:
            async with asyncio.timeout(self._read_seconds):
                request = await _read(reader)
            method = request.method
            response = await self._respond(request)
        except _BadRequest as error:
            response = _plain(error.status, error.message)
        except TimeoutError:
            response = _plain(HTTPStatus.REQUEST_TIMEOUT, "the request did not come to its end")
        except asyncio.IncompleteReadError:
            return  # the caller went away, or had nothing to ask
        writer.write(_head(response))
        if method != "HEAD":
            writer.write(response.body)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WRITE_SECONDS):
                await writer.drain()
                writer.write_eof()
                # What was sent beyond the request is read, or the kernel's reset may overtake the answer.
                while await reader.read(MAX_HEAD):
                    pass
            return
        writer.transport.abort()

    async def _respond(self, request: Request) -> Response:
        methods = self._routes.get(request.path)
        if methods is None:
            return _plain(HTTPStatus.NOT_FOUND, "there is no such page")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed}", {"Allow": allowed})
        try:
            return await handler(request)
        except InvalidArgumentError as error:
            return _plain(HTTPStatus.BAD_REQUEST, error.message)
        except HybridError as error:
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR, error.message)
        except Exception:
            logger.exception("no answer to %s %s", request.method, request.path)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error, see the daemon's log")


class _BadRequest(Exception):  # noqa: N818 (it is the caller's)
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


async def _read(reader: asyncio.StreamReader) -> Request:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the header is too large") from None
    first, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise _BadRequest(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request")
    method, target = line.groups()
    length = _body_length(rest)
    body = await reader.readexactly(length)
    path, _, asked = target.partition("?")
    query = dict(pair.partition("=")[::2] for pair in asked.split("&") if pair)
    return Request(method, path, body, query)


def _body_length(lines: list[str]) -> int:
    lengths = set()
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip():
            raise _BadRequest(HTTPStatus.BAD_REQUEST, "a header line is malformed")
        if name == "transfer-encoding":
            raise _BadRequest(HTTPStatus.NOT_IMPLEMENTED, "send a Content-Length instead of chunks")
        if name == "content-length":
            lengths.add(value.strip())
    if not lengths:
        return 0
    text = lengths.pop()
    if lengths or not _DIGITS.fullmatch(text):
        raise _BadRequest(HTTPStatus.BAD_REQUEST, "the Content-Length is malformed")
    if int(text) > MAX_BODY:
        raise _BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
    return int(text)


def _plain(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(f"{status.value} {status.phrase}: {text}\n".encode(), status, headers=headers)


def _head(response: Response) -> bytes:
    headers = {
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        "Connection": "close",
        **(response.headers or {}),
    }
    status = response.status
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{key}: {value}" for key, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
