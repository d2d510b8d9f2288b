"""The OCI runtime's program under Debian's own containerd and its Go shim: runc's place, by path."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.images import BUSYBOX_IMAGE
from containerd_hybrid.testing.leaks import LeakCheck, remove_cgroups
from containerd_hybrid.testing.terminal import terminal
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS

PROGRAM = "containerd-hybrid-runtime"
ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")
        for name in ("containerd", "ctr", "containerd-shim-runc-v2")
    ),
]


@pytest.fixture
def binary() -> str:
    built = (ROOT / "python/containerd_hybrid/_bin", ROOT / "target/release", ROOT / "target/debug")
    places = (
        os.environ.get("CONTAINERD_HYBRID_RUNTIME"),
        shutil.which(PROGRAM),
        *(str(b / PROGRAM) for b in built),
    )
    for place in places:
        if place and os.access(place, os.X_OK):
            return place
    pytest.skip(f"{PROGRAM} is not built: cargo build --release -p {PROGRAM}")


@pytest.fixture
def stock(leak_check: LeakCheck, short_folder: Path, token: str) -> Iterator[StockContainerd]:
    folder = short_folder / "c"
    folder.mkdir()
    with StockContainerd(folder) as daemon:
        yield daemon
    # The namespace's cgroup was made for its containers, and the shim's state folder for the runtime.
    remove_cgroups(token)
    for parent in Path("/run/containerd/runc").glob(token):
        parent.rmdir()


@pytest.fixture
def address(stock: StockContainerd) -> str:
    return stock.address


def run(
    ctr: Ctr, binary: str, name: str, *command: str, flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return ctr.run("run", "--rm", "--runc-binary", binary, *flags, BUSYBOX_IMAGE, name, *command)


def test_run_with_the_default_profile(ctr: Ctr, binary: str) -> None:
    script = "echo out; echo err >&2; grep Seccomp: /proc/self/status; exit 7"
    done = run(ctr, binary, "one", "sh", "-c", script, flags=("--seccomp",))
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\nSeccomp:\t2\n", "err\n")


def test_a_program_that_is_not_there(ctr: Ctr, binary: str) -> None:
    done = run(ctr, binary, "none", "/no/such")
    assert done.returncode == 1
    assert 'exec: "/no/such": stat /no/such: no such file or directory' in done.stderr
    done = run(ctr, binary, "none2", "nosuch")
    assert 'exec: "nosuch": executable file not found in $PATH' in done.stderr


def test_exec_pause_kill_and_metrics(ctr: Ctr, binary: str) -> None:
    ctr("run", "-d", "--runc-binary", binary, BUSYBOX_IMAGE, "box", "sleep", "1000")
    try:
        assert ctr("task", "exec", "--exec-id", "e", "box", "echo", "hello") == "hello\n"
        failed = ctr.run("task", "exec", "--exec-id", "f", "box", "sh", "-c", "exit 4")
        assert failed.returncode == 4
        missing = ctr.run("task", "exec", "--exec-id", "g", "box", "nosuch")
        assert "executable file not found in $PATH" in missing.stderr
        ctr("task", "pause", "box")
        assert "PAUSED" in ctr("task", "ls")
        ctr("task", "resume", "box")
        assert "RUNNING" in ctr("task", "ls")
        assert len(ctr("task", "ps", "box").splitlines()) == 2
        assert "pids" in ctr("task", "metrics", "box")
    finally:
        ctr.run("task", "delete", "--force", "box")
        ctr.run("container", "delete", "box")


def test_a_terminal(ctr: Ctr, binary: str) -> None:
    with terminal() as person:
        # It ends when all has come: containerd 1.6's shim loses what a process wrote last to a terminal.
        script = ("sh", "-c", "tty; read end")
        command = ctr.command("run", "--rm", "-t", "--runc-binary", binary, BUSYBOX_IMAGE, "tty", *script)
        program = person.start(command)
        person.expect("/dev/pts/0")
        person.type("\n")
        assert program.wait(GIVE_UP_SECONDS) == 0


def test_a_root_that_is_read_only_and_the_hosts_network(ctr: Ctr, binary: str) -> None:
    script = "touch /x; readlink /proc/self/ns/net"
    done = run(ctr, binary, "ro", "sh", "-c", script, flags=("--read-only", "--net-host"))
    assert "Read-only file system" in done.stderr
    assert done.stdout.strip() == str(Path("/proc/self/ns/net").readlink())
