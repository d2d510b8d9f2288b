"""Blobs from any offset, whole or not at all."""

from __future__ import annotations

import asyncio
import os

import pytest
from aiohttp import web
from tests.unit.registry.fake_host import FakeHost, fake_host, repository

from containerd_hybrid._native import HttpBody, Ingest
from containerd_hybrid.errors import (
    DigestMismatchError,
    NotFoundError,
    OutOfRangeError,
    ResourceExhaustedError,
    SizeMismatchError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.model import Descriptor, Digest
from containerd_hybrid.model.descriptor import OCI_MANIFEST
from containerd_hybrid.registry.api import RegistryOptions
from containerd_hybrid.registry.client import HttpRegistryClient
from containerd_hybrid.registry.repository import TargetRepository
from containerd_hybrid.workers import in_own_thread

pytestmark = pytest.mark.usefixtures("carrier")

DATA = bytes(range(256)) * 8192  # 2 MiB, more than one piece
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))
PATH = f"/v2/team/app/blobs/{BLOB.digest}"


class Sink:
    """Takes pieces, and whole bodies as an ingest does."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.end = BLOB.size
        self._ingest: Ingest | None = None

    @property
    def count(self) -> int:
        return len(self.data) or (self._ingest.arrived if self._ingest is not None else 0)

    async def receive(self, body: HttpBody, limit: int) -> int:
        file = os.memfd_create("ingest")
        ingest = self._ingest = Ingest(file)
        try:
            await in_own_thread(lambda: ingest.receive(body, limit), body.close)
        finally:
            self.data += os.pread(file, ingest.offset, 0)
            os.close(file)
        return self.end - limit + ingest.offset

    async def write(self, data: bytes) -> int:
        await asyncio.sleep(0)
        self.data += data
        return len(self.data)


async def fetch(target: TargetRepository, offset: int, sink: Sink, blob: Descriptor = BLOB) -> None:
    async with target.fetch(blob, offset) as body:
        assert body.offset == offset
        assert await body.copy_to(sink) == blob.size - offset


async def test_a_whole_blob(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, body=DATA)
    sink = Sink()
    await fetch(repository(client, host), 0, sink)
    assert sink.data == DATA
    (asked,) = host.asked
    assert asked.headers["Accept-Encoding"] == "identity"
    assert "Range" not in asked.headers


async def test_from_an_offset(host: FakeHost, client: HttpRegistryClient) -> None:
    headers = {"Content-Range": f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"}
    host.answer("GET", PATH, 206, DATA[1000:], headers)
    sink = Sink()
    await fetch(repository(client, host), 1000, sink)
    assert sink.data == DATA[1000:]
    assert host.asked[0].headers["Range"] == "bytes=1000-"


async def test_a_host_without_ranges_is_read_past_what_is_here(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    host.answer("GET", PATH, body=DATA)
    sink = Sink()
    await fetch(repository(client, host), 1_234_567, sink)
    assert sink.data == DATA[1_234_567:]


async def test_another_range_than_asked_for_is_refused(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, 206, DATA[5:], {"Content-Range": f"bytes 5-{len(DATA) - 1}/{len(DATA)}"})
    with pytest.raises(UnknownError, match="asked for bytes from 7"):
        await fetch(repository(client, host), 7, Sink())


async def test_a_wrong_length_is_seen_before_a_byte_is_written(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    host.answer("GET", PATH, body=DATA + b"x")
    sink = Sink()
    with pytest.raises(SizeMismatchError):
        await fetch(repository(client, host), 0, sink)
    assert sink.data == b""


@pytest.mark.parametrize("more", [1, 3 << 20])
async def test_more_bytes_than_announced_are_not_taken(
    host: FakeHost, client: HttpRegistryClient, more: int
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(DATA)
        await response.write(b"x" * more)
        return response

    host.answer("GET", PATH, handler=endless)
    sink = Sink()
    with pytest.raises(SizeMismatchError):
        await fetch(repository(client, host), 0, sink)
    assert len(sink.data) <= len(DATA)


async def test_a_broken_connection_keeps_what_came(host: FakeHost, client: HttpRegistryClient) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(DATA)
        await response.prepare(request)
        await response.write(DATA[:5000])
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    host.answer("GET", PATH, handler=cut)
    sink = Sink()
    with pytest.raises(UnavailableError):
        await fetch(repository(client, host), 0, sink)
    assert sink.data == DATA[:5000]


async def test_a_body_that_ends_early_without_saying_so(host: FakeHost, client: HttpRegistryClient) -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(DATA[:10])
        return response

    host.answer("GET", PATH, handler=short)
    sink = Sink()
    with pytest.raises(UnavailableError, match="ended after 10"):
        await fetch(repository(client, host), 0, sink)
    assert sink.data == DATA[:10]


async def test_a_compressed_answer_is_not_what_the_digest_is_of(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    host.answer("GET", PATH, body=DATA, headers={"Content-Encoding": "gzip"})
    with pytest.raises(UnknownError, match="gzip"):
        await fetch(repository(client, host), 0, Sink())


async def test_manifests_have_a_place_of_their_own(host: FakeHost, client: HttpRegistryClient) -> None:
    manifest = Descriptor(OCI_MANIFEST, Digest.of(b"{}"), 2)
    host.answer("GET", f"/v2/team/app/manifests/{manifest.digest}", body=b"{}")
    assert await repository(client, host).read(manifest) == b"{}"
    assert host.asked[0].headers["Accept"].startswith(OCI_MANIFEST)


async def test_a_document_is_verified_and_bounded(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, body=bytes(len(DATA)))
    with pytest.raises(DigestMismatchError):
        await repository(client, host).read(BLOB)
    with pytest.raises(ResourceExhaustedError):
        await repository(client, host).read(Descriptor("x", BLOB.digest, 9 << 20))


async def test_a_foreign_layer_comes_from_its_own_place(host: FakeHost, client: HttpRegistryClient) -> None:
    async with fake_host() as other:
        other.answer("GET", "/layer", body=DATA)
        urls = ("ftp://x.example/y", f"http://{other.address}/missing", f"http://{other.address}/layer")
        foreign = Descriptor(BLOB.media_type, BLOB.digest, BLOB.size, urls=urls)
        secret = RegistryOptions(default_scheme="http", headers={"X-Mine": "hidden"})
        assert await repository(client, host, secret).read(foreign) == DATA
        assert host.asked == []
        assert all("X-Mine" not in asked.headers for asked in other.asked)


async def test_a_foreign_layer_may_be_in_the_registry_too(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, body=DATA)
    foreign = Descriptor(BLOB.media_type, BLOB.digest, BLOB.size, urls=("http://127.0.0.1:1/gone",))
    assert await repository(client, host).read(foreign) == DATA


async def test_what_no_host_has(host: FakeHost, client: HttpRegistryClient) -> None:
    with pytest.raises(NotFoundError, match=str(BLOB.digest)):
        await fetch(repository(client, host), 0, Sink())


async def test_a_reader_that_is_cancelled_has_written_each_byte_once(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    async def stalls(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(DATA)
        await response.prepare(request)
        await response.write(DATA[: 3 << 19])
        await asyncio.sleep(60)
        return response

    host.answer("GET", PATH, handler=stalls)
    sink = Sink()
    task = asyncio.ensure_future(fetch(repository(client, host), 0, sink))
    while sink.count < 1 << 20:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.data == DATA[: len(sink.data)]


async def test_a_part_and_no_more(host: FakeHost, client: HttpRegistryClient) -> None:
    headers = {"Content-Range": f"bytes 1000-1999/{len(DATA)}"}
    host.answer("GET", PATH, 206, DATA[1000:2000], headers)
    sink = Sink()
    sink.end = 2000
    async with repository(client, host).fetch(BLOB, 1000, 1000) as body:
        assert await body.copy_to(sink) == 1000
    assert sink.data == DATA[1000:2000]
    assert host.asked[0].headers["Range"] == "bytes=1000-1999"


async def test_a_host_that_gives_no_parts_is_told_apart(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, body=DATA)
    with pytest.raises(OutOfRangeError, match="no parts"):
        async with repository(client, host).fetch(BLOB, 0, 1000):
            pass


async def test_a_part_of_another_length_is_refused(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", PATH, 206, DATA[1000:], {"Content-Range": f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"})
    with pytest.raises(SizeMismatchError):
        async with repository(client, host).fetch(BLOB, 1000, 1000):
            pass
