"""A registry as a test needs one: Debian's docker-registry behind TLS and tokens, and a proxy before it.

All of it listens on 127.0.0.1. ``Authority`` makes certificates by openssl; ``FakeTokenServer`` gives the
tokens that the registry believes; ``FaultProxy`` stands before the registry and does to an answer what a
test asks for.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from containerd_hybrid.testing.processes import listening_ports
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

HOST = "127.0.0.1"


def need_programs(*names: str) -> None:
    """Skip the test where one is not installed."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


class Authority:
    """A certificate authority of the test's own; ``server`` is for 127.0.0.1, ``client`` names a client."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"
        subject = ["-subj", "/CN=test authority", "-addext", "basicConstraints=critical,CA:TRUE"]
        key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(self._key)]
        _openssl("req", "-x509", *key, "-out", str(self.certificate), "-days", "2", *subject)
        self.server = self._issue("server", f"subjectAltName=IP:{HOST},DNS:localhost,DNS:registry.test")
        self.client = self._issue("client", "extendedKeyUsage=clientAuth")

    def _issue(self, name: str, extension: str) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        request, options = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        options.write_text(extension + "\n")
        _openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key)),
            *("-out", str(request), "-subj", f"/CN={name}"),
        )
        _openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key)),
            *("-CAcreateserial", "-days", "2", "-extfile", str(options), "-out", str(certificate)),
        )
        return certificate, key

    def sign(self, data: bytes) -> bytes:
        """RS256 by the server's key."""
        command = ["openssl", "dgst", "-sha256", "-sign", str(self.server[1])]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    def server_context(self, *, verify_clients: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.server)
        if verify_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.certificate)
        return context


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class ThreadedServer:
    """An aiohttp application in a thread and event loop of its own, as another machine's would be."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://{self.address}"

    def routes(self, application: web.Application) -> None:
        raise NotImplementedError

    async def closing(self) -> None:
        """What else has to end."""

    def __enter__(self) -> Any:
        self._thread.start()
        assert self._started.wait(GIVE_UP_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(GIVE_UP_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        # Handlers that stall because a test wanted them to.
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        application = web.Application(client_max_size=1 << 30)
        self.routes(application)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await runner.setup()
        with socket.socket() as listening:
            listening.bind((HOST, 0))
            self.port = listening.getsockname()[1]
            await web.SockSite(runner, listening, ssl_context=self._context).start()
            self._started.set()
            await self._stopping.wait()
            await self.closing()
            await runner.cleanup()


@dataclass
class TokenRequest:
    """What the token server was asked."""

    method: str
    user: str
    scopes: tuple[str, ...]


class FakeTokenServer(ThreadedServer):
    """Gives bearer tokens to ``users`` and, if ``anonymous``, to everybody for pulling.

    ``expires_in`` is told and kept. With ``refuse_oauth`` the POST of OAuth2 is not offered, as most
    token servers have it. ``refresh_tokens`` are taken instead of a password.
    """

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority.server_context())
        self._authority = authority
        self.users: dict[str, str] = {"user": "secret-of-user"}
        self.refresh_tokens: dict[str, str] = {"refresh-token-of-user": "user"}
        self.anonymous = False
        self.refuse_oauth = False
        self.expires_in = 300
        self.asked: list[TokenRequest] = []

    def routes(self, application: web.Application) -> None:
        application.router.add_get("/token", self._get)
        application.router.add_post("/token", self._post)

    async def _get(self, request: web.Request) -> web.Response:
        user = ""
        header = request.headers.get("Authorization", "")
        if header.startswith("Basic "):
            name, _, secret = base64.b64decode(header[6:]).decode().partition(":")
            if self.users.get(name) != secret:
                return web.json_response({"details": "wrong password"}, status=401)
            user = name
        return await self._answer("GET", user, tuple(request.query.getall("scope", [])))

    async def _post(self, request: web.Request) -> web.Response:
        if self.refuse_oauth:
            return web.Response(status=405)
        form = await request.post()
        if form["grant_type"] == "refresh_token":
            user = self.refresh_tokens.get(str(form["refresh_token"]), "")
        else:
            user = str(form["username"])
            if self.users.get(user) != form["password"]:
                user = ""
        if not user:
            return web.json_response({"error": "invalid_grant"}, status=401)
        return await self._answer("POST", user, tuple(str(form.get("scope", "")).split()))

    async def _answer(self, method: str, user: str, scopes: tuple[str, ...]) -> web.Response:
        self.asked.append(TokenRequest(method, user, scopes))
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = actions.split(",") if user else ["pull"] if self.anonymous else []
            access.append({"type": kind, "name": name, "actions": allowed})
        token = await asyncio.to_thread(self._token, user, access)
        answer = {"token": token, "access_token": token, "expires_in": self.expires_in}
        return web.json_response(answer)

    def _token(self, user: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        certificate = ssl.PEM_cert_to_DER_cert(self._authority.server[0].read_text())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(certificate).decode()]}
        # The registry allows a minute of difference between clocks, which would hide an end.
        claims = {
            "iss": "tests",
            "sub": user,
            "aud": "registry",
            "exp": now + self.expires_in,
            "nbf": now - 60,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        return (signed + b"." + _base64url(self._authority.sign(signed))).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class RegistryProcess:
    """Debian's docker-registry; ``tokens`` guards it. Without an authority it speaks plain HTTP."""

    def __init__(
        self, folder: Path, authority: Authority | None, tokens: FakeTokenServer | None = None
    ) -> None:
        folder.mkdir()
        self.port = 0
        self.data = folder / "data"
        self._log = folder / "registry.log"
        lines = [
            "version: 0.1",
            "log: { level: info, accesslog: { disabled: false } }",
            "storage:",
            f"  filesystem: {{ rootdirectory: {self.data} }}",
            "  delete: { enabled: true }",
            "http:",
            f"  addr: {HOST}:0",
            "  relativeurls: true",
        ]
        if authority is not None:
            certificate, key = authority.server
            lines += [f"  tls: {{ certificate: {certificate}, key: {key} }}"]
        if authority is not None and tokens is not None:
            lines += [
                "auth:",
                "  token:",
                f"    realm: {tokens.url}/token",
                "    service: registry",
                "    issuer: tests",
                f"    rootcertbundle: {authority.certificate}",
            ]
        self._config = folder / "config.yml"
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self._config)], stdout=log, stderr=log
            )
        try:
            (self.port,) = until(self._ports, lambda: f"a registry that listens:\n{self.log}")
        except AssertionError:
            self.__exit__()
            raise
        return self

    def _ports(self) -> set[int]:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return listening_ports(self._process.pid)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(GIVE_UP_SECONDS)


