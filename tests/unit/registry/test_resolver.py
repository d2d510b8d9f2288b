"""From a name to a descriptor, and which of several hosts is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.registry.fake_host import FakeHost, fake_host, reference, repository

from containerd_hybrid.errors import (
    DigestMismatchError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.model import Descriptor, Digest, Reference
from containerd_hybrid.model.descriptor import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from containerd_hybrid.registry.api import RegistryOptions
from containerd_hybrid.registry.client import HttpRegistryClient

CONFIG = {"mediaType": OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2}
MANIFEST = json.dumps({"schemaVersion": 2, "config": CONFIG, "layers": []}).encode()
DIGEST = Digest.of(MANIFEST)
PATH = "/v2/team/app/manifests/1"
BY_DIGEST = f"/v2/team/app/manifests/{DIGEST}"
FOUND = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": str(DIGEST)}


async def test_a_head_is_enough(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("HEAD", PATH, body=MANIFEST, headers=FOUND)
    found = await repository(client, host).resolve(reference(host))
    assert found == Descriptor(OCI_MANIFEST, DIGEST, len(MANIFEST))
    (asked,) = host.asked
    assert DOCKER_MANIFEST in asked.headers["Accept"]
    assert OCI_INDEX in asked.headers["Accept"]
    assert "ns" not in asked.query


@pytest.mark.parametrize(
    "head",
    [
        {"status": 405},
        {"headers": {"Content-Type": OCI_MANIFEST}},
        {"headers": {"Docker-Content-Digest": str(DIGEST), "Content-Type": "application/json"}},
    ],
)
async def test_a_get_tells_what_the_head_did_not(
    host: FakeHost, client: HttpRegistryClient, head: dict[str, object]
) -> None:
    host.answer("HEAD", PATH, body=MANIFEST, **head)  # type: ignore[arg-type]
    host.answer("GET", PATH, body=MANIFEST, headers={"Content-Type": "application/json; charset=utf-8"})
    found = await repository(client, host).resolve(reference(host))
    assert found == Descriptor(OCI_MANIFEST, DIGEST, len(MANIFEST))


async def test_a_digest_has_to_be_the_one_that_was_asked_for(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    host.answer("HEAD", BY_DIGEST, status=405)
    host.answer("GET", BY_DIGEST, body=MANIFEST + b" ", headers={"Content-Type": OCI_MANIFEST})
    with pytest.raises(DigestMismatchError):
        await repository(client, host).resolve(reference(host, f"@{DIGEST}"))


async def test_a_host_that_says_another_digest_is_not_believed(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    other = {**FOUND, "Docker-Content-Digest": str(Digest.of(b"other"))}
    host.answer("HEAD", BY_DIGEST, body=MANIFEST, headers=other)
    with pytest.raises(DigestMismatchError):
        await repository(client, host).resolve(reference(host, f"@{DIGEST}"))


async def test_a_digest_without_header_is_known_already(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("HEAD", BY_DIGEST, body=MANIFEST, headers={"Content-Type": OCI_MANIFEST})
    found = await repository(client, host).resolve(reference(host, f":1@{DIGEST}"))
    assert found.digest == DIGEST
    assert len(host.asked) == 1


async def test_old_registries_have_it_among_the_blobs(host: FakeHost, client: HttpRegistryClient) -> None:
    blob = f"/v2/team/app/blobs/{DIGEST}"
    host.answer("HEAD", blob, body=MANIFEST, headers={"Content-Type": "application/octet-stream"})
    host.answer("GET", blob, body=MANIFEST, headers={"Content-Type": "application/octet-stream"})
    found = await repository(client, host).resolve(reference(host, f"@{DIGEST}"))
    assert found == Descriptor(OCI_MANIFEST, DIGEST, len(MANIFEST))


@pytest.mark.parametrize(
    ("head", "get", "error", "said"),
    [
        ({"status": 404}, {}, NotFoundError, "status 404"),
        ({"status": 401}, {}, UnauthenticatedError, "log in"),
        (
            {"status": 403},
            {"status": 403, "body": b'{"errors":[{"code":"DENIED","message":"by rule 7"}]}'},
            PermissionDeniedError,
            "DENIED: by rule 7",
        ),
        ({"headers": {"Content-Type": "text/plain"}}, {}, InvalidArgumentError, "schema 1"),
        ({"headers": {**FOUND, "Docker-Content-Digest": "md5:x"}}, {}, UnknownError, "digest"),
        ({"status": 418}, {}, UnknownError, "status 418"),
    ],
)
async def test_what_went_wrong_is_said_with_host_and_repository(
    host: FakeHost,
    client: HttpRegistryClient,
    head: dict[str, object],
    get: dict[str, object],
    error: type[HybridError],
    said: str,
) -> None:
    host.answer("HEAD", PATH, **{"body": MANIFEST, **head})  # type: ignore[arg-type]
    host.answer("GET", PATH, **get)  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        await repository(client, host).resolve(reference(host))
    for word in (host.address, "team/app:1", said):
        assert word in caught.value.message


async def test_a_manifest_without_end_is_refused(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("HEAD", PATH, status=405)
    host.answer("GET", PATH, body=b"x" * (9 << 20), headers={"Content-Type": OCI_MANIFEST})
    with pytest.raises(ResourceExhaustedError):
        await repository(client, host).resolve(reference(host))


async def test_it_is_asked_again_after_what_may_pass(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("HEAD", PATH, status=503)
    host.answer("HEAD", PATH, status=429, headers={"Retry-After": "7"})
    host.answer("HEAD", PATH, body=MANIFEST, headers=FOUND)
    assert (await repository(client, host).resolve(reference(host))).digest == DIGEST
    assert host.slept == [0.25, 7]


async def test_a_limit_of_requests_is_told(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("HEAD", PATH, status=429, headers={"Retry-After": "3600"})
    with pytest.raises(ResourceExhaustedError, match="limit"):
        await repository(client, host).resolve(reference(host))
    assert host.slept == []


async def test_a_host_that_is_never_well_is_unavailable(host: FakeHost, client: HttpRegistryClient) -> None:
    host.answer("HEAD", PATH, status=500)
    with pytest.raises(UnavailableError, match="status 500"):
        await repository(client, host).resolve(reference(host))
    assert len(host.slept) == 4


async def test_nobody_listens(host: FakeHost, client: HttpRegistryClient) -> None:
    name = Reference.parse("127.0.0.1:1/team/app:1")
    target = client.repository(name, RegistryOptions(default_scheme="http"))
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1.*connect"):
        await target.resolve(name)


class Mirrors:
    """A registry ``reg.example`` whose mirrors are two fake hosts."""

    def __init__(self, tmp_path: Path, first: FakeHost, second: FakeHost, extra: str = "") -> None:
        folder = tmp_path / "reg.example"
        folder.mkdir()
        (folder / "hosts.toml").write_text(
            f'server = "http://{second.address}"\n[host."http://{first.address}"]\n{extra}'
        )
        self.reference = Reference.parse("reg.example/team/app:1")
        self.options = RegistryOptions(hosts_dir=str(tmp_path))


async def test_mirrors_are_asked_first_and_told_whose_repository_it_is(
    host: FakeHost, client: HttpRegistryClient, tmp_path: Path
) -> None:
    async with fake_host() as second:
        mirrors = Mirrors(tmp_path, host, second, 'header = { x-mirror = "yes" }')
        host.answer("HEAD", PATH, body=MANIFEST, headers=FOUND)
        target = client.repository(mirrors.reference, mirrors.options)
        assert (await target.resolve(mirrors.reference)).digest == DIGEST
        assert host.asked[0].query == {"ns": "reg.example"}
        assert host.asked[0].headers["x-mirror"] == "yes"
        assert second.asked == []


@pytest.mark.parametrize("status", [404, 500, 403])
async def test_a_mirror_that_cannot_is_passed_over_at_once(
    host: FakeHost, client: HttpRegistryClient, tmp_path: Path, status: int
) -> None:
    async with fake_host() as second:
        mirrors = Mirrors(tmp_path, host, second, 'header = { x-mirror = "yes" }')
        host.answer("HEAD", PATH, status=status)
        host.answer("GET", PATH, status=status)
        second.answer("HEAD", PATH, body=MANIFEST, headers=FOUND)
        target = client.repository(mirrors.reference, mirrors.options)
        assert (await target.resolve(mirrors.reference)).digest == DIGEST
        assert host.slept == []
        assert "x-mirror" not in second.asked[0].headers, "headers are for the host they are configured for"


async def test_the_host_that_came_furthest_is_told(
    host: FakeHost, client: HttpRegistryClient, tmp_path: Path
) -> None:
    async with fake_host() as second:
        mirrors = Mirrors(tmp_path, host, second)
        host.answer("HEAD", PATH, status=401)
        target = client.repository(mirrors.reference, mirrors.options)
        with pytest.raises(UnauthenticatedError, match=host.address):
            await target.resolve(mirrors.reference)


async def test_a_mirror_that_may_not_resolve_is_not_asked_for_tags(
    host: FakeHost, client: HttpRegistryClient, tmp_path: Path
) -> None:
    async with fake_host() as second:
        mirrors = Mirrors(tmp_path, host, second, 'capabilities = ["pull"]')
        second.answer("HEAD", PATH, body=MANIFEST, headers=FOUND)
        host.answer("HEAD", BY_DIGEST, body=MANIFEST, headers=FOUND)
        target = client.repository(mirrors.reference, mirrors.options)
        await target.resolve(mirrors.reference)
        assert host.asked == []
        await target.resolve(Reference.parse(f"reg.example/team/app@{DIGEST}"))
        assert len(host.asked) == 1


async def test_warnings_are_handed_on_once(
    host: FakeHost, client: HttpRegistryClient, caplog: pytest.LogCaptureFixture
) -> None:
    warning = {"Warning": '299 - "this registry ends in May"'}
    host.answer("HEAD", PATH, body=MANIFEST, headers={**FOUND, **warning})
    target = repository(client, host)
    await target.resolve(reference(host))
    await target.resolve(reference(host))
    assert caplog.text.count("this registry ends in May") == 1
