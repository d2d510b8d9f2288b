"""The shim under Debian's own containerd: a runtime like any other, by its name on PATH.

Every test has a containerd of its own, with folders and a socket of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from containerd_hybrid._programs import SHIM, shim_path
from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.ctr import Ctr, topics
from containerd_hybrid.testing.images import BUSYBOX_IMAGE, busybox_program
from containerd_hybrid.testing.leaks import LeakCheck, remove_cgroups
from containerd_hybrid.testing.processes import catches, runs
from containerd_hybrid.testing.terminal import terminal
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

Run: TypeAlias = "Callable[..., subprocess.CompletedProcess[str]]"
Detached: TypeAlias = Callable[..., None]

RUNTIME = "io.containerd.hybrid.v2"
SIGNALLED = 128

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    *(
        pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
        for program in ("containerd", "ctr", "runc")
    ),
]


@pytest.fixture
def stock(leak_check: LeakCheck, short_folder: Path, token: str) -> Iterator[StockContainerd]:
    """A private containerd that finds the shim on its PATH."""
    try:
        program = shim_path()
    except NotFoundError as error:
        pytest.skip(str(error))
    programs = short_folder / "bin"
    programs.mkdir()
    (programs / SHIM).symlink_to(program)
    folder = short_folder / "c"
    folder.mkdir()
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    with StockContainerd(folder, environment=environment) as daemon:
        yield daemon
    # runc removes a container's cgroup and state, and leaves the namespace's, which it made for them.
    remove_cgroups(token)
    for parent in Path("/run/containerd/runc").glob(token):
        parent.rmdir()


@pytest.fixture
def address(stock: StockContainerd) -> str:
    return stock.address


@pytest.fixture
def run(ctr: Ctr) -> Run:
    """``ctr run --rm`` of a shell script."""

    def call(name: str, script: str, *flags: str, input: str | None = "") -> subprocess.CompletedProcess[str]:
        command = ("run", "--rm", "--runtime", RUNTIME, *flags, BUSYBOX_IMAGE, name, "sh", "-c", script)
        return ctr.run(*command, input=input)

    return call


@pytest.fixture
def detached(ctr: Ctr) -> Iterator[Detached]:
    """``ctr run --detach`` of a shell script; what is left of it at the end is taken away."""
    names = []

    def call(name: str, script: str, *flags: str) -> None:
        names.append(name)
        ctr("run", "-d", "--runtime", RUNTIME, *flags, BUSYBOX_IMAGE, name, "sh", "-c", script)

    yield call
    for name in names:
        ctr.run("task", "delete", "--force", name)
        ctr.run("container", "delete", name)


def status(ctr: Ctr, name: str) -> str:
    for line in ctr("task", "ls").splitlines():
        fields = line.split()
        if fields[0] == name:
            return fields[2]
    return ""


def bundle(stock: StockContainerd, ctr: Ctr, name: str) -> Path:
    return stock.folder / "state/io.containerd.runtime.v2.task" / ctr.namespace / name


def shims(ctr: Ctr) -> list[int]:
    """Shims that serve this namespace."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        serving = not {b"start", b"delete"} & set(words)
        if serving and words[0].endswith(SHIM.encode()) and ctr.namespace.encode() in words:
            found.append(int(path.parent.name))
    return sorted(found)


def exit_code(ctr: Ctr, name: str) -> int:
    """Delete a stopped task and give the code it exited with."""
    done = ctr.run("task", "delete", name)
    told = re.search(r"exit with non-zero exit code (\d+)", done.stderr)
    if told:
        return int(told[1])
    assert done.returncode == 0, done.stderr
    return 0


def test_exit_code_and_both_streams(run: Run, ctr: Ctr) -> None:
    done = run("one", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    until(lambda: not shims(ctr))


def test_a_program_that_is_not_there(ctr: Ctr) -> None:
    done = ctr.run("run", "--rm", "--runtime", RUNTIME, BUSYBOX_IMAGE, "none", "/no/such")
    assert done.returncode == 1
    assert "OCI runtime create failed: " in done.stderr
    assert 'exec: "/no/such"' in done.stderr
    assert ctr("task", "ls", "-q") == ""
    until(lambda: not shims(ctr))


def test_input_to_its_end(ctr: Ctr) -> None:
    # ctr itself can miss an input that ends before the container runs.
    command = ctr.command(
        "run", "--rm", "--runtime", RUNTIME, BUSYBOX_IMAGE, "in", "sh", "-c", "echo runs; sha256sum"
    )
    data = os.urandom(3 << 20)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data)
        process.stdin.flush()
        assert process.stdout.readline() == b"runs\n"
        process.stdin.close()
        output = process.stdout.read()
    assert output.split()[0].decode() == hashlib.sha256(data).hexdigest()


