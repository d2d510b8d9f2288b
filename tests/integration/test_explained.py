"""``hyctl config explain`` and ``hyctl system info`` on a daemon and without one."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import containerd_hybrid
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import LeakCheck
from containerd_hybrid.testing.waiting import until_async

pytestmark = pytest.mark.root

CONFIG = """\
version = 4
nonsense = 1
[plugins."io.containerd.gc.v1.scheduler"]
pause_threshold = 0.3
[plugins."io.containerd.transfer.v1.local"]
config_path = "{hosts}"
"""


@pytest.fixture
def configured(short_folder: Path, leak_check: LeakCheck) -> Iterator[DaemonProcess]:
    folder = short_folder / "certs.d" / "registry.example"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text('[host."https://mirror.example"]\ncapabilities = ["pull"]\n')
    with DaemonProcess(short_folder, config=CONFIG.format(hosts=folder.parent)).serving(leak_check) as daemon:
        yield daemon


def hyctl(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "containerd_hybrid.cli.main", "-a", daemon.address, *arguments]
    environment = {**os.environ, "DOCKER_CONFIG": str(daemon.folder / "docker")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_key_an_image_and_the_system(configured: DaemonProcess) -> None:
    file = configured.folder / "config.toml"
    shown = hyctl(configured, "config", "explain", "io.containerd.gc.v1.scheduler.pause_threshold")
    assert shown.stdout.splitlines() == [
        'plugins."io.containerd.gc.v1.scheduler".pause_threshold = 0.3',
        f"    {file}:4 says 0.3",
        "    the default would be 0.02",
        f"read in this order, a later one overrides: {file}",
    ], shown.stderr
    ignored = json.loads(hyctl(configured, "config", "explain", "nonsense", "--json").stdout)
    assert ignored["Ignored"][0]["Key"] == "nonsense"
    assert "the command line says" in hyctl(configured, "config", "explain", "root").stdout

    docker = configured.folder / "docker"
    docker.mkdir()
    secret = base64.b64encode(b"jo:pass-phrase").decode()
    (docker / "config.json").write_text(json.dumps({"auths": {"mirror.example": {"auth": secret}}}))
    image = hyctl(configured, "config", "explain", "registry.example/a")
    assert "1. https://mirror.example/v2 (a mirror), to pull" in image.stdout, image.stderr
    assert f"user jo of {docker}/config.json" in image.stdout
    assert "2. https://registry.example/v2, to" in image.stdout
    assert "pass-phrase" not in image.stdout
    assert secret not in image.stdout
    assert hyctl(configured, "config", "explain", "debug.levle").returncode == 1
    assert hyctl(configured, "config", "busybox").returncode == 125

    info = json.loads(hyctl(configured, "system", "info", "--json").stdout)
    assert info["Pid"] == configured.pid
    assert info["Root"] == str(configured.root)
    assert info["Implementations"]["gzip"]
    assert "native" in info["Snapshotters"]
    states = {plugin["Name"]: plugin for plugin in info["Plugins"]}
    assert states["io.containerd.server.v1.grpc-tcp"]["Skipped"] is True
    assert "snapshotters: " in hyctl(configured, "system", "info").stdout


async def test_what_a_reload_changed_is_explained(configured: DaemonProcess) -> None:
    async with await containerd_hybrid.connect_async(configured.address) as client:
        configured.write_config('version = 4\n[debug]\nlevel = "trace"\n')
        os.kill(configured.pid, signal.SIGHUP)

        async def is_read() -> bool:
            found = await client.daemon.explain_key("io.containerd.gc.v1.scheduler.pause_threshold")
            return not found.keys[0].sources

        await until_async(is_read, "the file says nothing of the key any more")
        (level,) = (await client.daemon.explain_key("debug.level")).keys
        assert (level.sources[0].line, level.sources[0].value) == (3, "'trace'")


async def test_without_a_daemon_the_program_is_the_source(short_folder: Path) -> None:
    config = {"io.containerd.gc.v1.scheduler": {"mutation_threshold": 7}}
    async with await containerd_hybrid.open_async(
        short_folder / "root", short_folder / "state", config=config
    ) as client:
        (key,) = (await client.daemon.explain_key("io.containerd.gc.v1.scheduler.mutation_threshold")).keys
        assert (key.value, [source.place for source in key.sources]) == ("7", ["open()"])
        info = await client.daemon.info()
        assert (info.pid, info.root) == (os.getpid(), str(short_folder / "root"))
        assert (await client.daemon.explain_reference("busybox")).hosts[0].mirror is False