@dataclass
class Fault:
    """What to do to the first ``times`` requests whose method and path match.

    ``status`` answers instead of the registry; else its answer is changed: ``cut_after`` bytes the
    connection ends, ``flip`` changes the byte there, ``drop`` leaves out that many bytes of the end
    and says so in the length, ``slow`` waits between pieces, ``stall_after`` sends no more then.
    ``range`` is for requests of these bytes alone.
    """

    path: str
    method: str = "GET"
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    flip: int | None = None
    drop: int = 0
    slow: float = 0.0
    stall_after: int | None = None
    strip: tuple[str, ...] = ()
    cut_request_after: int | None = None
    range: str = ""
    seen: int = 0

    def matches(self, request: web.Request) -> bool:
        return (
            self.seen < self.times
            and request.method == self.method
            and re.search(self.path, request.path) is not None
            and self.range in ("", request.headers.get("Range"))
        )

    def changed(self, piece: bytes, sent: int) -> bytes:
        """What goes out instead of a piece of the body."""
        data = bytearray(piece)
        if self.flip is not None and sent <= self.flip < sent + len(data):
            data[self.flip - sent] ^= 0xFF
        limits = [limit for limit in (self.cut_after, self.stall_after) if limit is not None]
        return bytes(data[: max(0, min(limits) - sent)] if limits else data)

    async def after(self, sent: int) -> None:
        """What happens once so many bytes of the body are out."""
        if self.cut_after is not None and sent >= self.cut_after:
            await asyncio.sleep(0.05)  # so that what was written arrives
            raise _CutError
        if self.stall_after is not None and sent >= self.stall_after:
            await asyncio.sleep(3600)
        await asyncio.sleep(self.slow)


