"""Small calls, and how soon a daemon serves. The client costs next to nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from benches.conftest import Side, Versus, compiled
from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.load import Load

_VERSION = "/containerd.services.version.v1.Version/Version"


def call(side: Side, count: int, at_once: int) -> None:
    """``count`` calls, ``at_once`` of them under way at any time."""
    load = Load(side.ctr.address, _VERSION)
    try:
        load.calls(count, at_once)
    finally:
        load.close()


def test_two_thousand_calls_one_after_the_other(versus: Versus) -> None:
    versus.time("2,000 Version calls in turn", lambda side: call(side, 2000, 1))


def test_ten_thousand_calls_32_at_once(versus: Versus) -> None:
    versus.time("10,000 Version calls, 32 at once", lambda side: call(side, 10_000, 32))


def test_start_of_the_daemon(versus: Versus, disk: Path) -> None:
    """From its program's start until its socket takes connections, on folders it has used before."""
    ours, theirs = disk / "start-ours", disk / "start-theirs"
    ours.mkdir()
    theirs.mkdir()
    daemon = DaemonProcess(ours, arguments=("--log-level", "info"))
    with StockContainerd(theirs) as stock:
        pass
    commands = {
        "ours": (daemon.command(), daemon.address),
        "containerd": (["containerd", "--config", str(theirs / "config.toml")], stock.address),
    }
    running: list[subprocess.Popen[bytes]] = []

    def start(side: Side) -> None:
        command, address = commands[side.name]
        Path(address).unlink(missing_ok=True)
        quiet = subprocess.DEVNULL
        environment = {**os.environ, **compiled(disk)}
        running.append(subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env=environment))
        with socket.socket(socket.AF_UNIX) as probe:
            while running[-1].poll() is None:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    probe.connect(address)
                    return
                time.sleep(0.002)
        raise AssertionError(f"{command} ended with {running[-1].returncode}")

    def stop(_: Side) -> None:
        process = running.pop()
        process.send_signal(signal.SIGTERM)
        process.wait()

    versus.time("start of the daemon", start, reset=stop, daemon=False)
