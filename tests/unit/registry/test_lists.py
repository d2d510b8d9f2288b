"""Tags, repositories and referrers in pages; what is deleted."""

from __future__ import annotations

import json

import pytest
from tests.unit.registry.fake_host import FakeHost, repository

from containerd_hybrid.errors import NotFoundError, UnimplementedError, UnknownError
from containerd_hybrid.model import Digest
from containerd_hybrid.model.descriptor import OCI_INDEX, OCI_MANIFEST
from containerd_hybrid.registry.api import RegistryOptions
from containerd_hybrid.registry.client import HttpRegistryClient

TAGS = "/v2/team/app/tags/list"
SUBJECT = Digest.of(b"subject")
REFERRERS = f"/v2/team/app/referrers/{SUBJECT}"


def page(**document: object) -> bytes:
    return json.dumps(document).encode()


async def test_tags_in_pages(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", TAGS, body=page(tags=["a", "b"]), headers={"Link": f'<{TAGS}?last=b>; rel="next"'})
    host.answer("GET", TAGS, body=page(tags=["c"]))
    assert await repository(client, host).tags() == ["a", "b", "c"]
    assert host.asked[1].query == {"last": "b"}


async def test_a_repository_without_tags(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", TAGS, body=page(name="x", tags=None))
    assert await repository(client, host).tags() == []


async def test_pages_that_go_round_end(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", TAGS, body=page(tags=["a"]), headers={"Link": f"<{TAGS}?last=a>; rel=next"})
    assert await repository(client, host).tags() == ["a", "a"]


async def test_a_list_is_not_continued_elsewhere(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", TAGS, body=page(tags=[]), headers={"Link": "<http://127.0.0.1:1/x>; rel=next"})
    with pytest.raises(UnknownError, match="another host"):
        await repository(client, host).tags()


@pytest.mark.parametrize("body", [b"[]", b"<html>", b'{"tags":"a"}', b'{"tags":[1]}'])
async def test_what_is_no_list(host: FakeHost, client: HttpRegistryClient, body: bytes) -> None:
    host.answer("GET", TAGS, body=body)
    with pytest.raises(UnknownError):
        await repository(client, host).tags()


async def test_the_catalog(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", "/v2/_catalog", body=page(repositories=["one", "two"]))
    options = RegistryOptions(default_scheme="http")
    assert await client.catalog(host.address, options) == ["one", "two"]


def entry(name: bytes, artifact_type: str) -> dict[str, object]:
    return {
        "mediaType": OCI_MANIFEST,
        "digest": str(Digest.of(name)),
        "size": 1,
        "artifactType": artifact_type,
    }


INDEX = {"Content-Type": OCI_INDEX}
BOTH = [entry(b"1", "sbom"), entry(b"2", "signature")]


async def test_referrers_by_api_whether_it_filters_or_not(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("GET", REFERRERS, body=page(schemaVersion=2, manifests=BOTH), headers=INDEX)
    target = repository(client, host)
    assert len(await target.referrers(SUBJECT)) == 2
    (found,) = await target.referrers(SUBJECT, "signature")
    assert found.digest == Digest.of(b"2")
    assert host.asked[1].query == {"artifactType": "signature"}


@pytest.mark.parametrize("status", [404, 405, 400])
async def test_referrers_by_tag(host: FakeHost, client: HttpRegistryClient, status: int) -> None:
    host.answer("GET", REFERRERS, status)
    fallback = f"/v2/team/app/manifests/sha256-{SUBJECT.hex}"
    target = repository(client, host)
    assert await target.referrers(SUBJECT) == []
    host.answer("GET", fallback, body=page(schemaVersion=2, manifests=BOTH), headers=INDEX)
    (found,) = await target.referrers(SUBJECT, "sbom")
    assert found.artifact_type == "sbom"


async def test_deleting(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("DELETE", f"/v2/team/app/manifests/{SUBJECT}", 202)
    host.answer("DELETE", "/v2/team/app/manifests/tag", 405)
    host.answer("DELETE", f"/v2/team/app/blobs/{SUBJECT}", 202)
    target = repository(client, host)
    await target.delete_manifest(SUBJECT)
    await target.delete_blob(SUBJECT)
    with pytest.raises(UnimplementedError, match="team/app:tag"):
        await target.delete_manifest("tag")
    with pytest.raises(NotFoundError):
        await target.delete_manifest("other")
