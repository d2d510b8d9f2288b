"""The daemon is killed while containers run: the next one goes on where it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid.testing.ctr import Ctr, end_ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import busybox_archive
from containerd_hybrid.testing.leaks import remove_cgroups
from containerd_hybrid.testing.waiting import until

pytestmark = pytest.mark.root
IMAGE = "docker.io/library/busybox:latest"


@pytest.fixture
def ctr(daemon: DaemonProcess, token: str, tmp_path: Path) -> Iterator[Ctr]:
    """``ctr`` with an image; what a test left running is taken away at the end."""
    ctr = Ctr(daemon.address, token)
    ctr("image", "import", str(busybox_archive(tmp_path / "busybox.tar")))
    yield ctr
    clear(ctr)
    remove_cgroups(token)


def clear(ctr: Ctr) -> None:
    """Take all tasks and containers away."""
    for task in ctr("task", "ls", "-q").split():
        ctr("task", "delete", "--force", task)
    for container in ctr("container", "ls", "-q").split():
        ctr("container", "delete", container)


def tasks(ctr: Ctr) -> dict[str, str]:
    """Status by container."""
    lines = ctr("task", "ls").splitlines()[1:]
    return {line.split()[0]: line.split()[2] for line in lines}


def bundle(daemon: DaemonProcess, token: str, id: str) -> Path:
    return daemon.state / "io.containerd.runtime.v2.task" / token / id


def shim_of(bundle: Path) -> int:
    """The shim that was started for a bundle."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if (entry / "cwd").readlink() == bundle and b"-id" in words:
                    return int(entry.name)
            except OSError:
                continue
    raise AssertionError(f"no shim runs in {bundle}")


def run(ctr: Ctr, id: str, script: str, *options: str) -> None:
    ctr("run", "-d", *options, IMAGE, id, "sh", "-c", script)


def gos_shim() -> str:
    found = shutil.which("containerd-shim-runc-v2")
    if found is None:
        pytest.skip("containerd-shim-runc-v2 is not installed (apt-get install containerd)")
    return found


@pytest.mark.parametrize("own", [True, False], ids=["own-shim", "go-shim"])
@pytest.mark.parametrize("crash", [True, False], ids=["SIGKILL", "SIGTERM"])
def test_containers_outlive_the_daemon_and_are_its_successors(
    daemon: DaemonProcess, ctr: Ctr, token: str, crash: bool, own: bool
) -> None:
    runtime = () if own else ("--runtime", gos_shim())
    run(ctr, "goes-on", "trap 'exit 3' TERM; echo up > /up; while :; do sleep 0.05; done", *runtime)
    run(ctr, "ends", "while [ ! -e /end ]; do sleep 0.02; done; exit 9", *runtime)
    ctr("task", "exec", "--exec-id", "e0", "goes-on", "sh", "-c", "until [ -e /up ]; do sleep 0.02; done")
    pids = {line.split()[0]: line.split()[1] for line in ctr("task", "ls").splitlines()[1:]}
    _ = daemon.kill() if crash else daemon.stop()
    # It ends while nobody is there to be told.
    (Path(f"/proc/{pids['ends']}/root") / "end").touch()
    until(lambda: not Path(f"/proc/{pids['ends']}").exists(), "the container does not end")
    daemon.start()
    assert tasks(ctr) == {"goes-on": "RUNNING", "ends": "STOPPED"}
    assert ctr("task", "exec", "--exec-id", "e1", "goes-on", "echo", "still here") == "still here\n"
    assert ctr("task", "ps", "goes-on").count("\n") >= 2
    assert ctr("task", "metrics", "goes-on")
    assert "exit code 9" in ctr.run("task", "delete", "ends").stderr
    ctr("task", "kill", "goes-on")
    until(lambda: tasks(ctr)["goes-on"] == "STOPPED", "it does not end")
    assert "exit code 3" in ctr.run("task", "delete", "goes-on").stderr
    assert not list(bundle(daemon, token, "x").parent.iterdir())