@dataclass
class Seen:
    """A request that came to the proxy."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


class FaultProxy(ThreadedServer):
    """Stands before ``upstream`` (``host:port``, TLS)."""

    def __init__(self, authority: Authority, upstream: str, *, verify_clients: bool = False) -> None:
        super().__init__(authority.server_context(verify_clients=verify_clients))
        self._upstream = upstream
        self._client: aiohttp.ClientSession | None = None
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []

    def count(self, method: str, path: str) -> int:
        return sum(1 for seen in self.seen if seen.method == method and re.search(path, seen.path))

    def routes(self, application: web.Application) -> None:
        application.router.add_route("*", "/{path:.*}", self._handle)

    async def closing(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(Seen(request.method, request.path, request.query_string, dict(request.headers)))
        fault = next((f for f in self.faults if f.matches(request)), None)
        if fault is not None:
            fault.seen += 1
            if fault.status:
                return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
        return await self._forward(request, fault or Fault("", times=0))

    async def _forward(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=False, limit=0), auto_decompress=False
            )
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {"host", "connection"}}
        body = _cut(request, fault.cut_request_after) if request.can_read_body else None
        try:
            async with self._client.request(
                request.method,
                f"https://{self._upstream}{request.raw_path}",
                headers=headers,
                data=body,
                allow_redirects=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
            ) as answer:
                return await self._answer(request, answer, fault)
        except (_CutError, aiohttp.ClientError):
            assert request.transport is not None
            request.transport.abort()
            raise

    async def _answer(
        self, request: web.Request, answer: aiohttp.ClientResponse, fault: Fault
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in {"connection", "keep-alive", "transfer-encoding", *fault.strip}:
                response.headers.add(name, value)
        length = answer.headers.get("Content-Length")
        if request.method == "HEAD" or length is None:
            if length is None:
                response.enable_chunked_encoding()
            await response.prepare(request)
            if request.method != "HEAD":
                await response.write(await answer.read())
            await response.write_eof()
            return response
        size = int(length) - fault.drop
        response.headers["Content-Length"] = str(size)
        await response.prepare(request)
        sent = 0
        async for piece in answer.content.iter_chunked(16 << 10):
            data = fault.changed(piece[: size - sent], sent)
            if data:
                await response.write(data)
            sent += len(data)
            await fault.after(sent)
        await response.write_eof()
        return response


class _CutError(Exception):
    """The test wants the connection to end."""


async def _cut(request: web.Request, after: int | None) -> AsyncIterator[bytes]:
    passed = 0
    async for piece in request.content.iter_chunked(16 << 10):
        if after is not None and passed + len(piece) > after:
            yield piece[: after - passed]
            raise _CutError
        passed += len(piece)
        yield piece


@asynccontextmanager
async def connect_proxy(asked: list[str]) -> AsyncIterator[str]:
    """An HTTP proxy for CONNECT, which knows every name as 127.0.0.1; the address it listens on."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        port = asked[-1].split()[1].rpartition(":")[2]
        far_reader, far_writer = await asyncio.open_connection(HOST, int(port))
        writer.write(b"HTTP/1.1 200 connected\r\n\r\n")
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        far_writer.close()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"


@dataclass
class RegistryWorld:
    """A registry with tokens, the proxy before it, and a hosts folder that knows the authority."""

    folder: Path
    authority: Authority
    tokens: FakeTokenServer
    registry: RegistryProcess
    proxy: FaultProxy

    @property
    def hosts_dir(self) -> str:
        return str(self.folder / "hosts")

    def write_hosts(self, registry: str, text: str) -> None:
        place = self.folder / "hosts" / registry
        place.mkdir(parents=True, exist_ok=True)
        (place / "hosts.toml").write_text(text)

    def skopeo(self, *arguments: str) -> str:
        """skopeo with the authority's certificate and the user's password."""
        certificates = self.folder / "certs"
        certificates.mkdir(exist_ok=True)
        shutil.copy(self.authority.certificate, certificates / "ca.crt")
        command, *rest = arguments
        prefix = {"copy": ("src-", "dest-")}.get(command, ("",))
        options = []
        for place, end in zip(rest[-2:] if command == "copy" else rest[-1:], prefix, strict=False):
            if place.startswith("docker://"):
                options += [f"--{end}cert-dir={certificates}", f"--{end}creds=user:secret-of-user"]
        done = subprocess.run(
            ["skopeo", "--insecure-policy", command, *options, *rest],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def registry_world(folder: Path) -> Iterator[RegistryWorld]:
    need_programs("docker-registry", "openssl", "skopeo")
    folder.mkdir(exist_ok=True)
    authority = Authority(folder / "authority")
    with (
        FakeTokenServer(authority) as tokens,
        RegistryProcess(folder / "registry", authority, tokens) as registry,
        FaultProxy(authority, registry.address) as proxy,
    ):
        world = RegistryWorld(folder, authority, tokens, registry, proxy)
        for address in (registry.address, proxy.address):
            world.write_hosts(address, f'server = "https://{address}"\nca = "{authority.certificate}"\n')
        yield world
