"""Pull and push against docker-registry over TLS with tokens, while everything goes wrong that can.

After each fault: nothing bad is visible, the next pull succeeds, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.registry_world import Fault, FaultProxy, RegistryWorld, connect_proxy, registry_world
from tests.unit.images.world import NS, ImageWorld, open_image_world
from tests.unit.transfer.test_registry_transfers import FakeUnpacker

from containerd_hybrid.errors import (
    DigestMismatchError,
    FailedPreconditionError,
    HybridError,
    NotFoundError,
    ResourceExhaustedError,
    SizeMismatchError,
    UnauthenticatedError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.model import Descriptor, Digest, Platform, Reference
from containerd_hybrid.model.descriptor import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from containerd_hybrid.registry.api import Credential, RegistryOptions
from containerd_hybrid.registry.client import HttpRegistryClient
from containerd_hybrid.registry.retry import RetryPolicy
from containerd_hybrid.registry.transport import TransportSettings
from containerd_hybrid.registry.upload import UploadSettings
from containerd_hybrid.testing.images import ImageArchive, write_archive
from containerd_hybrid.testing.waiting import until_async
from containerd_hybrid.transfer.api import RegistryPlace, StoreTarget
from containerd_hybrid.transfer.fetch import BlobFetches, FetchSettings
from containerd_hybrid.transfer.pull import RegistryPull
from containerd_hybrid.transfer.push import RegistryPush
from containerd_hybrid.transfer.registry import ImageTransfers

LAYER = os.urandom(300_000)
BIG = os.urandom(3 << 20)
LAYER_PATH = f"/blobs/{Digest.of(LAYER)}"
IMAGE = "local/image:1"


@dataclass(frozen=True)
class User:
    """Credentials as a client gives them."""

    credential: Credential | None = None

    async def get(self, host: str, reference: str) -> Credential | None:
        return self.credential


KNOWN = User(Credential("user", "secret-of-user"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryWorld]:
    with registry_world(tmp_path_factory.mktemp("registry") / "world") as world:
        archive = write_archive(
            world.folder / "image.tar",
            [
                ImageArchive(
                    "team/app:1",
                    [LAYER, b"small" * 1000],
                    platform=Platform("linux", "amd64"),
                    compress=False,
                )
            ],
        )
        world.skopeo(
            "copy",
            "--preserve-digests",
            f"oci-archive:{archive}",
            f"docker://{world.registry.address}/team/app:1",
        )
        yield world


@dataclass
class Here:
    """Our side: stores, a client that tries again at once, and the registry behind the proxy."""

    world: ImageWorld
    registry: RegistryWorld
    client: HttpRegistryClient
    transfers: ImageTransfers
    fetches: BlobFetches

    def place(self, end: str = "team/app:1", *, credentials: User | None = KNOWN) -> RegistryPlace:
        options = RegistryOptions(hosts_dir=self.registry.hosts_dir, credentials=credentials)
        return RegistryPlace(f"{self.registry.proxy.address}/{end}", options)

    async def pull(self, place: RegistryPlace | None = None) -> None:
        await self.transfers.pull(NS, place or self.place(), StoreTarget(IMAGE))

    async def is_whole(self) -> bool:
        await self.world.stores.collector.collect()
        digests = await self.world.blobs()
        for digest in digests:
            await asyncio.to_thread(self.world.stores.blobs.verify, Digest.parse(digest))
        return len(digests) == 4 and str(Digest.of(LAYER)) in digests


async def read_big(offset: int, length: int) -> bytes:
    return BIG[offset : offset + length]


@pytest.fixture
async def here(tmp_path: Path, registry: RegistryWorld) -> AsyncIterator[Here]:
    async with open_here(tmp_path / "stores", registry) as opened:
        yield opened


@asynccontextmanager
async def open_here(root: Path, registry: RegistryWorld, patience: float = 60.0) -> AsyncIterator[Here]:
    """``patience``: seconds in which bytes have to come; a machine that is busy may make everything slow."""
    registry.proxy.faults.clear()
    registry.proxy.seen.clear()
    registry.tokens.anonymous, registry.tokens.refuse_oauth, registry.tokens.expires_in = False, False, 300
    registry.tokens.asked.clear()

    async def briefly(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))

    async with open_image_world(root) as world:
        client = HttpRegistryClient(
            transport=TransportSettings(idle_seconds=patience),
            retry=RetryPolicy(sleep=briefly),
        )
        content, images = world.stores.content, world.images
        fetches = BlobFetches(content, FetchSettings(sleep=briefly))
        transfers = ImageTransfers(
            RegistryPull(content, images, FakeUnpacker(), world.stores.leases, client, fetches),  # type: ignore[arg-type]
            RegistryPush(content, images, client),
        )
        try:
            yield Here(world, registry, client, transfers, fetches)
        finally:
            await client.close()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(LAYER_PATH, cut_after=0),
        Fault(LAYER_PATH, cut_after=100_000),
        Fault(LAYER_PATH, cut_after=299_999),
        Fault("/blobs/", cut_after=50, times=4),
        Fault("/manifests/", cut_after=10, times=3),
        Fault("/manifests/", "HEAD", status=500, times=3),
        Fault("/manifests/1", "HEAD", strip=("docker-content-digest",)),
        Fault("/blobs/", status=503, times=4),
        Fault("/blobs/", status=429, headers={"Retry-After": "1"}, times=3),
        Fault(LAYER_PATH, slow=0.01),
    ],
    ids=lambda fault: fault.path.replace("/", "")[:12],
)
async def test_what_passes_is_survived(here: Here, fault: Fault) -> None:
    here.registry.proxy.faults.append(fault)
    await here.pull()
    assert fault.seen
    assert await here.is_whole()


async def test_an_answer_that_stalls_is_given_up_and_asked_for_again(
    registry: RegistryWorld, tmp_path: Path
) -> None:
    async with open_here(tmp_path / "stores", registry, patience=2.0) as here:
        fault = Fault(LAYER_PATH, stall_after=150_000)
        registry.proxy.faults.append(fault)
        await here.pull()
        assert fault.seen
        assert await here.is_whole()


async def test_who_stalls_always_is_given_up(registry: RegistryWorld, tmp_path: Path) -> None:
    async with open_here(tmp_path / "stores", registry, patience=0.5) as here:
        registry.proxy.faults.append(Fault(LAYER_PATH, stall_after=10, times=99))
        with pytest.raises(UnavailableError):
            await here.pull()
    async with open_here(tmp_path / "stores", registry) as here:
        await here.pull()
        assert await here.is_whole()


async def test_a_cut_body_is_continued_where_it_ended(here: Here) -> None:
    here.registry.proxy.faults.append(Fault(LAYER_PATH, cut_after=200_000))
    await here.pull()
    first, second = [s for s in here.registry.proxy.seen if s.path.endswith(LAYER_PATH)]
    assert "Range" not in first.headers
    offset = int(second.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < offset <= 200_000
    assert await here.is_whole()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(LAYER_PATH, flip=123_456, times=9), DigestMismatchError),
        (Fault(LAYER_PATH, flip=0, times=9), DigestMismatchError),
        (Fault("/manifests/sha256", flip=5, times=9), DigestMismatchError),
        (Fault(LAYER_PATH, drop=1, times=9), SizeMismatchError),
        (Fault(LAYER_PATH, status=404, times=9), NotFoundError),
        (Fault("/manifests/1", "HEAD", status=500, times=99), UnavailableError),
        (Fault(LAYER_PATH, cut_after=0, times=99), UnavailableError),
        (Fault(LAYER_PATH, status=429, headers={"Retry-After": "9999"}, times=9), ResourceExhaustedError),
        (Fault(LAYER_PATH, status=307, headers={"Location": "."}, times=99), HybridError),
        (Fault(LAYER_PATH, status=401, times=99), UnauthenticatedError),
    ],
)
async def test_what_does_not_pass_leaves_nothing_and_the_next_pull_succeeds(
    here: Here, fault: Fault, error: type[HybridError]
) -> None:
    fault.seen = 0
    here.registry.proxy.faults.append(fault)
    with pytest.raises(error) as caught:
        await here.pull()
    for secret in ("secret-of-user", "Bearer", "eyJ"):
        assert secret not in caught.value.message
    left = [thing for thing in await here.world.leftovers() if not thing.startswith("ingest layer-")]
    assert left == [], "only the beginning of a layer may stay, for the next time"
    here.registry.proxy.faults.clear()
    await here.pull()
    assert await here.is_whole()
    assert await here.world.stores.content.list_ingests(NS) == []


async def test_a_redirect_loop_ends(here: Here) -> None:
    path = f"/v2/team/app{LAYER_PATH}"
    here.registry.proxy.faults.append(Fault(LAYER_PATH, status=307, headers={"Location": path}, times=99))
    with pytest.raises(UnknownError, match="redirects"):
        await here.pull()


async def test_a_redirect_to_another_host_is_not_told_who_we_are(here: Here) -> None:
    with_world = here.registry
    other = f"{with_world.proxy.url.replace('127.0.0.1', 'localhost')}/elsewhere"
    with_world.proxy.faults += [
        Fault(LAYER_PATH, status=307, headers={"Location": other}),
        Fault("/elsewhere", status=200, body=LAYER),
    ]
    await here.pull()
    (asked,) = [seen for seen in with_world.proxy.seen if seen.path == "/elsewhere"]
    assert "Authorization" not in asked.headers
    assert await here.is_whole()


async def test_a_token_that_ends_midway_is_replaced(here: Here) -> None:
    challenge = f'Bearer realm="{here.registry.tokens.url}/token",service="registry"'
    here.registry.proxy.faults.append(
        Fault(LAYER_PATH, status=401, headers={"WWW-Authenticate": f'{challenge},error="invalid_token"'})
    )
    await here.pull()
    assert len(here.registry.tokens.asked) == 2
    assert await here.is_whole()


@pytest.mark.parametrize(
    "credential",
    [Credential("user", "secret-of-user"), Credential(secret="refresh-token-of-user")],
)
@pytest.mark.parametrize("refuse_oauth", [False, True])
async def test_ways_to_a_token(here: Here, credential: Credential, refuse_oauth: bool) -> None:
    here.registry.tokens.refuse_oauth = refuse_oauth
    if refuse_oauth and not credential.username:
        with pytest.raises(HybridError):
            await here.pull(here.place(credentials=User(credential)))
        return
    await here.pull(here.place(credentials=User(credential)))
    assert {asked.user for asked in here.registry.tokens.asked} == {"user"}
    assert len(here.registry.tokens.asked) == 1, "one token for the whole pull"


async def test_nobody_may_pull_where_that_is_allowed(here: Here) -> None:
    here.registry.tokens.anonymous = True
    await here.pull(here.place(credentials=None))
    assert {asked.user for asked in here.registry.tokens.asked} == {""}


@pytest.mark.parametrize("credential", [None, Credential("user", "wrong"), Credential(secret="wrong")])
async def test_who_is_not_known_is_told_so(here: Here, credential: Credential | None) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await here.pull(here.place(credentials=User(credential)))
    assert "wrong" not in caught.value.message.replace("wrong password", "")
    assert await here.world.leftovers() == []


async def test_a_certificate_that_is_not_trusted(here: Here) -> None:
    here.registry.write_hosts("nothing", "")
    address = here.registry.proxy.address
    place = RegistryPlace(f"{address}/team/app:1", RegistryOptions(default_scheme="https"))
    with pytest.raises(FailedPreconditionError, match="not trusted"):
        await here.pull(place)


async def test_a_host_that_wants_a_client_certificate(here: Here) -> None:
    world = here.registry
    certificate, key = world.authority.client
    with FaultProxy(world.authority, world.registry.address, verify_clients=True) as guarded:
        hosts = f'server = "{guarded.url}"\nca = "{world.authority.certificate}"\n'
        place = RegistryPlace(
            f"{guarded.address}/team/app:1",
            RegistryOptions(hosts_dir=world.hosts_dir, credentials=KNOWN),
        )
        world.write_hosts(guarded.address, hosts)
        with pytest.raises(UnavailableError, match=guarded.address):
            await here.pull(place)
        world.write_hosts(guarded.address, f'{hosts}client = [["{certificate}", "{key}"]]\n')
        await here.pull(place)
    assert await here.is_whole()


async def test_through_a_proxy_of_the_environment(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is one that only the proxy knows; TLS is between us and the registry."""
    world = here.registry
    name = f"registry.test:{world.proxy.port}"
    world.write_hosts(name, f'server = "https://{name}"\nca = "{world.authority.certificate}"\n')
    asked: list[str] = []
    options = RegistryOptions(hosts_dir=world.hosts_dir, credentials=KNOWN)
    async with connect_proxy(asked) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hidden@{address}")
        await here.pull(RegistryPlace(f"{name}/team/app:1", options))
        await here.client.close()
    assert asked[0].startswith(f"CONNECT {name} ")
    assert "Proxy-Authorization: Basic" in asked[0]
    assert "secret" not in "".join(asked)
    assert await here.is_whole()


