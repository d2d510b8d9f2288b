"""Our daemon with shims and OCI runtimes of others: containerd's own shim, crun beside runc."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import BUSYBOX_IMAGE
from containerd_hybrid.testing.processes import runs
from containerd_hybrid.testing.terminal import terminal
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

pytestmark = pytest.mark.root


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install {package})")
    return found


def go_shim() -> tuple[str, ...]:
    return ("--runtime", program("containerd-shim-runc-v2", "containerd"))


def go_shim_v1() -> tuple[str, ...]:
    program("containerd-shim-runc-v1", "containerd")
    return ("--runtime", "io.containerd.runc.v1")


def crun() -> tuple[str, ...]:
    return ("--runc-binary", program("crun", "crun"))


def own_shim() -> tuple[str, ...]:
    return ("--runtime", "io.containerd.hybrid.v2")


@pytest.fixture(params=[go_shim, go_shim_v1, crun, own_shim], ids=lambda choice: choice.__name__)
def choice(request: pytest.FixtureRequest, ctr: Ctr) -> tuple[str, ...]:
    chosen: tuple[str, ...] = request.param()
    if request.param is crun:
        done = ctr.run("run", "--rm", *chosen, BUSYBOX_IMAGE, "probe", "true")
        if "cgroups in hybrid mode not supported" in done.stderr:
            pytest.skip(f"crun cannot run on this machine: {done.stderr.strip()}")
    return chosen


def status(ctr: Ctr, id: str) -> str:
    return {line.split()[0]: line.split()[2] for line in ctr("task", "ls").splitlines()[1:]}.get(id, "")


def test_output_errors_and_exit_code(ctr: Ctr, choice: tuple[str, ...]) -> None:
    done = ctr.run("run", "--rm", *choice, BUSYBOX_IMAGE, "c", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert ctr("task", "ls", "-q") == ""


def test_a_containers_whole_life(ctr: Ctr, choice: tuple[str, ...]) -> None:
    script = "trap 'exit 3' TERM; touch /up; while :; do sleep 0.05; done"
    ctr("run", "-d", *choice, BUSYBOX_IMAGE, "c", "sh", "-c", script)
    assert status(ctr, "c") == "RUNNING"
    up = "until [ -e /up ]; do sleep 0.02; done; echo up; exit 5"
    done = ctr.run("task", "exec", "--exec-id", "e", "c", "sh", "-c", up)
    assert (done.stdout, done.returncode) == ("up\n", 5)
    ctr("task", "pause", "c")
    assert status(ctr, "c") == "PAUSED"
    ctr("task", "resume", "c")
    assert status(ctr, "c") == "RUNNING"
    assert ctr("task", "ps", "c").count("\n") >= 2
    assert json.loads(ctr("task", "metrics", "--format", "json", "c"))["pids"]["current"] >= 1
    assert "must be stopped before deletion" in ctr.run("task", "delete", "c").stderr
    ctr("task", "kill", "--signal", "SIGTERM", "c")
    until(lambda: status(ctr, "c") == "STOPPED", "it does not end")
    assert "exit code 3" in ctr.run("task", "delete", "c").stderr
    ctr("container", "delete", "c")


def test_a_program_that_is_not_there(ctr: Ctr, choice: tuple[str, ...]) -> None:
    done = ctr.run("run", "--rm", *choice, BUSYBOX_IMAGE, "c", "/no/such/program")
    assert done.returncode != 0
    assert "/no/such/program" in done.stderr
    assert ctr("task", "ls", "-q") == ""
    ctr.run("container", "delete", "c")


def test_a_terminal(ctr: Ctr, choice: tuple[str, ...]) -> None:
    with terminal() as person:
        # It ends when all has come: Go's shims lose what a process wrote last to a terminal.
        command = ctr.command("run", "--rm", "-t", *choice, BUSYBOX_IMAGE, "c", "sh", "-c", "tty; read end")
        program = person.start(command)
        person.expect("/dev/pts/0")
        person.type("\n")
        assert program.wait(GIVE_UP_SECONDS) == 0


def test_the_shim_is_the_chosen_one_and_outlives_the_daemon(
    daemon: DaemonProcess, ctr: Ctr, choice: tuple[str, ...]
) -> None:
    ctr("run", "-d", *choice, BUSYBOX_IMAGE, "c", "sleep", "1000")
    bundle = daemon.state / "io.containerd.runtime.v2.task" / ctr.namespace / "c"
    program = Path((bundle / "shim-binary-path").read_text())
    assert program.name == {
        shutil.which("containerd-shim-runc-v2"): "containerd-shim-runc-v2",
        "io.containerd.runc.v1": "containerd-shim-runc-v1",
    }.get(choice[1], "containerd-shim-hybrid-v2")
    daemon.restart(crash=True)
    assert status(ctr, "c") == "RUNNING"
    assert ctr("task", "exec", "--exec-id", "e", "c", "echo", "here") == "here\n"
    ctr("task", "kill", "--signal", "SIGKILL", "c")
    until(lambda: status(ctr, "c") == "STOPPED", "it does not end")
    assert "exit code 137" in ctr.run("task", "delete", "c").stderr
    ctr("container", "delete", "c")
    assert not bundle.exists()


def test_a_killed_shim_is_cleaned_up_after(daemon: DaemonProcess, ctr: Ctr, choice: tuple[str, ...]) -> None:
    ctr("run", "-d", *choice, BUSYBOX_IMAGE, "c", "sleep", "1000")
    bundle = daemon.state / "io.containerd.runtime.v2.task" / ctr.namespace / "c"
    (pid,) = (line.split()[1] for line in ctr("task", "ls").splitlines()[1:])
    os.kill(shim_in(bundle), signal.SIGKILL)
    until(lambda: status(ctr, "c") == "", "the task stays")
    until(lambda: not bundle.exists(), "the bundle stays")
    until(lambda: not runs(int(pid)), "the container's process stays")
    assert str(bundle) not in Path("/proc/self/mountinfo").read_text()
    ctr("task", "start", "-d", "c")
    assert status(ctr, "c") == "RUNNING"
    ctr("task", "delete", "--force", "c")
    ctr("container", "delete", "c")


def shim_in(bundle: Path) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if (entry / "cwd").readlink() == bundle and b"-id" in words:
                    return int(entry.name)
            except OSError:
                continue
    raise AssertionError(f"no shim runs in {bundle}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--runtime", "/no/such/shim"), "/no/such/shim"),
        (("--runtime", "io.containerd.nothing.v1"), "containerd-shim-nothing-v1"),
        (("--runc-binary", "/no/such/runc"), "/no/such/runc"),
    ],
    ids=["path", "name", "binary"],
)
def test_a_choice_that_is_not_installed_is_named(ctr: Ctr, options: tuple[str, ...], said: str) -> None:
    done = ctr.run("run", "--rm", *options, BUSYBOX_IMAGE, "c", "true")
    assert done.returncode != 0
    assert said in done.stderr
    assert ctr("task", "ls", "-q") == ""
    ctr.run("container", "delete", "c")
