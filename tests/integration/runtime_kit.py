"""Runtimes by their command line: ours and runc, each with a state folder of its own, and bundles for both.

``CONTAINERD_HYBRID_RUNTIME`` names our program if it is not where a build puts it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from containerd_hybrid.testing.images import busybox_program
from containerd_hybrid.testing.leaks import LeakCheck, remove_cgroups
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

PROGRAM = "containerd-hybrid-runtime"
ROOT = Path(__file__).resolve().parents[2]
CGROUPS = Path("/sys/fs/cgroup")

MARKS = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="runc, to compare with, is not installed"),
]

Spec: TypeAlias = dict[str, Any]
Completed: TypeAlias = "subprocess.CompletedProcess[str]"


def program() -> str | None:
    """Where the program is: named, on PATH, or built in this tree."""
    built = (ROOT / "python/containerd_hybrid/_bin", ROOT / "target/release", ROOT / "target/debug")
    places = (
        os.environ.get("CONTAINERD_HYBRID_RUNTIME"),
        shutil.which(PROGRAM),
        *(str(b / PROGRAM) for b in built),
    )
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


class Cli:
    """One runtime with a state folder of its own; what a test leaves running is ended."""

    def __init__(self, binary: str, folder: Path, token: str) -> None:
        self.binary, self.folder, self.token = binary, folder, token
        # Put before the command line: a program that runs it elsewhere.
        self.prefix: tuple[str, ...] = ()
        self.root = folder / "state"
        self.log = folder / "log.json"
        self._count = 0

    def line(self, *args: str) -> list[str]:
        """A command line, for who starts it in another way than by a call."""
        return [*self.prefix, self.binary, "--root", str(self.root), *args]

    def __call__(self, *args: str, **kwargs: Any) -> Completed:
        command = self.line("--log", str(self.log), "--log-format", "json", *args)
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        # To files: an init that lives on would keep a pipe open.
        out, err = self.folder / "out", self.folder / "err"
        with out.open("w") as stdout, err.open("w") as stderr:
            done = subprocess.run(command, stdout=stdout, stderr=stderr, text=True, check=False, **kwargs)
        return subprocess.CompletedProcess(command, done.returncode, out.read_text(), err.read_text())

    def ok(self, *args: str, **kwargs: Any) -> str:
        done = self(*args, **kwargs)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def count(self) -> int:
        """Of bundles so far: it is in the name of the last one's cgroup."""
        return self._count

    def bundle(self, *command: str, change: Callable[[Spec], object] | None = None) -> Path:
        """A folder with a busybox root and the specification of a container engine's default."""
        self._count += 1
        folder = self.folder / f"bundle{self._count}"
        rootfs = folder / "rootfs"
        for name in ("bin", "etc", "proc", "dev", "sys", "tmp", "root"):
            (rootfs / name).mkdir(parents=True)
        shutil.copy(busybox_program(), rootfs / "bin/busybox")
        for applet in (
            "sh",
            "cat",
            "true",
            "id",
            "sleep",
            "mount",
            "ls",
            "stat",
            "env",
            "touch",
            "mkdir",
            "ps",
        ):
            (rootfs / "bin" / applet).symlink_to("busybox")
        (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nme:x:7:7:me:/home/me:/bin/sh\n")
        spec = default_spec(list(command), f"/{self.token}/{self._count}-{Path(self.binary).name}")
        if change:
            change(spec)
        (folder / "config.json").write_text(json.dumps(spec))
        return folder

    def run(self, *command: str, change: Callable[[Spec], object] | None = None) -> Completed:
        bundle = self.bundle(*command, change=change)
        return self("run", "--bundle", str(bundle), f"{self.token}-{self._count}")

    def shell(self, script: str, change: Callable[[Spec], object] | None = None) -> str:
        done = self.run("sh", "-c", script, change=change)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(
        self, *command: str, change: Callable[[Spec], object] | None = None, flags: tuple[str, ...] = ()
    ) -> str:
        bundle = self.bundle(*command, change=change)
        name = f"{self.token}-{self._count}"
        self.ok("create", "--bundle", str(bundle), *flags, name)
        return name

    def state(self, name: str) -> Spec:
        state: Spec = json.loads(self.ok("state", name))
        return state

    def wait(self, name: str, status: str) -> None:
        until(lambda: self.state(name)["status"] == status, lambda: f"{status}, not {self.state(name)}")


def default_spec(command: list[str], cgroup: str) -> Spec:
    caps = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE", "CAP_MKNOD"]

    def mount(destination: str, kind: str, source: str, *options: str) -> Spec:
        return {"destination": destination, "type": kind, "source": source, "options": list(options)}

    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": command,
            "env": ["PATH=/bin", "GREETING=hello"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1000}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
            ),
            mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network", "cgroup")],
            "maskedPaths": ["/proc/acpi", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def namespace_of(pid: int | str, kind: str) -> str:
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


@pytest.fixture
def clis(leak_check: LeakCheck, short_folder: Path, token: str) -> Iterator[tuple[Cli, Cli]]:
    """This runtime and runc. Afterwards nothing of their containers may be there."""
    binary = program()
    if binary is None:
        pytest.skip(f"{PROGRAM} is not built: cargo build --release -p {PROGRAM}")
    both = []
    for name, path in (("ours", binary), ("runc", "runc")):
        folder = short_folder / name
        folder.mkdir()
        both.append(Cli(path, folder, token))
    try:
        yield both[0], both[1]
    finally:
        left = []
        for cli in both:
            for name in names(cli.root):
                cli("delete", "--force", name)
                left.append((cli.binary, name))
        # The parent of the containers' cgroups was made for them.
        for parent in (*CGROUPS.glob(token), *CGROUPS.glob(f"*/{token}")):
            for child in parent.iterdir():
                if child.is_dir():
                    left.append(("cgroup", str(child)))
                    child.rmdir()
        remove_cgroups(token)
    assert left == []


@pytest.fixture
def ours(clis: tuple[Cli, Cli]) -> Cli:
    return clis[0]


class Walls:
    """A process that holds network, mount, IPC and UTS namespaces: what is tried there is not the machine's.

    PIDs are the machine's: tests look at the processes of containers through its procfs.
    """

    def __init__(self) -> None:
        unshared = ["--net", "--mount", "--ipc", "--uts", "--propagation", "private"]
        command = ["unshare", *unshared, "sh", "-c", "echo in; exec cat"]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "in\n"
        kinds = {"net": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts"}
        joined = (f"--{flag}=/proc/{self.pid}/ns/{kind}" for flag, kind in kinds.items())
        self.prefix = ("nsenter", *joined, "--")
        assert namespace_of(self.pid, "net") != namespace_of("self", "net")

    @property
    def pid(self) -> int:
        return self._holder.pid

    def run(self, *command: str) -> str:
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self) -> None:
        self._holder.communicate("")


@pytest.fixture
def walls(short_folder: Path) -> Iterator[Walls]:
    held = Walls()
    try:
        yield held
    finally:
        held.close()


@pytest.fixture
def walled(walls: Walls, ours: Cli) -> Cli:
    """Our runtime in namespaces of the test's own: no device and no mount of the machine is in reach."""
    ours.prefix = walls.prefix
    return ours


def same(clis: tuple[Cli, Cli], script: str, change: Callable[[Spec], object] | None = None) -> str:
    """Both runtimes' output of a script, which must be one."""
    mine, runcs = (cli.shell(script, change) for cli in clis)
    assert mine == runcs
    return mine


class ConsoleSocket:
    """Receives one terminal's master."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.master = -1
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            _, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
            if not control:
                return
            fds = array.array("i")
            fds.frombytes(control[0][2][:4])
            self.master = fds[0]

    def abandon(self) -> None:
        """For a socket that nobody connected to."""
        with socket.socket(socket.AF_UNIX) as own:
            own.connect(str(self.path))
            own.shutdown(socket.SHUT_WR)
        self._thread.join(GIVE_UP_SECONDS)
        self._listener.close()

    def output(self) -> str:
        """Everything until the other side is closed."""
        self._thread.join(GIVE_UP_SECONDS)
        self._listener.close()
        data = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(self.master, 4096):
                data += chunk
        os.close(self.master)
        return data.decode()