@pytest.mark.slow
def test_large_output_is_whole(ctr: Ctr) -> None:
    size = 256 << 20
    script = f"yes 0123456789abcdef | head -c {size}"
    command = ctr.command("run", "--rm", "--runtime", RUNTIME, BUSYBOX_IMAGE, "big", "sh", "-c", script)
    digest, got = hashlib.sha256(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(1 << 20):
            digest.update(chunk)
            got += len(chunk)
    line = b"0123456789abcdef\n"
    expected = hashlib.sha256((line * (size // len(line) + 1))[:size])
    assert (got, digest.hexdigest()) == (size, expected.hexdigest())


def test_a_terminal(ctr: Ctr) -> None:
    with terminal() as person:
        command = ctr.command("run", "--rm", "-t", "--runtime", RUNTIME, BUSYBOX_IMAGE, "tty", "sh")
        program = person.start(command)
        person.expect("# ")
        person.type("echo to''gether\n")
        person.expect("together\r")  # the echo of the line has the quotes
        person.type("tty; stty size\n")
        person.expect("/dev/pts/")
        person.expect("24 80")
        person.resize(101, 33)
        person.type("until stty size | grep '33 101'; do sleep 0.05; done\n")
        # ctr hears of a resize only once it listens, some time after the shell's first prompt.
        person.expect("\n33 101", again=lambda: program.send_signal(signal.SIGWINCH))
        # Who says it is what is to be interrupted, so it has the terminal by then.
        person.type("sh -c 'echo be''gun; exec sleep 1000'\n")
        person.expect("begun\r")
        person.type("\x03")
        person.expect("# ")
        person.type("echo code=$?\n")
        person.expect(f"code={SIGNALLED + signal.SIGINT}")
        person.type("exit 5\n")
        assert program.wait(GIVE_UP_SECONDS) == 5


def test_exec(ctr: Ctr, detached: Detached) -> None:
    detached("host", "sleep 1000")
    done = ctr.run("task", "exec", "--exec-id", "a", "host", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    # The id is free again.
    assert ctr("task", "exec", "--exec-id", "a", "host", "echo", "again") == "again\n"
    done = ctr.run("task", "exec", "--exec-id", "b", "host", "/no/such")
    assert done.returncode == 1
    assert "OCI runtime exec failed: " in done.stderr

    command = ctr.command("task", "exec", "--exec-id", "c", "host", "cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"through\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"through\n"
        process.stdin.close()
        assert process.stdout.read() == b""
    with terminal() as person:
        program = person.start(ctr.command("task", "exec", "-t", "--exec-id", "d", "host", "sh"))
        person.expect("# ")
        person.type("exit 4\n")
        assert program.wait(GIVE_UP_SECONDS) == 4


def test_kill_pause_resume_ps_metrics(stock: StockContainerd, ctr: Ctr, detached: Detached) -> None:
    detached("box", "trap 'exit 9' TERM; while :; do sleep 0.1; done")
    assert status(ctr, "box") == "RUNNING"
    init = (bundle(stock, ctr, "box") / "init.pid").read_text()
    assert init in ctr("task", "ps", "box").split()
    metrics = ctr("task", "metrics", "--format", "json", "box")
    assert json.loads(metrics)["pids"]["current"] >= 1
    ctr("task", "pause", "box")
    assert status(ctr, "box") == "PAUSED"
    assert "cannot exec in a paused state" in ctr.run("task", "exec", "--exec-id", "x", "box", "true").stderr
    ctr("task", "resume", "box")
    assert status(ctr, "box") == "RUNNING"
    until(lambda: catches(int(init), signal.SIGTERM), "the trap")
    ctr("task", "kill", "box")
    until(lambda: status(ctr, "box") == "STOPPED")
    assert "process already finished: not found" in ctr.run("task", "kill", "box").stderr
    assert exit_code(ctr, "box") == 9
    until(lambda: not shims(ctr))


def test_events_in_order(ctr: Ctr, detached: Detached) -> None:
    with ctr.watch() as lines_until:
        detached("box", "sleep 1000")
        ctr("task", "exec", "--exec-id", "e", "box", "true")
        ctr("task", "pause", "box")
        ctr("task", "resume", "box")
        ctr("task", "kill", "-s", "SIGKILL", "box")
        until(lambda: status(ctr, "box") == "STOPPED")
        assert exit_code(ctr, "box") == SIGNALLED + signal.SIGKILL
        told = topics(lines_until("/tasks/delete"))
    expected = "create start exec-added exec-started exit paused resumed exit delete"
    assert [topic for topic in told if topic.startswith("/tasks/")] == [
        f"/tasks/{name}" for name in expected.split()
    ]


def test_twenty_at_once(ctr: Ctr) -> None:
    def command(number: int) -> list[str]:
        script = f"echo out{number}; exit {number}"
        return ctr.command(
            "run", "--rm", "--runtime", RUNTIME, BUSYBOX_IMAGE, f"box{number}", "sh", "-c", script
        )

    processes = [subprocess.Popen(command(number), stdout=subprocess.PIPE) for number in range(20)]
    for number, process in enumerate(processes):
        output, _ = process.communicate()
        assert (process.returncode, output) == (number, f"out{number}\n".encode())
    until(lambda: not shims(ctr))


def test_a_pod_shares_one_shim(ctr: Ctr, detached: Detached, stock: StockContainerd) -> None:
    flags = ("--annotation", "io.kubernetes.cri.sandbox-id=pod")
    for name in ("one", "two", "three"):
        detached(name, "sleep 1000", *flags)
    assert len(shims(ctr)) == 1
    addresses = {(bundle(stock, ctr, name) / "address").read_text() for name in ("one", "two", "three")}
    assert len(addresses) == 1
    for name in ("one", "two"):
        ctr("task", "delete", "--force", name)
    assert len(shims(ctr)) == 1
    assert ctr("task", "exec", "--exec-id", "e", "three", "echo", "alive") == "alive\n"
    ctr("task", "delete", "--force", "three")
    until(lambda: not shims(ctr))
    socket = Path(addresses.pop().removeprefix("unix://"))
    until(lambda: not socket.exists(), socket)


def test_a_killed_shim_leaves_nothing(ctr: Ctr, detached: Detached, stock: StockContainerd) -> None:
    detached("box", "sleep 1000")
    folder = bundle(stock, ctr, "box")
    init = int((folder / "init.pid").read_text())
    socket = Path((folder / "address").read_text().removeprefix("unix://"))
    (shim,) = shims(ctr)
    os.kill(shim, signal.SIGKILL)
    until(lambda: not folder.exists())
    until(lambda: not runs(init))
    until(lambda: status(ctr, "box") == "")  # containerd forgets it after it has removed the bundle
    until(lambda: not socket.exists())
    until(lambda: not Path(f"/run/containerd/hybrid/{ctr.namespace}").exists())


def test_shims_killed_at_any_moment_leave_nothing(ctr: Ctr, stock: StockContainerd, token: str) -> None:
    chance = random.Random(11)
    for number in range(12):
        name = f"box{number}"
        command = ("run", "--rm", "--runtime", RUNTIME, BUSYBOX_IMAGE, name, "sh", "-c", "sleep 0.02")
        process = ctr.start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not shims(ctr) and process.poll() is None:
            pass
        time.sleep(chance.random() * 0.08)  # in the middle of create, start, run or delete
        for pid in shims(ctr):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        ctr.run("task", "delete", "--force", name)
        ctr.run("container", "delete", name)
    # Mounts and processes are looked for after every test.
    until(lambda: not list(bundle(stock, ctr, "any").parent.glob("box*")))
    until(lambda: not list(Path("/sys/fs/cgroup").glob(f"*/{token}/box*")))
    until(lambda: not list(Path(f"/run/containerd/hybrid/{token}").glob("box*")))


def test_containers_survive_the_daemon(ctr: Ctr, detached: Detached, stock: StockContainerd) -> None:
    detached("stays", "trap 'exit 6' TERM; while :; do sleep 0.1; done")
    detached("ends", "sleep 1; exit 8")
    before = shims(ctr)
    os.kill(stock.pid, signal.SIGKILL)
    time.sleep(1.5)  # "ends" exits meanwhile
    assert shims(ctr) == before
    stock.stop()
    stock.start()
    assert status(ctr, "stays") == "RUNNING"
    until(lambda: status(ctr, "ends") == "STOPPED")
    assert exit_code(ctr, "ends") == 8
    assert ctr("task", "exec", "--exec-id", "e", "stays", "echo", "adopted") == "adopted\n"
    stays = int((bundle(stock, ctr, "stays") / "init.pid").read_text())
    until(lambda: catches(stays, signal.SIGTERM), "the trap")
    ctr("task", "kill", "stays")
    until(lambda: status(ctr, "stays") == "STOPPED")
    assert exit_code(ctr, "stays") == 6


def test_attach_again(ctr: Ctr, detached: Detached, tmp_path: Path) -> None:
    detached("box", "while read line; do echo got $line; done; echo end")
    for text in ("first", "second"):
        process = ctr.start("task", "attach", "box", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{text}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline() == f"got {text}\n".encode()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    assert status(ctr, "box") == "RUNNING"


def test_log_file_and_logging_program(ctr: Ctr, detached: Detached, short_folder: Path) -> None:
    log = short_folder / "deep" / "box.log"
    detached("file", "echo out; echo err >&2; sleep 0.2; echo late", "--log-uri", f"file://{log}")
    until(lambda: status(ctr, "file") == "STOPPED")
    assert sorted(log.read_text().splitlines()) == ["err", "late", "out"]

    program, written = short_folder / "logger", short_folder / "written"
    program.write_text(
        f"#!/bin/sh\nexec 5>&- > {written}\necho $CONTAINER_NAMESPACE $CONTAINER_ID $*; cat <&3; cat <&4\n"
    )
    program.chmod(0o755)
    detached("logged", "echo out; echo err >&2", "--log-uri", f"binary://{program}?a=b%20c")
    until(lambda: status(ctr, "logged") == "STOPPED")
    assert exit_code(ctr, "logged") == 0
    # The program ends by itself.
    until(lambda: written.read_text() == f"{ctr.namespace} logged a b c\nout\nerr\n", written.read_text)


def test_processes_without_a_namespace_end_with_init(ctr: Ctr, short_folder: Path) -> None:
    rootfs = short_folder / "rootfs"
    for folder in ("bin", "proc", "dev"):
        (rootfs / folder).mkdir(parents=True)
    shutil.copy(busybox_program(), rootfs / "bin/sh")
    shutil.copy(busybox_program(), rootfs / "bin/sleep")
    # The sleeper holds the pipe open. There is no PID namespace to end it with.
    script = "sleep 1000 & echo started; exit 4"
    spec = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs)},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/{ctr.namespace}/box",
            "namespaces": [{"type": kind} for kind in ("mount", "ipc", "uts", "network")],
        },
    }
    config = short_folder / "config.json"
    config.write_text(json.dumps(spec))
    done = ctr.run("run", "--rm", "--runtime", RUNTIME, "--config", str(config), "box")
    assert (done.returncode, done.stdout) == (4, "started\n"), done.stderr


def test_out_of_memory_is_told(ctr: Ctr) -> None:
    with ctr.watch() as lines_until:
        script = "tail /dev/zero"
        flags = ("--memory-limit", str(16 << 20))
        done = ctr.run("run", "--rm", "--runtime", RUNTIME, *flags, BUSYBOX_IMAGE, "box", "sh", "-c", script)
        assert done.returncode == SIGNALLED + signal.SIGKILL
        told = topics(lines_until("/tasks/delete"))
    assert "/tasks/oom" in told
    assert told.index("/tasks/oom") < told.index("/tasks/exit")


def test_memory_and_descriptors_of_an_idle_shim(ctr: Ctr, detached: Detached) -> None:
    detached("box", "sleep 1000")
    (shim,) = shims(ctr)

    def proportional() -> int:
        text = Path(f"/proc/{shim}/smaps_rollup").read_text()
        found = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
        assert found
        return int(found[1])

    # It gives back what it does not need a moment after the last request.
    until(lambda: proportional() < 3072)
    for number in range(20):
        ctr("task", "exec", "--exec-id", f"e{number}", "box", "true")
    before = len(list(Path(f"/proc/{shim}/fd").iterdir()))
    for number in range(20):
        ctr("task", "exec", "--exec-id", f"e{number}", "box", "true")
    until(lambda: len(list(Path(f"/proc/{shim}/fd").iterdir())) <= before)
    until(lambda: proportional() < 3072)


def test_another_runtime_program(run: Run, short_folder: Path) -> None:
    crun = shutil.which("crun")
    if crun is None:
        pytest.skip("crun is not installed")
    # ctr passes --runc-binary on for containerd's own runtime only; the shim looks for runc on PATH.
    (short_folder / "bin/runc").symlink_to(crun)
    done = run("box", "echo from crun; exit 2")
    if "hybrid mode not supported" in done.stderr:
        pytest.skip("crun does not work on machines with both versions of cgroups in use")
    assert (done.returncode, done.stdout) == (2, "from crun\n")
