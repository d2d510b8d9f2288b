"""Redirects, authorisation midway, what is sent to whom, and hosts that do not end."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import web
from tests.unit.registry.fake_host import FakeHost, fake_host, reference, registry_client, repository

from containerd_hybrid.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidConfigError,
    UnauthenticatedError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.model import Descriptor, Digest, Reference
from containerd_hybrid.registry.api import Credential, RegistryOptions
from containerd_hybrid.registry.client import HttpRegistryClient
from containerd_hybrid.registry.endpoint import Endpoint, TlsSettings
from containerd_hybrid.registry.http import Request
from containerd_hybrid.registry.transport import Transport, TransportSettings

pytestmark = pytest.mark.usefixtures("carrier")

DATA = bytes(range(256)) * 64
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))
PATH = f"/v2/team/app/blobs/{BLOB.digest}"


class Known:
    async def get(self, host: str, reference: str) -> Credential | None:
        return Credential("u", "hidden")


def options(**more: object) -> RegistryOptions:
    return RegistryOptions(
        default_scheme="http",
        headers={"X-Mine": "yes"},
        credentials=Known(),
        **more,  # type: ignore[arg-type]
    )


async def test_another_host_is_not_told_who_we_are(host: FakeHost, client: HttpRegistryClient) -> None:
    async with fake_host() as other:
        host.answer("GET", PATH, status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        host.answer("GET", PATH, status=307, headers={"Location": f"http://{other.address}/signed?s=1%2B2"})
        other.answer("GET", "/signed", body=DATA)
        assert await repository(client, host, options()).read(BLOB) == DATA
        assert host.asked[1].headers["Authorization"].startswith("Basic ")
        assert host.asked[1].headers["X-Mine"] == "yes"
        (asked,) = other.asked
        assert "Authorization" not in asked.headers
        assert "X-Mine" not in asked.headers
        assert asked.query == {"s": "1+2"}, "what is signed is not written anew"


async def test_the_same_host_is_still_told(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    host.answer("GET", PATH, status=302, headers={"Location": "../elsewhere"})
    host.answer("GET", "/v2/team/app/elsewhere", body=DATA)
    assert await repository(client, host, options()).read(BLOB) == DATA
    assert "Authorization" in host.of("GET", "elsewhere")[0].headers


async def test_another_hosts_401_gets_no_password(host: FakeHost, client: HttpRegistryClient) -> None:
    async with fake_host() as other:
        host.answer("GET", PATH, status=307, headers={"Location": f"http://{other.address}/x"})
        other.answer("GET", "/x", status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        with pytest.raises(UnauthenticatedError):
            await repository(client, host, options()).read(BLOB)
        assert all("Authorization" not in asked.headers for asked in (*host.asked, *other.asked))


async def test_a_header_that_is_none_is_refused_without_being_shown(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    bad = RegistryOptions(default_scheme="http", headers={"X-Mine": "hidden\r\nX-Other: 1"})
    with pytest.raises(InvalidArgumentError, match="header") as caught:
        await repository(client, host, bad).read(BLOB)
    assert "hidden" not in caught.value.message
    assert host.asked == []


async def test_a_scheme_that_we_do_not_have_is_named(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, status=401, headers={"WWW-Authenticate": "Negotiate"})
    with pytest.raises(UnauthenticatedError, match="negotiate"):
        await repository(client, host, options()).read(BLOB)


async def test_redirects_end(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, status=307, headers={"Location": PATH})
    with pytest.raises(UnknownError, match="10 redirects"):
        await repository(client, host).read(BLOB)
    assert len(host.asked) == 11


@pytest.mark.parametrize("target", ["ftp://h.example/x", "http://", "file:///etc/passwd", "http://[x/"])
async def test_a_redirect_to_nowhere(host: FakeHost, client: HttpRegistryClient, target: str) -> None:
    host.answer("GET", PATH, status=307, headers={"Location": target})
    with pytest.raises(UnknownError):
        await repository(client, host).read(BLOB)


async def test_a_token_that_ends_midway_is_replaced_once(host: FakeHost, client: HttpRegistryClient) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{host.address}/token",service="s"'}
    tokens = iter(["one", "two", "three"])

    async def token(_: web.Request) -> web.Response:
        return web.json_response({"token": next(tokens), "expires_in": 300})

    async def guarded(request: web.Request) -> web.Response:
        wanted = "Bearer two" if len(host.of("GET", "blobs")) > 2 else "Bearer one"
        if request.headers.get("Authorization") != wanted:
            return web.Response(status=401, headers=challenge)
        return web.Response(body=DATA)

    host.answer("POST", "/token", handler=token)
    host.answer("GET", PATH, handler=guarded)
    target = repository(client, host, options())
    assert await target.read(BLOB) == DATA
    assert await target.read(BLOB) == DATA
    assert [asked.headers.get("Authorization") for asked in host.of("GET", "blobs")] == [
        None,
        "Bearer one",
        "Bearer one",
        "Bearer two",
    ]
    assert host.asked[1].body.count(b"scope=repository%3Ateam%2Fapp%3Apull") == 1


async def test_a_token_that_is_never_liked_ends_in_an_error(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{host.address}/token",error="insufficient_scope"'}
    body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "not for you"}]}).encode()
    host.answer("GET", PATH, status=401, body=body, headers=challenge)
    host.answer("POST", "/token", body=b'{"token":"hidden-token"}')
    with pytest.raises(UnauthenticatedError, match="not for you") as caught:
        await repository(client, host, options()).read(BLOB)
    assert "hidden" not in caught.value.message
    assert len(host.of("GET", "blobs")) == 2


async def test_a_token_server_that_is_not_well_is_asked_again(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{host.address}/token"'}
    host.answer("GET", PATH, status=401, headers=challenge)
    host.answer("GET", PATH, body=DATA)
    host.answer("POST", "/token", status=503)
    host.answer("POST", "/token", body=b'{"token":"T"}')
    assert await repository(client, host, options()).read(BLOB) == DATA
    assert len(host.of("POST", "/token")) == 2
    assert len(host.slept) == 1


async def test_a_host_that_says_nothing(host: FakeHost) -> None:
    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    host.answer("HEAD", "/v2/team/app/manifests/1", handler=silent)
    async with registry_client(host, transport=TransportSettings(idle_seconds=0.05)) as client:
        with pytest.raises(UnavailableError, match="no answer in time"):
            await repository(client, host).resolve(reference(host))
    assert len(host.slept) == 4
    # One whose time is over before it is sent does not come here.
    assert 1 <= len(host.asked) <= 5


async def test_a_host_that_drips(host: FakeHost) -> None:
    async def drips(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(DATA)
        await response.prepare(request)
        for byte in DATA:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.02)
        return response

    host.answer("GET", PATH, handler=drips)
    settings = TransportSettings(slow_seconds=0.1, slow_bytes=1000)
    async with registry_client(host, transport=settings) as client:
        with pytest.raises(UnavailableError, match="too slowly"):
            await repository(client, host).read(BLOB)


async def test_connections_are_used_again(host: FakeHost, client: HttpRegistryClient) -> None:
    ports = set()

    async def remember(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername"))
        return web.Response(body=DATA)

    host.answer("GET", PATH, handler=remember)
    target = repository(client, host)
    for _ in range(3):
        await target.read(BLOB)
    assert len(ports) == 1


async def test_a_port_of_this_machine_that_speaks_no_tls(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, body=DATA)
    target = repository(client, host, RegistryOptions())
    assert await target.read(BLOB) == DATA
    assert await target.read(BLOB) == DATA


async def test_a_proxy_of_the_environment(
    host: FakeHost, client: HttpRegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "NO_PROXY", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://user:pass@{host.address}")
    host.answer("GET", PATH, body=DATA)
    target = client.repository(
        Reference.parse("far.example/team/app:1"), RegistryOptions(default_scheme="http")
    )
    assert await target.read(BLOB) == DATA
    (asked,) = host.asked
    assert asked.headers["Host"] == "far.example"
    assert asked.headers["Proxy-Authorization"].startswith("Basic ")


def certificate(folder: Path) -> tuple[Path, Path]:
    files = folder / "host.crt", folder / "host.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=h"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])),
        ],
        check=True,
        capture_output=True,
    )
    return files


async def test_certificates_are_verified_unless_said_otherwise(tmp_path: Path) -> None:
    files = await asyncio.to_thread(certificate, tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)

    async def hello(_: web.Request) -> web.Response:
        return web.Response(body=b"hello")

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    assert site._server is not None
    address = f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    transport = Transport(TransportSettings())
    request = Request("GET", f"https://{address}/")
    try:
        with pytest.raises(FailedPreconditionError, match="not trusted"):
            await transport.open(Endpoint("https", address), request)
        for tls in (TlsSettings(ca=(files[0],)), TlsSettings(skip_verify=True)):
            answer = await transport.open(Endpoint("https", address, tls=tls), request)
            assert await answer.read(10) == b"hello"
            answer.close()
        missing = TlsSettings(ca=(tmp_path / "none.pem",))
        with pytest.raises(InvalidConfigError, match=r"none\.pem"):
            await transport.open(Endpoint("https", address, tls=missing), request)
        (tmp_path / "bad.pem").write_text("no certificate")
        with pytest.raises(InvalidConfigError, match=r"bad\.pem"):
            await transport.open(
                Endpoint("https", address, tls=TlsSettings(ca=(tmp_path / "bad.pem",))), request
            )
    finally:
        await transport.close()
        await runner.cleanup()
