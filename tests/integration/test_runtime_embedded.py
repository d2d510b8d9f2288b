"""The daemon with the runtime that is in its shim: nothing else that runs containers is on PATH."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import containerd_hybrid
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import BUSYBOX_IMAGE, busybox_program
from containerd_hybrid.testing.leaks import LeakCheck
from containerd_hybrid.testing.processes import open_files, runs
from containerd_hybrid.testing.terminal import terminal
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

STATES = Path("/run/containerd/hybrid")
POD = ("--annotation", "io.kubernetes.cri.sandbox-id=pod")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(shutil.which("ctr") is None, reason="ctr is not installed"),
]

Spec: TypeAlias = dict[str, Any]
Configured: TypeAlias = Callable[[str, Spec], Path]


@pytest.fixture
def daemon(leak_check: LeakCheck, short_folder: Path) -> Iterator[DaemonProcess]:
    """A daemon that finds no program but its own; its shims leave scores alone that they may not set."""
    empty = short_folder / "bin"
    empty.mkdir()
    config = """
version = 3
[plugins."io.containerd.shim.v1.manager"]
env = ["CONTAINERD_HYBRID_RESTRICT_OOM_SCORE_ADJ=1"]
"""
    with DaemonProcess(short_folder, config=config, environment={"PATH": str(empty)}).serving(
        leak_check
    ) as process:
        yield process


@pytest.fixture(autouse=True)
def _no_state_is_left(token: str) -> Iterator[None]:
    yield
    until(lambda: not (STATES / token).exists(), STATES / token)


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """Writes a specification with a root file system of its own and some fields put over the default."""

    def write(name: str, fields: Spec) -> Path:
        rootfs = tmp_path / name / "rootfs"
        for folder in ("bin", "proc", "tmp", "dev"):
            (rootfs / folder).mkdir(parents=True)
        shutil.copy(busybox_program(), rootfs / "bin/sh")
        process: Spec = {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", "exit 3"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
            **fields.pop("process", {}),
        }
        spec: Spec = {
            "ociVersion": "1.1.0",
            "process": process,
            "root": {"path": str(rootfs)},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "cgroupsPath": fields.pop("cgroup"),
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
            },
            **fields,
        }
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps(spec))
        return path

    return write


def remove(ctr: Ctr, *names: str) -> None:
    for name in names:
        ctr.run("task", "delete", "--force", name)
        ctr.run("container", "delete", name)


def bundle(daemon: DaemonProcess, ctr: Ctr, name: str) -> Path:
    return daemon.state / "io.containerd.runtime.v2.task" / ctr.namespace / name


def shims(ctr: Ctr) -> list[int]:
    """The shims that serve this namespace: in a bundle. (A created container is a copy, in its own root.)"""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"shim" in words[0] and (path / "cwd").readlink().parent.name == ctr.namespace:
                found.append(int(path.name))
    return found


def test_run_exec_and_exit_codes_without_a_runtime_on_the_path(ctr: Ctr) -> None:
    script = "echo out; echo err >&2; grep Seccomp: /proc/self/status; exit 7"
    done = ctr.run("run", "--rm", "--seccomp", BUSYBOX_IMAGE, "one", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\nSeccomp:\t2\n", "err\n")
    with ctr.start("run", BUSYBOX_IMAGE, "two", "sleep", "1000") as killed:
        until(lambda: "RUNNING" in ctr("task", "ls"), "the container runs")
        ctr("task", "kill", "-s", "KILL", "two")
        assert killed.wait(GIVE_UP_SECONDS) == 128 + signal.SIGKILL
    remove(ctr, "two")
    ctr("run", "-d", BUSYBOX_IMAGE, "box", "sleep", "1000")
    try:
        assert ctr("task", "exec", "--exec-id", "e", "box", "echo", "hello") == "hello\n"
        assert ctr.run("task", "exec", "--exec-id", "f", "box", "sh", "-c", "exit 4").returncode == 4
        user = ctr("task", "exec", "--exec-id", "u", "--user", "7:8", "box", "id")
        assert user.startswith("uid=7")
        assert "gid=8" in user
        ctr("task", "pause", "box")
        assert "PAUSED" in ctr("task", "ls")
        ctr("task", "resume", "box")
        assert len(ctr("task", "ps", "box").splitlines()) == 2
        assert "pids" in ctr("task", "metrics", "box")
    finally:
        remove(ctr, "box")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("/no/such", 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc", "is a directory"),
    ],
)
def test_what_cannot_be_started_is_told_in_runcs_words(ctr: Ctr, program: str, words: str) -> None:
    done = ctr.run("run", "--rm", BUSYBOX_IMAGE, "none", program)
    assert done.returncode == 1
    assert "OCI runtime create failed: " in done.stderr
    assert "unable to start container process: " in done.stderr
    assert words in done.stderr
    ctr("run", "-d", BUSYBOX_IMAGE, "box", "sleep", "1000")
    try:
        failed = ctr.run("task", "exec", "--exec-id", "e", "box", program)
        assert "OCI runtime exec failed: exec failed: " in failed.stderr
        assert words in failed.stderr
    finally:
        remove(ctr, "box")


def test_a_terminal(ctr: Ctr) -> None:
    with terminal() as person:
        program = person.start(ctr.command("run", "--rm", "-t", BUSYBOX_IMAGE, "tty", "tty"))
        person.expect("/dev/pts/0")
        assert program.wait(GIVE_UP_SECONDS) == 0


def test_the_bundle_says_who_its_init_is_and_the_shim_cannot_be_written_to(
    ctr: Ctr, daemon: DaemonProcess
) -> None:
    ctr("run", "-d", BUSYBOX_IMAGE, "box", "sleep", "1000")
    try:
        init = int((bundle(daemon, ctr, "box") / "init.pid").read_text())
        assert Path(f"/proc/{init}/cmdline").read_bytes() == b"sleep\x001000\x00"
        assert (STATES / ctr.namespace / "box" / "config.json").exists()
        (shim,) = shims(ctr)
        assert os.statvfs(f"/proc/{shim}/exe").f_flag & os.ST_RDONLY
        assert Path(f"/proc/{shim}/comm").read_text() == "containerd-shim\n"
    finally:
        remove(ctr, "box")


def test_a_created_container_holds_nothing_of_its_shim(ctr: Ctr, configured: Configured) -> None:
    """Its process is a copy of the shim: a stream of another container would not end with that one."""
    spec = configured(
        "reads",
        {
            "cgroup": f"/{ctr.namespace}/reads",
            "annotations": {"io.kubernetes.cri.sandbox-id": "pod"},
            "process": {"args": ["sh", "-c", "read line; echo got $line"]},
        },
    )
    command = ctr.command("run", "--rm", "--config", str(spec), "reads")
    ctr("container", "create", *POD, BUSYBOX_IMAGE, "waits", "true")
    with (
        containerd_hybrid.connect(ctr.address, ctr.namespace) as client,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader,
    ):
        until(lambda: "RUNNING" in ctr("task", "ls"), "the container runs")
        waits = client.containers.get("waits").create_task()
        assert len(shims(ctr)) == 1
        held = [link for descriptor, link in open_files(waits.pid).items() if descriptor > 2]
        assert len(held) <= 2, held
        assert all(link.name.startswith("socket:") for link in held), held
        out, _ = reader.communicate(b"it\n", timeout=GIVE_UP_SECONDS)
        assert out == b"got it\n"
        waits.start()
        assert waits.wait().status == 0
    remove(ctr, "waits")


def test_a_hook_holds_up_its_own_container_only(
    ctr: Ctr, daemon: DaemonProcess, configured: Configured, tmp_path: Path
) -> None:
    gate, told = tmp_path / "gate", tmp_path / "told"
    os.mkfifo(gate)
    hook = {
        "path": str(busybox_program()),
        "args": ["sh", "-c", f"read line < {gate}; echo $line; cat > {told}"],
        "env": ["PATH=/usr/bin:/bin"],
    }
    poststop = {"path": str(busybox_program()), "args": ["touch", str(tmp_path / "stopped")]}
    annotations = {"io.kubernetes.cri.sandbox-id": "pod"}
    ctr("run", "-d", *POD, BUSYBOX_IMAGE, "other", "sleep", "1000")
    spec = configured(
        "hooked",
        {
            "cgroup": f"/{ctr.namespace}/hooked",
            "annotations": annotations,
            "hooks": {"createRuntime": [hook], "poststop": [poststop]},
        },
    )
    with ctr.start("run", "--rm", "--config", str(spec), "hooked") as hooked:
        try:
            # Opening it to write succeeds when the hook reads.
            with gate.open("w") as opened:
                assert len(shims(ctr)) == 1
                assert ctr("task", "exec", "--exec-id", "e", "other", "echo", "alive") == "alive\n"
                opened.write("go\n")
            assert hooked.wait(GIVE_UP_SECONDS) == 3
        finally:
            hooked.kill()
    assert json.loads(told.read_text())["id"] == "hooked"
    assert (tmp_path / "stopped").exists()
    remove(ctr, "other")


def test_a_container_with_hooks_whose_shim_is_killed_leaves_nothing(
    ctr: Ctr, daemon: DaemonProcess, configured: Configured, tmp_path: Path
) -> None:
    poststop = {"path": str(busybox_program()), "args": ["touch", str(tmp_path / "stopped")]}
    spec = configured(
        "hooked",
        {
            "cgroup": f"/{ctr.namespace}/hooked",
            "process": {"args": ["sh", "-c", "read line"]},
            "hooks": {"poststop": [poststop]},
        },
    )
    reader = ctr.start("run", "--config", str(spec), "hooked", stdin=subprocess.PIPE)
    with reader:
        until(lambda: "RUNNING" in ctr("task", "ls"), "the container runs")
        folder = bundle(daemon, ctr, "hooked")
        init = int((folder / "init.pid").read_text())
        (shim,) = shims(ctr)
        os.kill(shim, signal.SIGKILL)
        until(lambda: not folder.exists(), folder)
        until(lambda: not runs(init), init)
    # The client knows how it ended, or could not say so any more: the task is gone.
    assert reader.returncode in (1, 128 + signal.SIGKILL)
    until((tmp_path / "stopped").exists, "the poststop hook")
    until(lambda: not list(Path("/sys/fs/cgroup").glob(f"*/{ctr.namespace}/hooked")), "no cgroup")
    remove(ctr, "hooked")


def test_limits_of_the_daemon_and_scores_that_may_not_be_set(ctr: Ctr, configured: Configured) -> None:
    """A shim raises its own limit of open files; a container without one has the daemon's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = "ulimit -Sn; ulimit -Hn; read score < /proc/self/oom_score_adj; echo score $score"
    fields = {
        "cgroup": f"/{ctr.namespace}/limits",
        "process": {"args": ["sh", "-c", script], "oomScoreAdj": -999},
    }
    out = ctr("run", "--rm", "--config", str(configured("limits", fields)), "limits").split()
    assert out[:3] == [str(soft), str(hard), "score"]
    # With the capability it is what was asked for, without it what it was.
    assert out[3] == "-999" or int(out[3]) > -999


def test_systemd_is_asked_for_the_cgroup_when_that_is_wanted(ctr: Ctr) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("there is a systemd here, and a cgroup of its would be made")
    flags = ("--runc-systemd-cgroup", "--cgroup", f"machine.slice:{ctr.namespace}:box")
    refused = ctr.run("run", "--rm", *flags, BUSYBOX_IMAGE, "systemd", "true")
    assert refused.returncode == 1
    assert "OCI runtime create failed: " in refused.stderr
    assert "systemd" in refused.stderr


def test_another_runtime_can_be_chosen(ctr: Ctr) -> None:
    missing = ctr.run("run", "--rm", "--runc-binary", "nosuch", BUSYBOX_IMAGE, "missing", "true")
    assert 'exec: "nosuch": executable file not found in $PATH' in missing.stderr
    runc = shutil.which("runc")
    if runc is not None:
        try:
            assert ctr("run", "--rm", "--runc-binary", runc, BUSYBOX_IMAGE, "runc", "echo", "hi") == "hi\n"
        finally:
            Path("/run/containerd/runc", ctr.namespace).rmdir()
