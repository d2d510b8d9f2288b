"""hyctl on a stock containerd, on our daemon, and without a daemon: as a docker user expects it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.client_worlds import IMAGE, World, world

from containerd_hybrid.testing.leaks import remove_cgroups
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

pytestmark = pytest.mark.root
__all__ = ["world"]  # a fixture


@dataclass
class Hyctl:
    """The program in a namespace of the test's own."""

    world: World
    namespace: str
    pipes: ExitStack

    @property
    def command(self) -> list[str]:
        return self.world.hyctl(self.namespace)

    def run(self, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*self.command, *arguments], input=input, capture_output=True, check=False)

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        program = subprocess.Popen(
            [*self.command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        return self.pipes.enter_context(program)


@pytest.fixture
def hyctl(world: World, token: str) -> Iterator[Hyctl]:
    pipes = ExitStack()
    program = Hyctl(world, token, pipes)
    if world.name == "containerd":
        command = ["ctr", "-a", world.address, "-n", token, "image", "import", str(world.archive)]
        subprocess.run(command, check=True, capture_output=True)
    else:
        assert program("image", "import", str(world.archive)) == f"Loaded image: {IMAGE}\n"
    try:
        yield program
        assert program("ps", "-aq") == ""
        until(lambda: not world.leftovers(), world.leftovers)
    finally:
        for container in program("ps", "-aq").split():
            program.run("rm", "-f", container)
        pipes.close()
        for image in program("images", "-q", "--no-trunc").split():
            program.run("image", "rm", image)
        remove_cgroups(token)


def shell(script: str) -> list[str]:
    return ["busybox", "sh", "-c", script]


def wait_for_file(hyctl: Hyctl, container: str, path: str) -> None:
    """Made by the container's program when it is ready for what comes."""
    until(lambda: hyctl.run("exec", container, "test", "-e", path).returncode == 0, path)


# --- run


def test_streams_and_exit_code(hyctl: Hyctl) -> None:
    done = hyctl.run("run", "--rm", *shell("echo out; echo err >&2; exit 7"))
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    done = hyctl.run("run", "--rm", "-i", "busybox", "sha256sum", input=b"x" * 5_000_000)
    expected = subprocess.run(["sha256sum"], input=b"x" * 5_000_000, capture_output=True, check=True)
    assert done.stdout.split()[0] == expected.stdout.split()[0]


def test_a_command_that_cannot_be_started(hyctl: Hyctl) -> None:
    for command, code in (("nope", 127), ("/nope", 127), ("/tmp", 126), ("/etc/passwd", 126)):
        done = hyctl.run("run", "busybox", command)
        assert done.returncode == code, (command, done.stderr)
        assert done.stdout == b""
        assert done.stderr.startswith(b"hyctl: ")
        assert len(done.stderr.splitlines()) == 1
    assert hyctl.run("run", "nothing").returncode == 125
    assert hyctl.run("run", "-u", "bob", "busybox").returncode == 125


def test_options(hyctl: Hyctl, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    tmp_path.chmod(0o755)
    script = (
        "echo $A $B; pwd; id -u; cat /v/file; hostname; touch /x 2>/dev/null || echo read-only; "
        "grep CapEff /proc/self/status"
    )
    done = hyctl.run(
        *("run", "--rm", "-e", "A=1", "--env", "B=2", "-w", "/tmp", "-u", "alice", "-v", f"{tmp_path}:/v:ro"),
        *(
            "--hostname",
            "name",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--mount",
            "type=tmpfs,dst=/m",
            "-m",
            "64m",
        ),
        *("--cpus", "0.5", "--pids-limit", "20", "--entrypoint", "sh", "busybox", "-c", script),
    )
    lines = done.stdout.decode().split()
    assert lines == ["1", "2", "/tmp", "1000", "content", "name", "read-only", "CapEff:", "0" * 16], (
        done.stderr
    )


def test_the_hosts_network(hyctl: Hyctl) -> None:
    own = str(Path("/proc/self/ns/net").readlink())
    for options in (["--net-host"], ["--network", "host"]):
        assert hyctl("run", "--rm", *options, "busybox", "readlink", "/proc/self/ns/net").strip() == own
    assert hyctl("run", "--rm", "busybox", "readlink", "/proc/self/ns/net").strip() != own


def test_signals_go_to_the_container(hyctl: Hyctl) -> None:
    for number, code in ((signal.SIGTERM, 42), (signal.SIGUSR1, 43), (signal.SIGHUP, 44)):
        program = hyctl.start(
            *("run", "--rm"),
            *shell(
                "trap 'exit 42' TERM; trap 'exit 43' USR1; trap 'exit 44' HUP; echo ready; "
                "while true; do sleep 0.05; done"
            ),
        )
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        program.send_signal(number)
        program.communicate(timeout=GIVE_UP_SECONDS)
        assert program.returncode == code


def test_the_third_interrupt_is_the_last(hyctl: Hyctl) -> None:
    program = hyctl.start(
        "run", "--rm", *shell("trap 'echo no' INT; echo ready; while true; do sleep 0.05; done")
    )
    assert program.stdout is not None
    assert program.stderr is not None
    assert program.stdout.readline() == b"ready\n"
    for _ in range(2):
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == b"no\n"
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=GIVE_UP_SECONDS)
    assert program.returncode == 137
    assert err == b"hyctl: asked 3 times: killing it\n"


def test_a_reader_that_leaves_ends_the_container(hyctl: Hyctl) -> None:
    program = hyctl.start("run", "--rm", "busybox", "yes")
    assert program.stdout is not None
    assert program.stdout.readline() == b"y\n"
    program.stdout.close()
    assert program.wait(GIVE_UP_SECONDS) == 141


def test_much_output(hyctl: Hyctl) -> None:
    program = hyctl.start("run", "--rm", "busybox", "head", "-c", str(64 << 20), "/dev/zero")
    out, err = program.communicate(timeout=GIVE_UP_SECONDS)
    assert len(out) == 64 << 20
    assert (program.returncode, err) == (0, b"")


# --- containers that stay


def test_a_container_in_the_background(hyctl: Hyctl) -> None:
    assert hyctl("run", "-d", "--name", "web", "-l", "tier=front", "busybox", "sleep", "1000") == "web\n"
    done = hyctl.run("run", "--name", "web", "busybox")
    assert done.returncode == 125
    assert b"container 'web' already exists: remove it or choose another id" in done.stderr
    listed = hyctl("ps").splitlines()
    assert listed[0].split()[:2] == ["CONTAINER", "ID"]
    assert listed[1].split()[:3] == ["web", "busybox", '"sleep']
    assert listed[1].endswith("Up")
    row = json.loads(hyctl("ps", "--format", "json", "--filter", "labels.tier==front"))
    assert (row["ID"], row["State"], row["Image"], row["Command"]) == ("web", "running", IMAGE, "sleep 1000")
    assert hyctl("ps", "-q", "--filter", "labels.tier==back") == ""

    assert hyctl("exec", "web", "id", "-u") == "0\n"
    done = hyctl.run(
        *("exec", "-i", "-u", "alice", "-w", "/tmp", "-e", "A=b", "web"),
        *("sh", "-c", "id -un; pwd; echo $A; cat; exit 4"),
        input=b"in",
    )
    assert (done.returncode, done.stdout) == (4, b"alice\n/tmp\nb\nin")
    for command, code in (("nope", 127), ("/tmp", 126)):
        assert hyctl.run("exec", "web", command).returncode == code
    assert hyctl("exec", "-d", "web", "touch", "/done") == ""
    wait_for_file(hyctl, "web", "/done")

    shown = json.loads(hyctl("inspect", "we"))[0]
    assert (shown["Id"], shown["State"]["Status"], shown["Labels"]["tier"]) == ("web", "running", "front")
    assert shown["Spec"]["process"]["args"] == ["sleep", "1000"]
    done = hyctl.run("rm", "web")
    assert (done.returncode, done.stderr) == (
        1,
        b"hyctl: container 'web' runs: stop it first, or use rm --force\n",
    )
    assert hyctl("stop", "-t", "0", "web") == "web\n"
    assert hyctl("stop", "web") == "web\n"
    assert hyctl("ps", "-q") == ""
    assert "Exited (137)" in hyctl("ps", "-a")
    done = hyctl.run("exec", "web", "true")
    assert done.returncode == 1
    assert hyctl("rm", "web") == "web\n"


def test_kill(hyctl: Hyctl) -> None:
    script = "trap 'exit 9' USR1; touch /ready; while true; do sleep 0.05; done"
    hyctl("run", "-d", "--name", "one", *shell(script))
    wait_for_file(hyctl, "one", "/ready")
    assert hyctl("kill", "-s", "USR1", "one") == "one\n"
    until(lambda: "Exited (9)" in hyctl("ps", "-a"), lambda: hyctl("ps", "-a"))
    done = hyctl.run("kill", "one")
    assert done.returncode == 1
    hyctl("rm", "one")
    done = hyctl.run("kill", "one")
    assert done.stderr.startswith(b"hyctl: no container 'one' in namespace")


def test_stop_uses_the_signal_of_the_image_or_the_callers(hyctl: Hyctl) -> None:
    script = "trap 'exit 5' TERM; trap 'exit 6' QUIT; touch /ready; while true; do sleep 0.05; done"
    for options, code in (([], 5), (["-s", "QUIT"], 6)):
        hyctl("run", "-d", "--name", "asked", *shell(script))
        wait_for_file(hyctl, "asked", "/ready")
        hyctl("stop", "-t", str(int(GIVE_UP_SECONDS)), *options, "asked")
        assert json.loads(hyctl("inspect", "asked"))[0]["State"]["ExitCode"] == code
        hyctl("rm", "asked")


def test_several_at_once_and_one_that_is_not_there(hyctl: Hyctl) -> None:
    for name in ("a1", "a2"):
        hyctl("run", "-d", "--name", name, "busybox", "sleep", "1000")
    done = hyctl.run("rm", "-f", "a1", "none", "a2")
    assert (done.returncode, done.stdout) == (1, b"a1\na2\n")
    assert done.stderr.startswith(b"hyctl: no container 'none'")


def test_the_beginning_of_an_id_is_enough_when_it_is_one(hyctl: Hyctl) -> None:
    for name in ("aaa1", "aaa2"):
        hyctl("run", "-d", "--name", name, "busybox", "sleep", "1000")
    done = hyctl.run("kill", "aaa")
    assert b"'aaa' is the beginning of several containers: " in done.stderr
    assert hyctl("rm", "-f", "aaa1", "aaa") == "aaa1\naaa\n"


def test_one_that_ran_in_the_foreground_stays_until_it_is_removed(hyctl: Hyctl) -> None:
    assert hyctl.run("run", "--name", "ran", *shell("exit 3")).returncode == 3
    assert hyctl("ps", "-q") == ""
    (row,) = [json.loads(line) for line in hyctl("ps", "-a", "--format", "json").splitlines()]
    assert row["State"] == "exited"
    assert row["Status"].startswith("Exited (3) ")
    state = json.loads(hyctl("inspect", "ran"))[0]["State"]
    assert (state["ExitCode"], state["Pid"]) == (3, 0)
    hyctl("rm", "ran")


# --- images


def test_images(hyctl: Hyctl) -> None:
    listed = hyctl("images").splitlines()
    assert listed[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert listed[1].split()[:2] == ["busybox", "latest"]
    row = json.loads(hyctl("image", "ls", "--format", "json"))
    assert (row["Name"], row["Repository"], row["Tag"]) == (IMAGE, "busybox", "latest")
    assert row["Size"] > 100_000
    digest = hyctl("image", "ls", "-q", "--no-trunc").strip()
    assert digest == row["Digest"]
    shown = json.loads(hyctl("inspect", hyctl("images", "-q").strip()))[0]
    assert shown["Target"]["digest"] == digest
    assert shown["Config"]["Env"] == ["PATH=/bin", "FROM_IMAGE=yes"]
    assert hyctl.run("inspect", "nothing").stderr.startswith(b"hyctl: no container and no image 'nothing'")


def test_tags_archives_and_removal(hyctl: Hyctl, tmp_path: Path) -> None:
    if hyctl.world.name == "containerd":
        done = hyctl.run("image", "import", str(hyctl.world.archive))
        assert done.returncode == 1
        assert b"this daemon has no transfer service" in done.stderr
        assert b"ctr image import" in done.stderr
        return
    hyctl("image", "tag", "busybox", "mine:1")
    archive = tmp_path / "out.tar"
    hyctl("image", "export", "-o", str(archive), "mine:1", "busybox")
    piped = hyctl.run("image", "export", "mine:1", "busybox")
    assert piped.stdout == archive.read_bytes()
    assert hyctl("image", "rm", "mine:1", "busybox").splitlines() == [
        "Untagged: docker.io/library/mine:1",
        f"Untagged: {IMAGE}",
    ]
    assert hyctl("images", "-q") == ""
    done = hyctl.run("image", "import", "-", input=archive.read_bytes())
    assert sorted(done.stdout.decode().splitlines()) == [
        f"Loaded image: {IMAGE}",
        "Loaded image: docker.io/library/mine:1",
    ]
    hyctl("image", "rm", "mine:1")
    hyctl("image", "unpack", "busybox")
    assert hyctl("run", "--rm", "busybox", "echo", "works") == "works\n"
    archive.write_bytes(archive.read_bytes()[:100_000])
    done = hyctl.run("image", "import", str(archive))
    assert done.returncode == 1
    assert done.stderr.startswith(b"hyctl: ")
    assert b"cut short" in done.stderr


# --- the rest


def test_versions(hyctl: Hyctl) -> None:
    shown = json.loads(hyctl("version", "--format", "json"))
    assert set(shown) == {"Client", "Server"}
    assert hyctl("version").splitlines() == [f"Client: {shown['Client']}", f"Server: {shown['Server']}"]


def test_events(hyctl: Hyctl) -> None:
    if not hyctl.world.address:
        pytest.skip("a runtime in process has no other process to tell of")
    program = hyctl.start("events", "--filter", 'topic~="^/tasks/"', "--format", "json")
    assert program.stdout is not None
    os.set_blocking(program.stdout.fileno(), False)
    seen = bytearray()

    def told() -> bool:
        hyctl("run", "--rm", "busybox", "true")
        assert program.stdout is not None
        seen.extend(program.stdout.read() or b"")
        return b"/tasks/exit" in seen.rpartition(b"\n")[0]

    until(told, seen)
    program.send_signal(signal.SIGINT)
    assert program.wait(GIVE_UP_SECONDS) == 130
    event = json.loads(seen.splitlines()[0])
    assert event["Namespace"] == hyctl.namespace
    assert event["Topic"].startswith("/tasks/")
