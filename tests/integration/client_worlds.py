"""What the library talks to: a stock containerd, our daemon, and a runtime in the test's own process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.images.archives import busybox_layer, oci_layout

import containerd_hybrid
from containerd_hybrid import AsyncClient
from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.daemon import DaemonProcess, unmount_below
from containerd_hybrid.testing.leaks import mounts_below, remove_cgroups
from containerd_hybrid.testing.waiting import until_async

IMAGE = "docker.io/library/busybox:latest"


@dataclass
class World:
    """``address`` is empty for the runtime without a daemon."""

    name: str
    folder: Path
    address: str
    archive: Path

    async def connect(self, namespace: str) -> AsyncClient:
        if self.address:
            return await containerd_hybrid.connect_async(self.address, namespace)
        return await containerd_hybrid.open_async(self.folder / "root", self.folder / "state", namespace)

    def hyctl(self, namespace: str) -> list[str]:
        """The beginning of a command line."""
        where = (
            ["--address", self.address]
            if self.address
            else ["--in-process", "--root", str(self.folder / "root"), "--state", str(self.folder / "state")]
        )
        return [sys.executable, "-m", "containerd_hybrid.cli.main", *where, "--namespace", namespace]

    async def import_image(self, client: AsyncClient) -> None:
        """containerd 1.6 has no service that takes archives; its own client reads them."""
        if self.name == "containerd":
            command = [
                "ctr",
                "-a",
                self.address,
                "-n",
                client.namespace,
                "image",
                "import",
                str(self.archive),
            ]
            subprocess.run(command, check=True, capture_output=True)
        else:
            await client.images.import_archive(self.archive)

    def leftovers(self) -> list[str]:
        """Mounts and FIFOs that no container can have any more."""
        left = [f"mount {mount}" for mount in mounts_below(self.folder)]
        left += [f"fifo {path}" for path in Path("/run").glob(f"containerd-hybrid-fifo-{os.getpid()}-*")]
        bundles = self.folder.glob("state/io.containerd.runtime.v2.task/*/*")
        return left + [f"bundle {path}" for path in bundles]


@pytest.fixture(scope="module", params=["containerd", "daemon", "in-process"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    kind: str = request.param
    folder = Path(tempfile.mkdtemp(prefix="chc-", dir="/tmp"))
    archive = oci_layout([busybox_layer()], IMAGE, Env=["PATH=/bin", "FROM_IMAGE=yes"]).write(
        folder / "b.tar"
    )
    stock, daemon = None, None
    try:
        if kind == "containerd":
            if shutil.which("containerd") is None:
                pytest.skip("containerd is not installed (apt-get install containerd)")
            stock = StockContainerd(folder)
            stock.start()
        elif kind == "daemon":
            daemon = DaemonProcess(folder)
            daemon.start()
        address = stock.address if stock else daemon.address if daemon else ""
        yield World(kind, folder, address, archive)
    finally:
        if stock is not None:
            stock.stop()
        if daemon is not None:
            daemon.stop_if_running()
        unmount_below(folder)
        if not mounts_below(folder):
            shutil.rmtree(folder)


@asynccontextmanager
async def connected(world: World, namespace: str) -> AsyncIterator[AsyncClient]:
    """A client with the image in a namespace of its own, in which nothing is left at the end."""
    async with await world.connect(namespace) as client:
        await world.import_image(client)
        try:
            yield client
            assert [info.id for info in await client.containers.list()] == []
            await until_async(lambda: not world.leftovers(), world.leftovers)
        finally:
            for info in await client.containers.list():
                await (await client.containers.get(info.id)).remove(force=True)
            for image in await client.images.list():
                await client.images.remove(image.name)
            remove_cgroups(namespace)


@pytest.fixture
async def client(world: World, token: str) -> AsyncIterator[AsyncClient]:
    async with connected(world, token) as opened:
        yield opened