def test_streams_of_a_container_go_on(daemon: DaemonProcess, ctr: Ctr, token: str) -> None:
    run(ctr, "talks", "while :; do echo tick; sleep 0.05; done")
    daemon.restart(crash=True)
    attached = ctr.start("task", "attach", "talks", stdout=subprocess.PIPE)
    assert attached.stdout is not None
    assert attached.stdout.readline() == b"tick\n"
    ctr("task", "kill", "--signal", "SIGKILL", "talks")
    attached.communicate()
    assert attached.returncode == 137


def test_who_waits_for_a_container_of_before_gets_its_code(
    daemon: DaemonProcess, ctr: Ctr, token: str
) -> None:
    run(ctr, "c", "while [ ! -e /end ]; do sleep 0.02; done; exit 6")
    daemon.restart(crash=True)
    (pid,) = (line.split()[1] for line in ctr("task", "ls").splitlines()[1:])
    attached = ctr.start("task", "attach", "c", stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    (Path(f"/proc/{pid}/root") / "end").touch()
    assert attached.wait() == 6


def test_a_shim_that_died_with_the_daemon_leaves_nothing(daemon: DaemonProcess, ctr: Ctr, token: str) -> None:
    run(ctr, "dead", "sleep 1000")
    run(ctr, "alive", "sleep 1000")
    (pid,) = (line.split()[1] for line in ctr("task", "ls").splitlines()[1:] if "dead" in line)
    left = bundle(daemon, token, "dead")
    shim = shim_of(left)
    daemon.kill()
    os.kill(shim, signal.SIGKILL)
    daemon.start()
    assert tasks(ctr) == {"alive": "RUNNING"}
    assert not left.exists()
    assert str(left) not in Path("/proc/self/mountinfo").read_text()
    until(lambda: not Path(f"/proc/{pid}").exists(), "its process lives on")
    # The name is free, and the snapshot as it was.
    ctr("task", "start", "-d", "dead")
    assert tasks(ctr) == {"alive": "RUNNING", "dead": "RUNNING"}


def test_a_shim_that_dies_under_the_daemon_is_told_and_cleaned_up(
    daemon: DaemonProcess, ctr: Ctr, token: str
) -> None:
    run(ctr, "c", "sleep 1000")
    daemon.restart(crash=True)
    with ctr.watch() as lines_until:
        os.kill(shim_of(bundle(daemon, token, "c")), signal.SIGKILL)
        until(lambda: tasks(ctr) == {}, "the task stays")
        text = "".join(lines_until("/tasks/delete"))
        # Another would come before whatever is published from here on.
        ctr("namespace", "label", token, "last=word")
        text += "".join(lines_until('"last":"word"'))
    assert text.count("/tasks/exit") == text.count("/tasks/delete") == 1
    assert '"exit_status":137' in text
    assert not bundle(daemon, token, "c").exists()


def test_a_daemon_killed_while_it_makes_containers_leaves_none_half_made(
    daemon: DaemonProcess, ctr: Ctr, token: str
) -> None:
    for delay in (0.05, 0.1, 0.15, 0.2, 0.3):
        starting = [
            ctr.start("run", "-d", IMAGE, f"c{delay}-{n}", "sleep", "1000", stderr=subprocess.DEVNULL)
            for n in range(4)
        ]
        time.sleep(delay)
        daemon.kill()
        for process in starting:
            end_ctr(process)
        daemon.start()
        known = tasks(ctr)
        folder = bundle(daemon, token, "x").parent
        on_disk = {path.name for path in folder.iterdir()} if folder.exists() else set()
        assert on_disk == set(known)
        assert set(known.values()) <= {"RUNNING", "CREATED"}
        # Each task has one shim, and nobody else has.
        shims = [path for path in folder.parent.glob("*/*") if shim_of(path)]
        assert {path.name for path in shims} == set(known)
        clear(ctr)


def test_adopting_fifty(daemon: DaemonProcess, ctr: Ctr) -> None:
    for number in range(50):
        ctr("run", "-d", IMAGE, f"c{number}", "sleep", "1000")
    daemon.restart(crash=True)
    assert tasks(ctr) == {f"c{number}": "RUNNING" for number in range(50)}
