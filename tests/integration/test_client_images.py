"""Images over the daemon's socket: large archives, progress, errors and cancellation on a real wire."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.client_worlds import World, world
from tests.unit.images.archives import busybox_layer, docker_layout, oci_layout, tar_bytes
from tests.unit.images.test_importer import broken

from containerd_hybrid import AsyncClient
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from containerd_hybrid.testing.leaks import remove_cgroups
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until_async
from containerd_hybrid.transfer.api import Progress

pytestmark = pytest.mark.root
__all__ = ["world"]  # a fixture


@pytest.fixture
async def client(world: World, token: str) -> AsyncIterator[AsyncClient]:
    if world.name == "containerd":
        pytest.skip("containerd 1.6 has no transfer service")
    async with await world.connect(token) as opened:
        yield opened
        for image in await opened.images.list():
            await opened.images.remove(image.name)
    remove_cgroups(token)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 100 MB that do not compress."""
    layers = [busybox_layer(), tar_bytes({"random": os.urandom(100 << 20)})]
    path = tmp_path_factory.mktemp("large") / "large.tar"
    return oci_layout(layers, "example.com/large:1", compressed=False).write(path)


async def test_a_large_archive_in_and_out_again(client: AsyncClient, large: Path, tmp_path: Path) -> None:
    steps: list[Progress] = []
    (image,) = await client.images.import_archive(large, progress=steps.append)
    assert (steps[0].event, steps[-1].event) == ("Importing", "Completed import")
    done = await client.containers.run(image.name, ["sha256sum", "/random"])
    assert done.status == 0
    out = tmp_path / "out.tar"
    await client.images.export_archive([image.name], out)
    await client.images.remove(image.name)
    (again,) = await client.images.import_archive(out)
    assert again.target.digest == image.target.digest
    assert (await client.containers.run(image.name, ["sha256sum", "/random"])).stdout == done.stdout


async def test_skopeo_and_docker_archives(client: AsyncClient, tmp_path: Path) -> None:
    layer = busybox_layer()
    archive = docker_layout([layer, tar_bytes({"x": b"y"}), layer], ["demo:1"]).write(
        tmp_path / "d.tar", compressed=True
    )
    (image,) = await client.images.import_archive(archive)
    assert image.name == "docker.io/library/demo:1"
    assert (await client.containers.run("demo:1", ["cat", "/x"])).stdout == b"y"
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed (apt-get install skopeo)")
    out = tmp_path / "out.tar"
    await client.images.export_archive(["demo:1"], out)
    copied = tmp_path / "copied.tar"
    command = ["skopeo", "copy", "-q", f"docker-archive:{out}", f"oci-archive:{copied}:example.com/copied:2"]
    subprocess.run(command, check=True)
    (image,) = await client.images.import_archive(copied)
    assert (await client.containers.run("example.com/copied:2", ["cat", "/x"])).stdout == b"y"


@pytest.mark.parametrize("how", ["flipped byte", "truncated", "missing layer", "no layout"])
async def test_a_broken_archive(client: AsyncClient, tmp_path: Path, how: str) -> None:
    path = tmp_path / "broken.tar"
    path.write_bytes(broken(oci_layout([busybox_layer()], compressed=False), how))
    with pytest.raises((InvalidArgumentError, NotFoundError)):
        await client.images.import_archive(path)
    assert await client.images.list() == []


async def test_an_error_does_not_wait_for_the_rest_of_the_archive(client: AsyncClient) -> None:
    class Endless(io.RawIOBase):
        position = 0

        def read(self, size: int = -1) -> bytes:
            self.position += size
            return b"x" * size

    endless = Endless()
    with pytest.raises(InvalidArgumentError, match="no tar archive"):
        await client.images.import_archive(endless)  # type: ignore[arg-type]
    assert endless.position < 100 << 20


async def test_an_import_that_is_cancelled(client: AsyncClient, large: Path) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    class Held(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 10 << 20:
                begun.set()
                cancelled.wait(GIVE_UP_SECONDS)
            return super().read(size)

    with Held(io.FileIO(large)) as archive:
        importing = asyncio.ensure_future(client.images.import_archive(archive))
        await until_async(lambda: begun.is_set() or importing.done(), "the middle of the archive")
        importing.cancel()
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await importing
    assert await client.images.list() == []
    (image,) = await client.images.import_archive(large)
    assert (await client.containers.run(image.name, ["true"])).status == 0


async def test_imports_at_once(client: AsyncClient, tmp_path: Path) -> None:
    layer = busybox_layer()
    paths = [
        oci_layout([layer, tar_bytes({"n": b"%d" % n})], f"example.com/n:{n}").write(tmp_path / f"{n}.tar")
        for n in range(8)
    ]
    await asyncio.gather(*(client.images.import_archive(path) for path in paths))
    outputs = await asyncio.gather(
        *(client.containers.run(f"example.com/n:{n}", ["cat", "/n"]) for n in range(8))
    )
    assert [done.stdout for done in outputs] == [b"%d" % n for n in range(8)]


async def test_a_daemon_without_the_service_says_what_else_to_do(world: World, token: str) -> None:
    if world.name != "containerd":
        pytest.skip("this one has it")
    async with await world.connect(token) as client:
        with pytest.raises(UnimplementedError, match=r"no transfer service .*ctr image import"):
            await client.images.import_archive(world.archive)
