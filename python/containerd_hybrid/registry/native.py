"""Requests over Rust's connections: large bodies never get into Python, and no HTTP library is imported.

What only the other transport does is left to it: uploads, an encrypted proxy, and whatever its TLS library
may accept that this one does not (so that certificates are judged, and errors told, in one place).
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from pathlib import Path
from urllib.parse import unquote, urlsplit

from containerd_hybrid._native import CancelToken, HttpBody, HttpClient, TlsSettings
from containerd_hybrid.errors import FailedPreconditionError, UnavailableError
from containerd_hybrid.registry import endpoint
from containerd_hybrid.registry.http import Request, read_whole
from containerd_hybrid.registry.proxies import proxy_for
from containerd_hybrid.registry.tls import Signature, signature_of
from containerd_hybrid.workers import in_own_thread

_CHUNK = 256 << 10
_KEPT = 64


class NativeTransport:
    """Connections that Rust reads from. The arguments are those of ``TransportSettings``."""

    def __init__(self, idle_seconds: float, slow_seconds: float, slow_bytes: int) -> None:
        self._client = HttpClient()
        self._limits = (idle_seconds, slow_seconds, slow_bytes)
        self._tls: dict[Signature, TlsSettings | None] = {}
        self._turn = asyncio.Lock()

    async def open(
        self, request: Request, tls: endpoint.TlsSettings, dial_seconds: float, *, is_foreign: bool
    ) -> NativeResponse | None:
        """The answer, whatever its status; None for what the other transport has to do.

        Raises:
            UnavailableError: the host cannot be reached, or broke off.
        """
        if request.upload is not None or not request.repeatable:
            return None
        try:
            parts = urlsplit(request.url)
            given_port = parts.port
        except ValueError:
            return None
        proxy = proxy_for(request.url)
        is_odd = "@" in parts.netloc or not request.url.isascii() or not request.url.isprintable()
        is_odd = is_odd or parts.scheme not in {"http", "https"}
        if is_odd or not parts.hostname or (proxy and not proxy.startswith("http://")):
            return None
        settings = None
        if parts.scheme == "https":
            settings = await self._settings(tls)
            if settings is None:
                return None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [("Host", parts.netloc), *request.headers.items()]
        through = None
        if proxy is not None:
            through = _proxy(proxy)
            if parts.scheme == "http":
                target = f"http://{parts.netloc}{target}"
                headers += [("Proxy-Authorization", through[2])] if through[2] else []
        idle, slow, slow_bytes = self._limits
        cancel = CancelToken()
        host, port = parts.hostname, given_port or (443 if parts.scheme == "https" else 80)
        try:
            body = await in_own_thread(
                lambda: self._client.request(
                    request.method,
                    host,
                    port,
                    target,
                    headers,
                    body=request.body,
                    tls=settings,
                    proxy=through,
                    dial=dial_seconds,
                    idle=idle,
                    slow=slow,
                    slow_bytes=slow_bytes,
                    cancel=cancel,
                ),
                cancel.cancel,
            )
        except FailedPreconditionError:
            return None
        except UnavailableError as error:
            raise UnavailableError(f"{request.shown}: {error.message}") from None
        return NativeResponse(body, request, is_foreign=is_foreign)

    def close(self) -> None:
        self._client.close()

    async def _settings(self, tls: endpoint.TlsSettings) -> TlsSettings | None:
        async with self._turn:
            signature = await asyncio.to_thread(signature_of, tls)
            if signature not in self._tls:
                while len(self._tls) >= _KEPT:
                    del self._tls[next(iter(self._tls))]
                self._tls[signature] = await asyncio.to_thread(_read, tls)
            return self._tls[signature]


class NativeResponse:
    """Implements :class:`containerd_hybrid.registry.http.Response`."""

    def __init__(self, body: HttpBody, request: Request, *, is_foreign: bool) -> None:
        self._body = body
        self._request = request
        self._unread = b""
        self._headers = [(name.lower(), value) for name, value in body.headers]
        self.status = body.status
        self.url = request.url
        self.is_foreign = is_foreign

    def header(self, name: str) -> str:
        return next(iter(self.headers(name)), "")

    def headers(self, name: str) -> list[str]:
        wanted = name.lower()
        return [value for key, value in self._headers if key == wanted]

    def native(self) -> HttpBody | None:
        return None if self._unread else self._body

    async def chunk(self) -> bytes:
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            return await in_own_thread(lambda: self._body.read(_CHUNK), self._body.close)
        except UnavailableError as error:
            self.close()
            raise UnavailableError(f"{self._request.shown}: {error.message}") from None

    def unread(self, data: bytes) -> None:
        self._unread = data

    async def read(self, limit: int) -> bytes:
        return await read_whole(self, self._request, limit)

    def close(self) -> None:
        self._body.close()


def _proxy(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    authorisation = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorisation = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return parts.hostname or "", parts.port or 80, authorisation


def _read(tls: endpoint.TlsSettings) -> TlsSettings | None:
    """None for files that cannot be used here; who can say it better reads them too."""
    try:
        authorities = [] if tls.skip_verify else [*_system_authorities(), *(f.read_bytes() for f in tls.ca)]
        client = None
        if tls.client:
            certificate, key = tls.client[-1]
            client = certificate.read_bytes(), (key or certificate).read_bytes()
        return TlsSettings(authorities, client, verify=not tls.skip_verify)
    except (OSError, FailedPreconditionError):
        return None


def _system_authorities() -> list[bytes]:
    """What OpenSSL trusts by default, where SSL_CERT_FILE and SSL_CERT_DIR or the system say it is."""
    paths = ssl.get_default_verify_paths()
    files = [Path(paths.cafile)] if paths.cafile else []
    if paths.capath:
        # Names of a hash and a number; what else lies there is not looked at by OpenSSL either.
        files += [file for file in Path(paths.capath).iterdir() if file.suffix[1:].isdecimal()]
    return [file.read_bytes() for file in files]
