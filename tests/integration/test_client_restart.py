"""The daemon goes and comes back; who waits for a process hardly notices."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.client_worlds import IMAGE
from tests.unit.images.archives import busybox_layer, oci_layout

import containerd_hybrid
from containerd_hybrid import Status, Streams
from containerd_hybrid.client import process as process_module
from containerd_hybrid.errors import UnavailableError
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import remove_cgroups
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS

pytestmark = pytest.mark.root


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return oci_layout([busybox_layer()], IMAGE, Env=["PATH=/bin"]).write(tmp_path / "busybox.tar")


@pytest.mark.parametrize("crash", [False, True])
async def test_waiting_goes_on_with_the_next_daemon(
    daemon: DaemonProcess, token: str, archive: Path, crash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_RESTART_SECONDS", GIVE_UP_SECONDS)
    seen = bytearray()
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        await client.images.import_archive(archive)
        script = "echo before; while ! test -e /end; do sleep 0.05; done; echo after; exit 7"
        container = await client.containers.create("busybox", ["sh", "-c", script])
        process = await container.start(Streams(stdout=seen.extend))
        waiting = asyncio.ensure_future(process.wait())
        await asyncio.to_thread(daemon.restart, crash=crash)
        assert await process.status() is Status.RUNNING
        await (await container.exec(["touch", "/end"])).wait()
        assert (await waiting).status == 7
        assert seen == b"before\nafter\n"
        await container.remove()
        await client.images.remove("busybox")
    remove_cgroups(token)


async def test_a_daemon_that_stays_away_is_told(
    daemon: DaemonProcess, token: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_RESTART_SECONDS", 1.0)
    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        await client.images.import_archive(archive)
        container = await client.containers.create("busybox", ["sleep", "1000"])
        process = await container.start()
        waiting = asyncio.ensure_future(process.wait())
        await asyncio.to_thread(daemon.stop)
        with pytest.raises(UnavailableError):
            await waiting
        await asyncio.to_thread(daemon.start)
        await container.remove(force=True)
        await client.images.remove("busybox")
    remove_cgroups(token)


def test_hyctl_run_stays_attached(daemon: DaemonProcess, token: str, archive: Path) -> None:
    command = [
        *(sys.executable, "-m", "containerd_hybrid.cli.main"),
        *("--address", daemon.address, "--namespace", token),
    ]
    subprocess.run([*command, "image", "import", str(archive)], check=True, capture_output=True)
    with subprocess.Popen(
        [*command, "run", "--rm", "-i", "busybox", "sh", "-c", "echo one; read x; echo $x; exit 5"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == b"one\n"
        # A container can be quicker than the answer that it was started, without which hyctl gives up:
        # that has been sent when a later call has its own.
        daemon.wait_for_log("containerd.services.tasks.v1.Tasks/Start")
        subprocess.run([*command, "ps", "-q"], check=True, capture_output=True)
        daemon.restart(crash=True)
        program.stdin.write(b"two\n")
        program.stdin.close()
        assert program.stdout.read() == b"two\n"
        assert program.wait(GIVE_UP_SECONDS) == 5
    assert subprocess.run([*command, "ps", "-aq"], check=True, capture_output=True).stdout == b""
    subprocess.run([*command, "image", "rm", "busybox"], check=True, capture_output=True)
    remove_cgroups(token)
