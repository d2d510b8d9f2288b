"""HTTP/1.1: connections, redirects, proxies, time limits. No authorisation, no retries.

Requests go over Rust's connections (:mod:`containerd_hybrid.registry.native`). What it leaves goes over
aiohttp, which is imported when it is first needed, off the event loop: it takes a tenth of a second and
some 15 MiB, which a daemon that only pulls never spends.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from containerd_hybrid._native import HttpBody
from containerd_hybrid.errors import (
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.registry.endpoint import Endpoint, split_port
from containerd_hybrid.registry.http import Request, Response, origin, read_whole, shown_url
from containerd_hybrid.registry.native import NativeTransport
from containerd_hybrid.registry.proxies import proxy_for
from containerd_hybrid.registry.tls import TlsContexts

if TYPE_CHECKING:
    import aiohttp

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEPS_METHOD = frozenset({307, 308})
# What may follow a redirect to another host; all else may say who we are.
_HARMLESS_HEADERS = frozenset({"accept", "accept-encoding", "range", "user-agent", "content-type"})
_BUFFER = 256 << 10
# How long a host that spoke no TLS is not asked for it again.
_PLAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Limits. ``idle_seconds``: how long an answer, or the next bytes of one, may take.

    A body that brings less than ``slow_bytes`` in ``slow_seconds`` counts as stalled.
    """

    idle_seconds: float = 60.0
    slow_seconds: float = 60.0
    slow_bytes: int = 1024
    redirects: int = 10
    user_agent: str = "containerd-hybrid"


