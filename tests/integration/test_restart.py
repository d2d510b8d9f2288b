"""Containers that the daemon keeps running, or stopped, by their labels."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import LeakCheck

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        "CONTAINERD_ADDRESS_FOR_TESTS" in os.environ, reason="the daemon needs a configuration of its own"
    ),
]
BUSYBOX = "docker.io/library/busybox:latest"
PREFIX = "containerd.io/restart."
CONFIG = """\
version = 4
[plugins."io.containerd.monitor.container.v1.restart"]
  interval = "200ms"
"""


@pytest.fixture
def daemon(leak_check: LeakCheck, short_folder: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(short_folder, config=CONFIG).serving(leak_check) as process:
        yield process


def run(ctr: Ctr, id: str, *command: str, wanted: str = "running", **labels: str) -> None:
    restart = {"status": wanted, **{key.replace("_", "-"): value for key, value in labels.items()}}
    options = [option for key, value in restart.items() for option in ("--label", f"{PREFIX}{key}={value}")]
    ctr("run", "-d", *options, BUSYBOX, id, *command)


def labels(ctr: Ctr, id: str) -> dict[str, str]:
    found = json.loads(ctr("container", "info", id))["Labels"]
    return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}


def task(ctr: Ctr, id: str) -> tuple[int, str] | None:
    """Its pid and status."""
    found = re.search(rf"^{id}\s+(\d+)\s+(\S+)", ctr("task", "ls"), re.MULTILINE)
    return (int(found[1]), found[2]) if found else None


def wait_for(what: Callable[[], object]) -> None:
    give_up = time.monotonic() + 120
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def several_looks() -> None:
    time.sleep(1)


def remove(ctr: Ctr, *ids: str) -> None:
    for name in ids:
        # Or it would be started again meanwhile.
        ctr("container", "label", name, f"{PREFIX}status=")
    for name in ids:
        # A look that began before may still start it once more.
        def gone(name: str = name) -> bool:
            ctr.run("task", "delete", "--force", name)
            return ctr.run("container", "delete", name).returncode == 0

        wait_for(gone)


def test_what_is_always_to_run_is_started_again(ctr: Ctr) -> None:
    run(ctr, "one", "sleep", "1000")
    first = task(ctr, "one")
    assert first is not None
    os.kill(first[0], signal.SIGKILL)
    wait_for(lambda: task(ctr, "one") not in (None, first) and task(ctr, "one")[1] == "RUNNING")  # type: ignore[index]
    assert labels(ctr, "one")["count"] == "1"
    several_looks()
    assert labels(ctr, "one")["count"] == "1"
    ctr("task", "delete", "--force", "one")
    wait_for(lambda: task(ctr, "one"))
    remove(ctr, "one")


def test_failures_are_tried_again_as_often_as_asked(ctr: Ctr) -> None:
    run(ctr, "fails", "sh", "-c", "exit 3", policy="on-failure:2")
    run(ctr, "ends", "true", policy="on-failure:2")
    wait_for(lambda: labels(ctr, "fails").get("count") == "2")
    several_looks()
    assert labels(ctr, "fails")["count"] == "2"
    assert (task(ctr, "fails") or (0, ""))[1] == "STOPPED"
    assert "count" not in labels(ctr, "ends")
    remove(ctr, "fails", "ends")


def test_who_was_stopped_by_hand_stays_stopped(ctr: Ctr) -> None:
    run(ctr, "one", "true", policy="unless-stopped", explicitly_stopped="true")
    several_looks()
    assert (task(ctr, "one") or (0, ""))[1] == "STOPPED"
    ctr("container", "label", "one", f"{PREFIX}explicitly-stopped=false")
    wait_for(lambda: "count" in labels(ctr, "one"))
    remove(ctr, "one")


def test_what_is_to_be_stopped_is_stopped(ctr: Ctr) -> None:
    run(ctr, "one", "sleep", "1000")
    ctr("container", "label", "one", f"{PREFIX}status=stopped")
    wait_for(lambda: task(ctr, "one") is None)
    remove(ctr, "one")


def test_output_goes_to_the_log(ctr: Ctr, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(ctr, "one", "sh", "-c", "echo again; exit 1", policy="on-failure:1", loguri=f"file://{log}")
    wait_for(lambda: log.exists() and "again" in log.read_text())
    remove(ctr, "one")


def test_a_daemon_starts_what_died_without_it(ctr: Ctr, daemon: DaemonProcess) -> None:
    run(ctr, "one", "sleep", "1000")
    run(ctr, "lives", "sleep", "1000")
    dies, lives = task(ctr, "one"), task(ctr, "lives")
    assert dies is not None
    daemon.kill()
    os.kill(dies[0], signal.SIGKILL)
    daemon.start()
    wait_for(lambda: task(ctr, "one") not in (None, dies))
    assert task(ctr, "lives") == lives, "what did not die is the same"
    remove(ctr, "one", "lives")


def test_a_wrong_policy_is_said(ctr: Ctr, daemon: DaemonProcess) -> None:
    run(ctr, "one", "true", policy="sometimes")
    daemon.wait_for_log("restart policy 'sometimes' not supported")
    assert (task(ctr, "one") or (0, ""))[1] == "STOPPED"
    remove(ctr, "one")
