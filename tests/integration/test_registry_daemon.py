"""The daemon pulls and pushes for its clients: the library, ``hyctl``, and ctr where it is new enough."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.registry_world import Fault, RegistryWorld, registry_world

import containerd_hybrid
from containerd_hybrid.errors import InvalidConfigError, NotFoundError, UnauthenticatedError
from containerd_hybrid.fsck.api import Problem, Summary
from containerd_hybrid.registry.api import Credential, RegistryOptions
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import ImageArchive, add_file, busybox_archive, tar_of, write_archive
from containerd_hybrid.testing.waiting import until_async
from containerd_hybrid.transfer.api import Progress

pytestmark = pytest.mark.root


class User:
    """Credentials of this client; ``asked`` is what the daemon wanted to know."""

    def __init__(self, secret: str = "secret-of-user") -> None:
        self.secret = secret
        self.asked: list[tuple[str, str]] = []

    async def get(self, host: str, reference: str) -> Credential | None:
        self.asked.append((host, reference))
        return Credential("user", self.secret)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryWorld]:
    with registry_world(tmp_path_factory.mktemp("registry") / "world") as world:
        archive = busybox_archive(world.folder / "busybox.tar")
        address = world.registry.address
        world.skopeo(
            "copy", "--preserve-digests", f"oci-archive:{archive}", f"docker://{address}/lib/busybox:1"
        )
        layers = [tar_of(lambda tar, n=n: add_file(tar, f"file{n}", os.urandom(4 << 20))) for n in range(2)]
        big = write_archive(world.folder / "big.tar", [ImageArchive("big:1", layers)])
        world.skopeo("copy", "--preserve-digests", f"oci-archive:{big}", f"docker://{address}/lib/big:1")
        yield world


@pytest.fixture(autouse=True)
def _no_faults(registry: RegistryWorld) -> None:
    registry.proxy.faults.clear()
    registry.proxy.seen.clear()


def options(registry: RegistryWorld, user: User | None = None) -> RegistryOptions:
    return RegistryOptions(hosts_dir=registry.hosts_dir, credentials=user or User())


async def test_the_library_pulls_runs_and_pushes(
    daemon: DaemonProcess, registry: RegistryWorld, token: str
) -> None:
    name = f"{registry.proxy.address}/lib/busybox:1"
    copy = f"{registry.proxy.address}/{token}/busybox:2"
    user = User()
    told: list[Progress] = []
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        image = await client.images.pull(name, registry=options(registry, user), progress=told.append)
        assert image.name == name
        assert user.asked == [(registry.proxy.address, name)]
        events = [step.event for step in told if step.name.startswith("layer-")]
        assert events[0] == "waiting"
        assert events[-1] == "extracted"
        _, config = await client.images.config(image)
        assert config.cmd == ("sh",)
        await client.images.push(name, copy, registry=options(registry))
        await client.images.remove(name)
    assert "2" in registry.skopeo("list-tags", f"docker://{registry.registry.address}/{token}/busybox")


async def test_what_a_client_did_wrong_reaches_it(
    daemon: DaemonProcess, registry: RegistryWorld, token: str, tmp_path: Path
) -> None:
    address = registry.proxy.address
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        with pytest.raises(UnauthenticatedError, match="gives no token"):
            await client.images.pull(f"{address}/lib/busybox:1", registry=options(registry, User("wrong")))
        with pytest.raises(NotFoundError, match="lib/none:1"):
            await client.images.pull(f"{address}/lib/none:1", registry=options(registry))
        assert await client.images.list() == []
    assert "wrong" not in daemon.log.replace("wrong password", "")
    assert "secret-of-user" not in daemon.log


async def test_damaged_blobs_are_fetched_again(
    daemon: DaemonProcess, registry: RegistryWorld, token: str
) -> None:
    """Layer, config, manifest and index alike; what a lost one names is looked at in the next check.

    The registry gives nothing to who does not say who they are.
    """
    daemon.write_config(
        f'version = 3\n[plugins."io.containerd.transfer.v1.local"]\nconfig_path = "{registry.hosts_dir}"\n'
    )
    daemon.restart()
    name = f"{registry.proxy.address}/lib/busybox:1"
    user = RegistryOptions(credentials=User())
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        await client.images.pull(name, registry=options(registry))
        blobs = sorted((daemon.root / "io.containerd.content.v1.content/blobs/sha256").iterdir())
        whole = {path.name: path.read_bytes() for path in blobs}
        for path in blobs:
            data = bytearray(path.read_bytes())
            data[10] ^= 1
            path.chmod(0o644)
            path.write_bytes(data)
        problems = [found async for found in client.daemon.check() if isinstance(found, Problem)]
        assert {problem.name for problem in problems} == {f"sha256:{digest}" for digest in whole}
        for _ in range(4):
            found = [found async for found in client.daemon.check(repair=True, registry=user)]
            if not any(isinstance(one, Problem) for one in found):
                break
        assert found == [Summary(len(whole), sum(map(len, whole.values())), 1, 0)]
        assert {path.name: path.read_bytes() for path in blobs} == whole
        await client.images.remove(name)


async def test_credentials_that_cannot_be_read_end_the_pull(
    daemon: DaemonProcess, registry: RegistryWorld, token: str
) -> None:
    class Broken:
        async def get(self, host: str, reference: str) -> Credential | None:
            raise InvalidConfigError("config.json: expected JSON")

    broken = RegistryOptions(hosts_dir=registry.hosts_dir, credentials=Broken())
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        with pytest.raises(InvalidConfigError, match=r"config\.json"):
            await client.images.pull(f"{registry.proxy.address}/lib/busybox:1", registry=broken)


async def test_a_daemon_that_is_killed_goes_on_where_it_was(
    daemon: DaemonProcess, registry: RegistryWorld, token: str
) -> None:
    name = f"{registry.proxy.address}/lib/big:1"
    registry.proxy.faults.append(Fault("/blobs/", stall_after=2_500_000, times=99))
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        pull = asyncio.ensure_future(client.images.pull(name, registry=options(registry)))
        ingests = daemon.root / "io.containerd.content.v1.content" / "ingest"

        def midway() -> bool:
            assert not pull.done(), pull.exception()
            return any(size_of(file) >= 1 << 20 for file in ingests.glob("*/data"))

        await until_async(midway, "a part of a layer")
        daemon.kill()
        with pytest.raises(containerd_hybrid.HybridError):
            await pull
    registry.proxy.faults.clear()
    registry.proxy.seen.clear()
    daemon.start()
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        assert await client.images.list() == []
        await client.images.pull(name, registry=options(registry))
        assert any("Range" in seen.headers for seen in registry.proxy.seen)
        assert not list(ingests.iterdir())
        await client.images.remove(name)


def size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


async def test_a_client_that_goes_away_ends_its_pull(
    daemon: DaemonProcess, registry: RegistryWorld, token: str
) -> None:
    name = f"{registry.proxy.address}/lib/big:1"
    registry.proxy.faults.append(Fault("/blobs/", stall_after=1000, times=99))
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        pull = asyncio.ensure_future(client.images.pull(name, registry=options(registry)))
        await until_async(lambda: pull.done() or registry.proxy.count("GET", "/blobs/") >= 3, pull)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        registry.proxy.faults.clear()
        await client.images.pull(name, registry=options(registry))
        await client.images.remove(name)


def test_hyctl_pulls_and_pushes_as_dockers_configuration_says(
    daemon: DaemonProcess, registry: RegistryWorld, token: str, tmp_path: Path
) -> None:
    address = registry.registry.address
    name, copy = f"{address}/lib/busybox:1", f"{address}/{token}/hyctl:1"
    auth = {"auth": "dXNlcjpzZWNyZXQtb2YtdXNlcg=="}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {address: auth}}))
    environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}

    def hyctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "containerd_hybrid.cli.main"]
        command += ["--address", daemon.address, "--namespace", token, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    place = ("--hosts-dir", registry.hosts_dir)
    pulled = hyctl("pull", *place, name)
    assert pulled.returncode == 0, pulled.stderr
    assert name in pulled.stdout
    assert re.search(r"Digest: sha256:[0-9a-f]{64}", pulled.stdout)
    assert hyctl("image", "tag", name, copy).returncode == 0
    pushed = hyctl("image", "push", *place, copy)
    assert pushed.returncode == 0, pushed.stderr
    assert "1" in registry.skopeo("list-tags", f"docker://{address}/{token}/hyctl")
    missing = hyctl("image", "pull", *place, f"{address}/lib/none:1")
    assert missing.returncode == 1
    assert "status 404" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1
    anonymous = hyctl("pull", *place, "--anonymous", name)
    assert anonymous.returncode == 1
    assert "log in" in anonymous.stderr
    assert hyctl("image", "rm", name, copy).returncode == 0


@pytest.fixture
def new_ctr(daemon: DaemonProcess, token: str) -> Ctr:
    """A ctr that uses the transfer service: of containerd 2, named by CTR_FOR_TESTS or on PATH."""
    program = os.environ.get("CTR_FOR_TESTS") or shutil.which("ctr") or "ctr"
    found = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"(\d+)\.\d+", found.stdout)
    if version is None or int(version[1]) < 2:
        pytest.skip("no ctr of containerd 2: older ones pull by themselves")
    return Ctr(daemon.address, token, program)


def test_ctr_shows_its_bars(new_ctr: Ctr, registry: RegistryWorld) -> None:
    name = f"{registry.proxy.address}/lib/big:1"
    access = ("--hosts-dir", registry.hosts_dir, "--user", "user:secret-of-user")
    shown = new_ctr("image", "pull", *access, name)
    assert shown.count("layer (") >= 2
    assert re.search(r"layer \([0-9a-f]+\)\s+extracted", shown)
    assert re.search(rf"{re.escape(name)}\s+saved", shown)
    shown = new_ctr("image", "push", *access, name)
    assert re.search(r"manifest \([0-9a-f]+\)\s+already exists", shown)
    refused = new_ctr.run("image", "pull", "--hosts-dir", registry.hosts_dir, name)
    assert refused.returncode == 1
    assert "log in to the registry" in refused.stderr
    new_ctr("image", "rm", "--sync", name)


def test_start_up_does_not_wait_for_the_http_library(daemon: DaemonProcess) -> None:
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "_http_parser" not in maps, "aiohttp's parser is loaded by the first pull"