class Transport:
    """One pool of connections for all hosts."""

    def __init__(self, settings: TransportSettings) -> None:
        self.settings = settings
        self._tls = TlsContexts()
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._plain: dict[str, float] = {}
        self._native = NativeTransport(settings.idle_seconds, settings.slow_seconds, settings.slow_bytes)

    async def open(self, endpoint: Endpoint, request: Request) -> Response:
        """Send a request, follow redirects, and give the answer whose body is not read yet.

        Raises:
            UnavailableError: the host cannot be reached, or broke off.
            FailedPreconditionError: the host's certificate is not trusted.
            UnknownError: too many redirects, or one that leads nowhere.
        """
        bare = replace(request, headers={"User-Agent": self.settings.user_agent})
        current = bare.with_headers(endpoint.headers).with_headers(request.headers.items())
        for _ in range(self.settings.redirects + 1):
            is_foreign = urlsplit(current.url).netloc != urlsplit(request.url).netloc
            answer = await self._send(endpoint, current, is_foreign=is_foreign)
            target = answer.header("Location")
            if answer.status not in _REDIRECTS or not target:
                return answer
            answer.close()
            current = _redirected(replace(current, url=answer.url), answer.status, target)
        raise UnknownError(f"{request.shown}: gave up after {self.settings.redirects} redirects")

    async def close(self) -> None:
        self._native.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _opened(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                library = await asyncio.to_thread(importlib.import_module, "aiohttp")
                # Without a limit here: how much goes on at once is for the transfers to say.
                connector = library.TCPConnector(limit=0, ttl_dns_cache=10)
                self._session = library.ClientSession(
                    connector=connector,
                    auto_decompress=False,
                    cookie_jar=library.DummyCookieJar(),
                    read_bufsize=_BUFFER,
                    requote_redirect_url=False,
                    trust_env=False,
                )
            return self._session

    async def _send(self, endpoint: Endpoint, request: Request, *, is_foreign: bool) -> Response:
        plain_url = request.url.replace("https://", "http://", 1)
        may_be_plain = endpoint.plain_fallback and not is_foreign
        now = asyncio.get_running_loop().time()
        if may_be_plain and self._plain.get(endpoint.host, 0.0) > now:
            return await self._exchange(endpoint, replace(request, url=plain_url), is_foreign)
        try:
            return await self._exchange(endpoint, request, is_foreign)
        except _NotTlsError:
            if not may_be_plain or not request.url.startswith("https:"):
                raise
        answer = await self._exchange(endpoint, replace(request, url=plain_url), is_foreign)
        self._plain[endpoint.host] = now + _PLAIN_SECONDS
        return answer

    async def _exchange(self, endpoint: Endpoint, request: Request, is_foreign: bool) -> Response:
        # Client certificates and skip_verify are for the host they are configured for.
        tls = replace(endpoint.tls, client=(), skip_verify=None) if is_foreign else endpoint.tls
        native = await self._native.open(request, tls, endpoint.dial_seconds, is_foreign=is_foreign)
        if native is not None:
            return native
        session = await self._opened()
        import aiohttp
        from yarl import URL

        try:
            url = URL(request.url, encoded=True)
            if not url.host or url.scheme not in {"http", "https"}:
                raise ValueError(url.scheme)
        except ValueError:
            raise UnknownError(f"{endpoint.host} names a place that is no URL of http or https") from None
        context: Any = True
        if url.scheme == "https":
            context = await self._tls.get(tls)
        data = request.upload() if request.upload is not None else request.body
        headers = dict(request.headers)
        if request.upload is not None:
            headers["Content-Length"] = str(request.length)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=endpoint.dial_seconds, sock_read=self.settings.idle_seconds
        )
        try:
            answer = await session.request(
                request.method,
                url,
                headers=headers,
                data=data,
                ssl=context,
                proxy=proxy_for(request.url),
                timeout=timeout,
                allow_redirects=False,
                skip_auto_headers=("Content-Type", "Accept-Encoding"),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            raise _unreachable(request, error) from None
        except ValueError:
            # Of all that is in a request only headers can be what HTTP has no room for; they may be secret.
            raise InvalidArgumentError(f"{request.shown}: a header has a line break or a null byte") from None
        return _Response(answer, request, is_foreign, self.settings)


class _NotTlsError(UnavailableError):
    """The host does not speak TLS on this port."""


class _Response:
    """Implements :class:`containerd_hybrid.registry.http.Response`."""

    def __init__(
        self, answer: aiohttp.ClientResponse, request: Request, is_foreign: bool, settings: TransportSettings
    ) -> None:
        self._answer = answer
        self._request = request
        self._settings = settings
        self._received = 0
        self._unread = b""
        self._window = (asyncio.get_running_loop().time(), 0)
        self.status = answer.status
        self.url = str(answer.url)
        self.is_foreign = is_foreign

    def header(self, name: str) -> str:
        return str(self._answer.headers.get(name, ""))

    def headers(self, name: str) -> list[str]:
        return [str(value) for value in self._answer.headers.getall(name, [])]

    async def chunk(self) -> bytes:
        import aiohttp

        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            data = await self._answer.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.close()
            raise _unreachable(self._request, error) from None
        self._received += len(data)
        self._check_speed()
        return data

    def native(self) -> HttpBody | None:
        return None

    def unread(self, data: bytes) -> None:
        self._unread = data

    def _check_speed(self) -> None:
        now = asyncio.get_running_loop().time()
        began, received = self._window
        if now - began < self._settings.slow_seconds:
            return
        if self._received - received < self._settings.slow_bytes:
            self.close()
            raise UnavailableError(f"{self._request.shown}: the host sends too slowly: try again later")
        self._window = (now, self._received)

    async def read(self, limit: int) -> bytes:
        return await read_whole(self, self._request, limit)

    def close(self) -> None:
        # Gives an exhausted connection back to the pool, and ends one that still has bytes to come.
        if self._answer.content.at_eof():
            self._answer.release()
        else:
            self._answer.close()


def _redirected(request: Request, status: int, target: str) -> Request:
    try:
        url = urljoin(request.url, target)
        is_same = origin(url) == origin(request.url)
    except ValueError:
        raise UnknownError(f"{request.shown}: redirected to a place that is no URL") from None
    headers: Mapping[str, str] = request.headers
    if not is_same:
        headers = {name: value for name, value in headers.items() if name.lower() in _HARMLESS_HEADERS}
    if status in _KEEPS_METHOD or request.method in {"GET", "HEAD"}:
        return replace(request, url=url, headers=headers)
    return Request("GET", url, {k: v for k, v in headers.items() if k.lower() != "content-type"})


def _unreachable(request: Request, error: Exception) -> HybridError:
    """What went wrong, without what may be secret: the library's own messages can hold a proxy's URL."""
    import aiohttp

    shown = request.shown
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or "it does not fit the host"
        return FailedPreconditionError(
            f"{shown}: the host's certificate is not trusted: {reason}: name its CA in hosts.toml (ca)"
        )
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(error, aiohttp.ClientConnectorSSLError) or isinstance(cause, ssl.SSLError):
        reason = getattr(cause, "reason", None) or "handshake failed"
        return _NotTlsError(f"{shown}: no TLS connection: {reason}: is it a plain HTTP host?")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return UnavailableError(f"{shown}: the proxy refused with status {error.status}")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return UnavailableError(f"{shown}: the proxy cannot be reached: {_reason(cause)}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        name = split_port(urlsplit(request.url).netloc)[0]
        return UnavailableError(f"{shown}: the name {name} has no address: check it and the DNS")
    if isinstance(error, TimeoutError):
        return UnavailableError(f"{shown}: no answer in time: try again later")
    if isinstance(error, aiohttp.InvalidURL):
        return InvalidArgumentError(f"invalid URL {shown_url(request.url)}")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return UnavailableError(f"{shown}: the host broke off the connection")
    return UnavailableError(f"{shown}: {_reason(cause)}")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"the connection failed ({type(error).__name__})"


__all__ = ["Transport", "TransportSettings", "shown_url"]