async def test_a_mirror_that_breaks_off_is_left_for_the_next(here: Here) -> None:
    """The mirror knows the manifests and one layer of the two; what it sends of the other is bad."""
    world = here.registry
    registry = "registry.example"
    world.write_hosts(
        registry,
        f'server = "https://{world.registry.address}"\nca = "{world.authority.certificate}"\n'
        f'[host."{world.proxy.url}"]\nca = "{world.authority.certificate}"\n',
    )
    world.proxy.faults.append(Fault(LAYER_PATH, status=500, times=99))
    options = RegistryOptions(hosts_dir=world.hosts_dir, credentials=KNOWN)
    await here.pull(RegistryPlace(f"{registry}/team/app:1", options))
    assert world.proxy.count("GET", LAYER_PATH) == 1
    assert "ns=registry.example" in world.proxy.seen[0].query
    assert await here.is_whole()


@pytest.mark.root
async def test_a_full_disk_is_said_and_the_next_fetch_succeeds(
    registry: RegistryWorld, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()

    async def mount(*arguments: str) -> None:
        await asyncio.to_thread(subprocess.run, [*arguments, str(folder)], check=True)

    await mount("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    try:
        async with open_here(folder / "stores", registry) as here:
            blob = Descriptor(OCI_LAYER, Digest.of(BIG), len(BIG))
            place = here.place("team/big:1")
            repository = here.client.repository(Reference.parse(place.reference), place.options)
            await repository.push_blob(blob, read_big)
            with pytest.raises(ResourceExhaustedError):
                await here.fetches.fetch(NS, repository, blob)
            assert await here.world.blobs() == set()
            await mount("mount", "-o", "remount,size=32m")
            await here.fetches.fetch(NS, repository, blob)
            assert await here.world.blobs() == {str(blob.digest)}
            assert await here.world.stores.content.list_ingests(NS) == []
    finally:
        await mount("umount")


async def test_many_pulls_at_once_fetch_each_blob_once(here: Here) -> None:
    await asyncio.gather(*(here.pull() for _ in range(6)))
    assert here.registry.proxy.count("GET", LAYER_PATH) == 1
    assert await here.is_whole()


async def test_a_pull_that_is_cancelled_stops_at_once(here: Here) -> None:
    # What has come is on the disk when the connection ends; the next one brings nothing.
    here.registry.proxy.faults += [Fault(LAYER_PATH, cut_after=100_000), Fault(LAYER_PATH, stall_after=0)]
    pull = asyncio.ensure_future(here.pull())

    def midway() -> bool:
        assert not pull.done(), pull.exception()
        return here.registry.proxy.count("GET", LAYER_PATH) == 2

    await until_async(midway, "the second connection")
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert await here.world.images.list(NS) == []
    assert await here.world.stores.leases.list(NS) == []
    await here.pull()
    again = [s for s in here.registry.proxy.seen if s.path.endswith(LAYER_PATH)][-1]
    assert "Range" in again.headers
    assert await here.is_whole()


# --- push


async def test_what_we_push_skopeo_reads_and_what_is_there_is_mounted(here: Here, tmp_path: Path) -> None:
    await here.pull()
    target = here.place("team/copy:2")
    await here.transfers.push(NS, IMAGE, target)
    # The mount was asked for from the repository that the pull has noted.
    mounts = [s for s in here.registry.proxy.seen if s.method == "POST" and "mount=" in s.query]
    assert len(mounts) == 3
    assert here.registry.proxy.count("PUT", "/blobs/uploads/") == 0, "all of them were mounted"
    address = here.registry.registry.address
    await asyncio.to_thread(
        here.registry.skopeo,
        *("copy", "--preserve-digests", f"docker://{address}/team/copy:2", f"oci:{tmp_path / 'layout'}"),
    )
    blob = tmp_path / "layout" / "blobs" / "sha256" / Digest.of(LAYER).hex
    assert blob.read_bytes() == LAYER


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault("/blobs/uploads/", "POST", status=503, times=2),
        Fault("/blobs/uploads/", "PUT", cut_request_after=100_000, times=1),
        Fault("/blobs/uploads/", "PUT", status=500, times=1),
        Fault("/manifests/", "PUT", status=502, times=2),
        Fault("/blobs/sha256", "HEAD", status=500, times=2),
    ],
    ids=lambda fault: f"{fault.method}-{fault.status or 'cut'}" if fault else "none",
)
async def test_a_push_survives_what_passes(here: Here, fault: Fault | None, token: str) -> None:
    await here.pull()
    # Of another registry, so that nothing can be mounted.
    for digest in await here.world.blobs():
        key = "containerd.io/distribution.source.127.0.0.1"
        await here.world.stores.content.update(NS, Digest.parse(digest), {key: ""}, (f"labels.{key}",))
    if fault is not None:
        here.registry.proxy.faults.append(fault)
    name = f"{token}/fresh:1"
    await here.transfers.push(NS, IMAGE, here.place(name))
    address = here.registry.registry.address
    shown = await asyncio.to_thread(here.registry.skopeo, "inspect", f"docker://{address}/{name}")
    assert str(Digest.of(LAYER)) in shown


