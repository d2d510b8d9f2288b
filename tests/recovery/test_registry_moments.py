"""The daemon killed at many moments of a pull: nothing bad is visible, and the next pull succeeds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.registry_world import Fault, RegistryWorld, registry_world

import containerd_hybrid
from containerd_hybrid.content.local import LocalBlobStore
from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.registry.api import Credential, RegistryOptions
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import ImageArchive, add_file, tar_of, write_archive

pytestmark = [pytest.mark.root, pytest.mark.slow]

MOMENTS = int(os.environ.get("REGISTRY_MOMENTS", "10"))


class User:
    async def get(self, host: str, reference: str) -> Credential | None:
        return Credential("user", "secret-of-user")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryWorld]:
    with registry_world(tmp_path_factory.mktemp("registry") / "world") as world:
        layers = [tar_of(lambda tar, n=n: add_file(tar, f"file{n}", os.urandom(2 << 20))) for n in range(3)]
        archive = write_archive(world.folder / "image.tar", [ImageArchive("image:1", layers)])
        target = f"docker://{world.registry.address}/team/app:1"
        world.skopeo("copy", "--preserve-digests", f"oci-archive:{archive}", target)
        yield world


def verified(root: Path) -> int:
    """All blobs on disk are what their names say; how many there are."""
    store = LocalBlobStore(root / "io.containerd.content.v1.content")
    count = 0
    for stat in list(store.walk()):
        with contextlib.suppress(NotFoundError):  # the collector of a started daemon is at work meanwhile
            store.verify(stat.digest)
            count += 1
    return count


async def test_killed_at_many_moments_of_a_pull(
    daemon: DaemonProcess, registry: RegistryWorld, token: str
) -> None:
    name = f"{registry.proxy.address}/team/app:1"
    options = RegistryOptions(hosts_dir=registry.hosts_dir, credentials=User())
    moments = random.Random(token)  # the token is in the test's output when it fails
    # Slow enough for moments within a body.
    registry.proxy.faults.append(Fault("/blobs/", slow=0.0005, times=10**6))
    for _ in range(MOMENTS):
        async with await containerd_hybrid.connect_async(daemon.address, token) as client:
            pull = asyncio.ensure_future(client.images.pull(name, registry=options))
            await asyncio.wait({pull}, timeout=moments.uniform(0.02, 0.5))
            daemon.kill()
            await asyncio.gather(pull, return_exceptions=True)
        await asyncio.to_thread(daemon.start)
        await asyncio.to_thread(verified, daemon.root)
        async with await containerd_hybrid.connect_async(daemon.address, token) as client:
            for image in await client.images.list():
                manifest, _ = await client.images.config(image)
                assert len(manifest.layers) == 3, "an image that has a name is whole"
                await client.images.unpack(image.name)
                if moments.random() < 0.5:
                    await client.images.remove(image.name)
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        await client.images.pull(name, registry=options)
        await client.images.unpack(name)
        assert await asyncio.to_thread(verified, daemon.root) == 5
        await client.images.remove(name)
