"""Uploads: in one piece, mounted, in chunks, and after a broken connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from tests.unit.registry.fake_host import FakeHost, fake_host, registry_client, repository

from containerd_hybrid.errors import (
    DataLossError,
    DigestMismatchError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.model import Descriptor, Digest
from containerd_hybrid.model.descriptor import OCI_INDEX, OCI_MANIFEST
from containerd_hybrid.registry.api import PushOutcome
from containerd_hybrid.registry.client import HttpRegistryClient
from containerd_hybrid.registry.upload import UploadSettings

DATA = bytes(range(256)) * 40
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))
HEAD = f"/v2/team/app/blobs/{BLOB.digest}"
START = "/v2/team/app/blobs/uploads/"
SESSION = "/session/1"


async def read(offset: int, length: int) -> bytes:
    return DATA[offset : offset + length]


def opens_session(host: FakeHost, location: str = f"{SESSION}?state=a%2Bb", **more: str) -> None:
    host.answer("POST", START, 202, headers={"Location": location, **more})


@pytest.fixture
async def chunked(host: FakeHost) -> AsyncIterator[HttpRegistryClient]:
    async with registry_client(host, uploads=UploadSettings(chunk_bytes=4000)) as opened:
        yield opened


async def test_what_is_there_is_not_sent(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("HEAD", HEAD)
    assert await repository(client, host).push_blob(BLOB, read) is PushOutcome.EXISTS
    assert len(host.asked) == 1


async def test_in_one_piece(host: FakeHost, client: HttpRegistryClient) -> None:
    opens_session(host)
    host.answer("PUT", SESSION, 201, headers={"Docker-Content-Digest": str(BLOB.digest)})
    told: list[int] = []
    outcome = await repository(client, host).push_blob(BLOB, read, progress=told.append)
    assert outcome is PushOutcome.UPLOADED
    (put,) = host.of("PUT")
    assert put.body == DATA
    assert put.query == {"state": "a+b", "digest": str(BLOB.digest)}
    assert put.headers["Content-Length"] == str(len(DATA))
    assert put.headers["Content-Type"] == "application/octet-stream"
    assert told[-1] == len(DATA)


@pytest.mark.parametrize("location", ["/session/1", "../../../../../session/1", "ABSOLUTE"])
async def test_a_location_may_be_relative(host: FakeHost, client: HttpRegistryClient, location: str) -> None:
    opens_session(host, location.replace("ABSOLUTE", f"http://{host.address}{SESSION}"))
    host.answer("PUT", SESSION, 201)
    await repository(client, host).push_blob(BLOB, read)
    assert host.of("PUT")[0].body == DATA


async def test_a_location_on_another_host_is_not_told_who_we_are(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    async with fake_host() as other:
        opens_session(host, f"http://{other.address}/store?sig=x")
        other.answer("PUT", "/store", 201)
        await repository(client, host).push_blob(BLOB, read)
        assert other.asked[0].body == DATA
        assert "Authorization" not in other.asked[0].headers


async def test_no_location(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("POST", START, 202)
    with pytest.raises(UnknownError, match="without saying where"):
        await repository(client, host).push_blob(BLOB, read)


async def test_mounted_from_a_neighbour(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("POST", START, 201)
    outcome = await repository(client, host).push_blob(BLOB, read, mount_from=["team/base"])
    assert outcome is PushOutcome.MOUNTED
    assert host.of("POST")[0].query == {"mount": str(BLOB.digest), "from": "team/base"}
    assert host.of("PUT") == []


async def test_a_mount_that_is_not_made_is_an_upload(host: FakeHost, client: HttpRegistryClient) -> None:
    opens_session(host)
    host.answer("PUT", SESSION, 201)
    outcome = await repository(client, host).push_blob(BLOB, read, mount_from=["team/base"])
    assert outcome is PushOutcome.UPLOADED
    assert len(host.of("POST")) == 1, "the session of the mount is used"


async def test_a_neighbour_that_is_not_ours(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("POST", START, 403)
    opens_session(host)
    host.answer("PUT", SESSION, 201)
    assert await repository(client, host).push_blob(BLOB, read, mount_from=["x"]) is PushOutcome.UPLOADED


async def test_in_chunks(host: FakeHost, chunked: HttpRegistryClient) -> None:
    opens_session(host)
    host.answer("PATCH", SESSION, 202, headers={"Location": "/session/2"})
    host.answer("PATCH", "/session/2", 202, headers={"Location": "/session/2", "Range": "0-7999"})
    host.answer("PATCH", "/session/2", 202, headers={"Location": "/session/3"})
    host.answer("PUT", "/session/3", 201)
    await repository(chunked, host).push_blob(BLOB, read)
    patches = host.of("PATCH")
    assert [p.headers["Content-Range"] for p in patches] == ["0-3999", "4000-7999", "8000-10239"]
    assert b"".join(p.body for p in patches) == DATA
    assert host.of("PUT")[0].body == b""


async def test_chunks_are_as_large_as_the_host_wants(host: FakeHost, chunked: HttpRegistryClient) -> None:
    opens_session(host, **{"OCI-Chunk-Min-Length": "6000"})
    host.answer("PATCH", SESSION, 202)
    host.answer("PUT", SESSION, 201)
    await repository(chunked, host).push_blob(BLOB, read)
    assert [p.headers["Content-Range"] for p in host.of("PATCH")] == ["0-5999", "6000-10239"]


async def test_after_416_the_host_says_where_it_is(host: FakeHost, chunked: HttpRegistryClient) -> None:
    opens_session(host)
    host.answer("PATCH", SESSION, 202)
    host.answer("PATCH", SESSION, 416)
    host.answer("PATCH", SESSION, 202)
    host.answer("GET", SESSION, 204, headers={"Range": "0-99"})
    host.answer("PUT", SESSION, 201)
    await repository(chunked, host).push_blob(BLOB, read)
    assert [p.headers["Content-Range"] for p in host.of("PATCH")] == [
        "0-3999",
        "4000-7999",
        "100-4099",
        "4100-8099",
        "8100-10239",
    ]


async def test_a_host_that_never_takes_a_chunk(host: FakeHost, chunked: HttpRegistryClient) -> None:
    opens_session(host)
    host.answer("PATCH", SESSION, 416)
    host.answer("GET", SESSION, 204, headers={"Range": "0-0"})
    host.answer("DELETE", SESSION, 204)
    with pytest.raises(OutOfRangeError):
        await repository(chunked, host).push_blob(BLOB, read)
    assert host.of("DELETE"), "the session is given up"


async def test_a_broken_upload_goes_on_where_the_host_is(host: FakeHost, client: HttpRegistryClient) -> None:
    async def breaks(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    opens_session(host)
    host.answer("PUT", SESSION, handler=breaks)
    host.answer("GET", SESSION, 204, headers={"Range": "0-4999"})
    host.answer("PATCH", SESSION, 202)
    host.answer("PUT", SESSION, 201)
    assert await repository(client, host).push_blob(BLOB, read) is PushOutcome.UPLOADED
    (patch,) = host.of("PATCH")
    assert patch.headers["Content-Range"] == "5000-10239"
    assert patch.body == DATA[5000:]
    assert len(host.slept) == 1


async def test_a_lost_session_begins_anew(host: FakeHost, client: HttpRegistryClient) -> None:
    opens_session(host)
    host.answer("PUT", SESSION, 503)
    host.answer("PUT", SESSION, 201)
    assert await repository(client, host).push_blob(BLOB, read) is PushOutcome.UPLOADED
    assert len(host.of("POST")) == 2
    assert host.of("PUT")[1].body == DATA


async def test_a_host_that_is_never_well(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("POST", START, 503)
    with pytest.raises(UnavailableError):
        await repository(client, host).push_blob(BLOB, read)


async def test_what_is_refused_is_given_up_and_told(host: FakeHost, client: HttpRegistryClient) -> None:
    opens_session(host)
    host.answer("PUT", SESSION, 413)
    with pytest.raises(ResourceExhaustedError, match="larger than the registry accepts"):
        await repository(client, host).push_blob(BLOB, read)
    assert host.of("DELETE", SESSION)


async def test_no_right_to_push(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("POST", START, 403, b'{"errors":[{"code":"DENIED","message":"read only"}]}')
    with pytest.raises(PermissionDeniedError, match="read only"):
        await repository(client, host).push_blob(BLOB, read)


async def test_bytes_that_are_not_here_are_told_as_such(host: FakeHost, client: HttpRegistryClient) -> None:
    async def lost(offset: int, length: int) -> bytes:
        raise DataLossError("the blob's file is damaged")

    opens_session(host)
    host.answer("PUT", SESSION, 201)
    with pytest.raises(DataLossError, match="damaged"):
        await repository(client, host).push_blob(BLOB, lost)


async def test_a_registry_that_stored_something_else(host: FakeHost, client: HttpRegistryClient) -> None:
    opens_session(host)
    host.answer("PUT", SESSION, 201, headers={"Docker-Content-Digest": str(Digest.of(b"x"))})
    with pytest.raises(DigestMismatchError):
        await repository(client, host).push_blob(BLOB, read)


def manifest(**more: object) -> tuple[Descriptor, bytes]:
    config = {"mediaType": "application/vnd.x", "digest": str(Digest.of(b"{}")), "size": 2}
    data = json.dumps({"schemaVersion": 2, "config": config, "layers": [], **more}).encode()
    return Descriptor(OCI_MANIFEST, Digest.of(data), len(data)), data


async def test_a_manifest_under_a_tag(host: FakeHost, client: HttpRegistryClient) -> None:
    what, data = manifest()
    path = "/v2/team/app/manifests/1"
    host.answer("HEAD", path, headers={"Docker-Content-Digest": str(Digest.of(b"older"))})
    host.answer("PUT", path, 201)
    assert await repository(client, host).push_manifest(what, data, "1") is PushOutcome.UPLOADED
    (put,) = host.of("PUT")
    assert (put.body, put.headers["Content-Type"]) == (data, OCI_MANIFEST)
    host.answers["HEAD", path].clear()
    host.answer("HEAD", path, headers={"Docker-Content-Digest": str(what.digest)})
    assert await repository(client, host).push_manifest(what, data, "1") is PushOutcome.EXISTS


SUBJECT = Digest.of(b"subject")
FALLBACK = f"/v2/team/app/manifests/sha256-{SUBJECT.hex}"


async def test_a_referrer_where_there_is_no_api_is_listed_by_tag(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    subject = {"mediaType": OCI_MANIFEST, "digest": str(SUBJECT), "size": 7}
    what, data = manifest(subject=subject, artifactType="application/sbom", annotations={"a": "b"})
    older = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"older")), "size": 5}
    host.answer("PUT", f"/v2/team/app/manifests/{what.digest}", 201)
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [older]}).encode()
    host.answer("GET", FALLBACK, body=index, headers={"Content-Type": OCI_INDEX})
    host.answer("PUT", FALLBACK, 201)
    await repository(client, host).push_manifest(what, data)
    written = json.loads(host.of("PUT", FALLBACK)[0].body)
    assert [entry["digest"] for entry in written["manifests"]] == [older["digest"], str(what.digest)]
    assert written["manifests"][1]["artifactType"] == "application/sbom"
    assert written["manifests"][1]["annotations"] == {"a": "b"}


async def test_a_registry_that_knows_subjects_needs_no_tag(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    subject = {"mediaType": OCI_MANIFEST, "digest": str(SUBJECT), "size": 7}
    what, data = manifest(subject=subject)
    host.answer("PUT", f"/v2/team/app/manifests/{what.digest}", 201, headers={"OCI-Subject": str(SUBJECT)})
    await repository(client, host).push_manifest(what, data)
    assert host.of("PUT", FALLBACK) == []