async def test_a_large_blob_in_chunks(here: Here, token: str) -> None:
    client = HttpRegistryClient(uploads=UploadSettings(chunk_bytes=1 << 20))
    place = here.place(f"{token}/chunks:1")
    repository = client.repository(Reference.parse(place.reference), place.options)
    blob = Descriptor(OCI_LAYER, Digest.of(BIG), len(BIG))

    try:
        await repository.push_blob(blob, read_big)
        assert here.registry.proxy.count("PATCH", "/uploads/") == 3
        assert await repository.read(blob) == BIG
    finally:
        await client.close()


async def test_tags_catalog_referrers_and_deletion(here: Here, token: str) -> None:
    place = here.place(f"{token}/listed:0")
    repository = here.client.repository(Reference.parse(place.reference), place.options)

    async def nothing(offset: int, length: int) -> bytes:
        return b"{}"

    config = Descriptor(OCI_CONFIG, Digest.of(b"{}"), 2)
    await repository.push_blob(config, nothing)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": config.media_type, "digest": str(config.digest), "size": 2},
        "layers": [],
    }
    data = json.dumps(document).encode()
    manifest = Descriptor(OCI_MANIFEST, Digest.of(data), len(data))
    for tag in ("b", "a", "c"):
        await repository.push_manifest(manifest, data, tag)
    assert sorted(await repository.tags()) == ["a", "b", "c"]
    catalog = await here.client.catalog(here.registry.proxy.address, place.options)
    assert f"{token}/listed" in catalog

    document["subject"] = {"mediaType": OCI_MANIFEST, "digest": str(manifest.digest), "size": len(data)}
    referrer = json.dumps(document).encode()
    await repository.push_manifest(Descriptor(OCI_MANIFEST, Digest.of(referrer), len(referrer)), referrer)
    (found,) = await repository.referrers(manifest.digest)
    assert found.digest == Digest.of(referrer), "this registry has no API for them: by the fallback tag"

    await repository.delete_manifest(manifest.digest)
    with pytest.raises(NotFoundError):
        await repository.resolve(Reference.parse(f"{here.registry.proxy.address}/{token}/listed:a"))
