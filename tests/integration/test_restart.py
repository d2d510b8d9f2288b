"""Containers that the daemon keeps running, or stopped, by their labels."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import LeakCheck
from containerd_hybrid.testing.waiting import until

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


def run(ctr: Ctr, id: str, *command: str, **labels: str) -> None:
    """The labels come last: the daemon looks so often here that it would make the task before ctr does."""
    ctr("run", "-d", BUSYBOX, id, *command)
    restart = {"status": "running", **{key.replace("_", "-"): value for key, value in labels.items()}}
    ctr("container", "label", id, *(f"{PREFIX}{key}={value}" for key, value in restart.items()))


def labels(ctr: Ctr, id: str) -> dict[str, str]:
    found = json.loads(ctr("container", "info", id))["Labels"]
    return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}


def task(ctr: Ctr, id: str) -> tuple[int, str]:
    """Its pid and status; 0 and no status while it has no task."""
    found = re.search(rf"^{id}\s+(\d+)\s+(\S+)", ctr("task", "ls"), re.MULTILINE)
    return (int(found[1]), found[2]) if found else (0, "")


def runs_anew(ctr: Ctr, id: str, before: tuple[int, str]) -> bool:
    pid, status = task(ctr, id)
    return pid != before[0] and status == "RUNNING"


def wait_until_stopped(ctr: Ctr, id: str) -> None:
    until(lambda: task(ctr, id)[1] == "STOPPED", lambda: ctr("task", "ls"))


def several_looks() -> None:
    """In which nothing is to happen; if the daemon is slower than that, nothing is shown."""
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

        until(gone, lambda: ctr("task", "ls"))


def test_what_is_always_to_run_is_started_again(ctr: Ctr) -> None:
    run(ctr, "one", "sleep", "1000")
    first = task(ctr, "one")
    os.kill(first[0], signal.SIGKILL)
    until(lambda: runs_anew(ctr, "one", first), lambda: ctr("task", "ls"))
    assert labels(ctr, "one")["count"] == "1"
    several_looks()
    assert labels(ctr, "one")["count"] == "1"
    ctr("task", "delete", "--force", "one")
    until(lambda: task(ctr, "one")[0], lambda: ctr("task", "ls"))
    remove(ctr, "one")


def test_failures_are_tried_again_as_often_as_asked(ctr: Ctr) -> None:
    run(ctr, "fails", "sh", "-c", "exit 3", policy="on-failure:2")
    run(ctr, "ends", "true", policy="on-failure:2")
    until(lambda: labels(ctr, "fails").get("count") == "2", lambda: labels(ctr, "fails"))
    several_looks()
    # It is counted before it is tried.
    wait_until_stopped(ctr, "fails")
    assert labels(ctr, "fails")["count"] == "2"
    wait_until_stopped(ctr, "ends")
    assert "count" not in labels(ctr, "ends")
    remove(ctr, "fails", "ends")


def test_who_was_stopped_by_hand_stays_stopped(ctr: Ctr) -> None:
    run(ctr, "one", "true", policy="unless-stopped", explicitly_stopped="true")
    wait_until_stopped(ctr, "one")
    several_looks()
    assert task(ctr, "one")[1] == "STOPPED"
    assert "count" not in labels(ctr, "one")
    ctr("container", "label", "one", f"{PREFIX}explicitly-stopped=false")
    until(lambda: "count" in labels(ctr, "one"), lambda: labels(ctr, "one"))
    remove(ctr, "one")


def test_what_is_to_be_stopped_is_stopped(ctr: Ctr) -> None:
    run(ctr, "one", "sleep", "1000")
    ctr("container", "label", "one", f"{PREFIX}status=stopped")
    until(lambda: task(ctr, "one")[0] == 0, lambda: ctr("task", "ls"))
    remove(ctr, "one")


def test_output_goes_to_the_log(ctr: Ctr, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(ctr, "one", "sh", "-c", "echo again; exit 1", policy="on-failure:1", loguri=f"file://{log}")
    until(lambda: log.exists() and "again" in log.read_text(), log)
    remove(ctr, "one")


def test_a_daemon_starts_what_died_without_it(ctr: Ctr, daemon: DaemonProcess) -> None:
    run(ctr, "one", "sleep", "1000")
    run(ctr, "lives", "sleep", "1000")
    dies, lives = task(ctr, "one"), task(ctr, "lives")
    daemon.kill()
    os.kill(dies[0], signal.SIGKILL)
    daemon.start()
    until(lambda: runs_anew(ctr, "one", dies), lambda: ctr("task", "ls"))
    assert task(ctr, "lives") == lives, "what did not die is the same"
    remove(ctr, "one", "lives")


def test_a_wrong_policy_is_said(ctr: Ctr, daemon: DaemonProcess) -> None:
    run(ctr, "one", "true", policy="sometimes")
    daemon.wait_for_log("restart policy 'sometimes' not supported")
    wait_until_stopped(ctr, "one")
    remove(ctr, "one")
