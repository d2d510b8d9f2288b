"""``ctr run`` and ``ctr task`` drive the daemon: the path from an image to an exit code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.images import ImageArchive, busybox_layer, write_archive
from containerd_hybrid.testing.processes import catches, open_files
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

pytestmark = pytest.mark.root
BUSYBOX = "docker.io/library/busybox:latest"


def start_sleeper(ctr: Ctr, id: str, *options: str) -> None:
    ctr("run", "-d", *options, BUSYBOX, id, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")


def task(ctr: Ctr, id: str) -> tuple[int, str]:
    """Its pid and status."""
    (line,) = [line.split() for line in ctr("task", "ls").splitlines() if line.startswith(f"{id} ")]
    return int(line[1]), line[2]


def wait_until_gone(ctr: Ctr, id: str) -> None:
    until(lambda: task(ctr, id)[1] == "STOPPED", lambda: ctr("task", "ls"))


def wait_until_attached(process: subprocess.Popen[bytes]) -> None:
    """Until this ``ctr`` reads what the container writes."""

    def reads() -> bool:
        assert process.poll() is None
        return any(
            link.name.endswith("-stdout") and not _flags(process.pid, descriptor) & os.O_PATH
            for descriptor, link in open_files(process.pid).items()
        )

    until(reads, "ctr opens the FIFO")


def _flags(pid: int, descriptor: int) -> int:
    """What a descriptor was opened with. (ctr's first one of a FIFO is only its place.)"""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
        return int(text.partition("flags:")[2].split()[0], 8)
    return os.O_PATH


def remove(ctr: Ctr, id: str) -> None:
    ctr("task", "delete", "--force", id)
    ctr("container", "delete", id)


def test_output_and_exit_code_of_a_container(ctr: Ctr) -> None:
    assert ctr("run", "--rm", BUSYBOX, "hello", "echo", "from inside") == "from inside\n"
    assert ctr.run("run", "--rm", BUSYBOX, "seven", "sh", "-c", "exit 7").returncode == 7
    assert ctr("container", "ls", "-q") == ""
    assert ctr("task", "ls", "-q") == ""


def test_stderr_is_kept_apart(ctr: Ctr) -> None:
    done = ctr.run("run", "--rm", BUSYBOX, "two", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_a_program_that_does_not_exist_is_an_error_and_leaves_nothing(ctr: Ctr) -> None:
    done = ctr.run("run", "--rm", BUSYBOX, "none", "/no/such/program")
    assert done.returncode != 0
    assert "/no/such/program" in done.stderr
    assert ctr("task", "ls", "-q") == ""
    ctr.run("container", "delete", "none")


def test_run_of_an_image_that_is_not_here_names_it(ctr: Ctr) -> None:
    done = ctr.run("run", "--rm", "docker.io/library/nothing:latest", "none")
    assert done.returncode != 0
    assert 'image "docker.io/library/nothing:latest": not found' in done.stderr


def test_input_to_its_end(ctr: Ctr) -> None:
    # ctr can miss an input that ends before the container runs, against containerd too.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    process = ctr.start("run", "--rm", BUSYBOX, "in", "cat", **pipes)
    assert process.stdin is not None
    process.stdin.write(b"one\ntwo\n")
    assert process.stdout is not None
    assert process.stdout.readline() == b"one\n"
    out, _ = process.communicate(timeout=GIVE_UP_SECONDS)
    assert (out, process.returncode) == (b"two\n", 0)


def test_256_mib_of_output_arrive_whole(ctr: Ctr) -> None:
    # A known, non-repeating stream: line numbers.
    command = "seq 1 32000000 | head -c 268435456"
    process = ctr.start("run", "--rm", BUSYBOX, "much", "sh", "-c", command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen, size = hashlib.sha256(), 0
    while data := process.stdout.read(1 << 20):
        seen.update(data)
        size += len(data)
    assert process.wait(GIVE_UP_SECONDS) == 0
    assert size == 256 << 20
    local = subprocess.run(
        ["sh", "-c", f"busybox {command} | sha256sum"], capture_output=True, text=True, check=True
    )
    assert seen.hexdigest() == local.stdout.split()[0]


def test_environment_and_folder(ctr: Ctr) -> None:
    def run(*options: str, command: str) -> str:
        return ctr("run", "--rm", *options, BUSYBOX, "x", "sh", "-c", command)

    assert run("--env", "COLOUR=green", command="echo $COLOUR") == "green\n"
    assert run("--cwd", "/home", command="pwd") == "/home\n"


def test_the_user_that_the_image_names(ctr: Ctr, tmp_path: Path) -> None:
    # ctr 1.6 has no --user: the user is the image's.
    name = "example.com/with-user:1"
    archive = ImageArchive(name, [busybox_layer()], {"User": "user", "Env": ["PATH=/bin"]})
    ctr("image", "import", str(write_archive(tmp_path / "user.tar", [archive])))
    assert ctr("run", "--rm", name, "u", "sh", "-c", "id -u; id -g; pwd") == "1000\n1000\n/\n"


def test_mounts_are_seen_and_read_only_is_kept(ctr: Ctr, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "file").write_text("of the host\n")
    mount = f"type=bind,src={folder},dst=/mnt,options=rbind:ro"
    done = ctr.run("run", "--rm", "--mount", mount, BUSYBOX, "m", "sh", "-c", "cat /mnt/file; touch /mnt/new")
    assert done.stdout == "of the host\n"
    assert "Read-only file system" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_read_only_root(ctr: Ctr) -> None:
    done = ctr.run("run", "--rm", "--read-only", BUSYBOX, "ro", "touch", "/new")
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_host_network_sees_the_hosts_interfaces(ctr: Ctr) -> None:
    inode = Path("/proc/self/ns/net").readlink()
    command = ("sh", "-c", "readlink /proc/self/ns/net")
    assert ctr("run", "--rm", "--net-host", BUSYBOX, "host", *command).strip() == str(inode)
    assert ctr("run", "--rm", BUSYBOX, "own", *command).strip() != str(inode)


def test_privileged_has_all_capabilities(ctr: Ctr) -> None:
    command = ("grep", "CapEff", "/proc/self/status")
    plain = int(ctr("run", "--rm", BUSYBOX, "p", *command).split()[1], 16)
    privileged = int(ctr("run", "--rm", "--privileged", BUSYBOX, "p", *command).split()[1], 16)
    assert plain & privileged == plain
    assert privileged > plain


def test_a_memory_limit_is_set_in_the_cgroup(ctr: Ctr) -> None:
    start_sleeper(ctr, "limited", "--memory-limit", str(64 << 20))
    try:
        metrics = json.loads(ctr("task", "metrics", "--format", "json", "limited"))
        assert metrics["memory"]["usage"]["limit"] == 64 << 20
    finally:
        remove(ctr, "limited")


def test_detached_container_lists_signals_and_exit_code(ctr: Ctr) -> None:
    start_sleeper(ctr, "d")
    pid, status = task(ctr, "d")
    assert status == "RUNNING"
    until(lambda: catches(pid, signal.SIGTERM), "the trap")
    ctr("task", "kill", "--signal", "SIGTERM", "d")
    wait_until_gone(ctr, "d")
    assert "non-zero exit code 3" in ctr.run("task", "delete", "d").stderr
    ctr("container", "delete", "d")


def test_exec_in_a_running_container(ctr: Ctr) -> None:
    start_sleeper(ctr, "e")
    try:
        assert ctr("task", "exec", "--exec-id", "a", "e", "echo", "inside") == "inside\n"
        assert ctr.run("task", "exec", "--exec-id", "b", "e", "sh", "-c", "exit 5").returncode == 5
        assert "e" in ctr("task", "ls")
        done = ctr.run("task", "exec", "--exec-id", "c", "e", "/no/such/program")
        assert done.returncode != 0
        assert "/no/such/program" in done.stderr
    finally:
        remove(ctr, "e")


def test_exec_without_a_task_says_so(ctr: Ctr) -> None:
    done = ctr.run("task", "exec", "--exec-id", "a", "nobody", "true")
    assert done.returncode != 0
    assert "not found" in done.stderr


def test_processes_of_a_task(ctr: Ctr) -> None:
    start_sleeper(ctr, "ps")
    try:
        assert str(task(ctr, "ps")[0]) in ctr("task", "ps", "ps").split()
    finally:
        remove(ctr, "ps")


def test_pause_and_resume(ctr: Ctr) -> None:
    start_sleeper(ctr, "p")
    try:
        ctr("task", "pause", "p")
        assert "PAUSED" in ctr("task", "ls")
        ctr("task", "resume", "p")
        assert "RUNNING" in ctr("task", "ls")
    finally:
        remove(ctr, "p")


def test_create_and_start_apart(ctr: Ctr) -> None:
    ctr("container", "create", BUSYBOX, "later", "echo", "now")
    assert ctr("task", "ls", "-q") == ""
    assert ctr("task", "start", "later") == "now\n"
    assert ctr("task", "ls", "-q") == ""
    ctr("container", "delete", "later")


def test_attach_to_a_detached_container(ctr: Ctr) -> None:
    script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; echo attached; exit 4"
    ctr("run", "-d", BUSYBOX, "a", "sh", "-c", script)
    process = ctr.start("task", "attach", "a", stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    wait_until_attached(process)
    ctr("task", "exec", "--exec-id", "go", "a", "touch", "/tmp/go")
    out, _ = process.communicate(timeout=GIVE_UP_SECONDS)
    assert (out, process.returncode) == (b"attached\n", 4)
    ctr.run("task", "delete", "a")
    ctr("container", "delete", "a")


def test_a_running_task_is_not_deleted_and_its_container_neither(ctr: Ctr) -> None:
    start_sleeper(ctr, "busy")
    try:
        assert "must be stopped before deletion" in ctr.run("task", "delete", "busy").stderr
        assert "non stopped container" in ctr.run("container", "delete", "busy").stderr
    finally:
        remove(ctr, "busy")


def test_twenty_at_once_all_succeed(ctr: Ctr) -> None:
    def run(number: int) -> str:
        return ctr("run", "--rm", BUSYBOX, f"many-{number}", "echo", str(number))

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(run, range(20))) == [f"{number}\n" for number in range(20)]
    assert ctr("container", "ls", "-q") == ""
    assert ctr("task", "ls", "-q") == ""
