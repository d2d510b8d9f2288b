"""What the specification has for Linux beyond the everyday, seen in effect.

All of it in a network and a mount namespace of the test's own.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.runtime_kit import MARKS, Cli, Spec, Walls, clis, names, ours, walled, walls

from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

__all__ = ["clis", "ours", "walled", "walls"]  # fixtures

pytestmark = MARKS


def mounting(
    destination: str, kind: str, *options: str, source: str = "", **more: object
) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        mount = {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}
        spec["mounts"].append(mount | more)

    return change


def all_of(*changes: Callable[[Spec], object]) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        for one in changes:
            one(spec)

    return change


def line_of(mountinfo: str, place: str) -> tuple[set[str], set[str]]:
    """The options of the last mount there, and of its file system."""
    line = [line for line in mountinfo.splitlines() if line.split()[4] == place][-1]
    left, right = line.split(" - ")
    return set(left.split()[5].split(",")), set(right.split()[2].split(","))


# --- mounts --------------------------------------------------------------------------------------------


def test_options_longer_than_fsconfig_takes(walled: Cli, short_folder: Path) -> None:
    """An overlay whose lowerdir has more than 255 bytes goes to the kernel by mount(2)."""
    layers = [short_folder / f"layer-with-a-long-name-{number}" for number in range(8)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"file{number}").write_text(str(number))
    lower = "lowerdir=" + ":".join(map(str, layers))
    assert len(lower) > 255
    out = walled.shell("ls /merged", mounting("/merged", "overlay", lower))
    assert out.split() == [f"file{number}" for number in range(8)]
    done = walled.run("true", change=mounting("/merged", "overlay", "lowerdir=" + "/x" * 3000))
    assert done.returncode == 1
    assert "the kernel takes 4095" in done.stderr


@pytest.mark.parametrize("options", [("silent",), ("loud", "acl"), ("iversion", "silent", "noacl")])
def test_flags_that_only_mount_takes(walled: Cli, options: tuple[str, ...]) -> None:
    """They have no name in fsconfig; what else the mount says counts all the same."""
    change = mounting("/x", "tmpfs", "nosuid", "noexec", "ro", "size=64k", *options)
    of_mount, of_fs = line_of(walled.shell("cat /proc/self/mountinfo", change), "/x")
    assert {"nosuid", "noexec", "ro"} <= of_mount
    assert "size=64k" in of_fs


def test_mandatory_locks_and_synchronous_writes(walled: Cli) -> None:
    change = mounting("/x", "tmpfs", "sync", "dirsync", "mand")
    _, of_fs = line_of(walled.shell("cat /proc/self/mountinfo", change), "/x")
    assert {"sync", "dirsync"} <= of_fs


def test_remounts_of_the_mount_and_of_the_file_system(walled: Cli, short_folder: Path) -> None:
    (short_folder / "data").mkdir()
    change = all_of(
        mounting("/fs", "tmpfs", "size=64k"),
        mounting("/fs", "tmpfs", "remount", "nosuid", "size=128k"),
        mounting("/data", "bind", "bind", source=str(short_folder / "data")),
        mounting("/data", "bind", "remount", "bind", "ro"),
    )
    out = walled.shell("cat /proc/self/mountinfo", change)
    of_mount, of_fs = line_of(out, "/fs")
    assert "nosuid" in of_mount
    assert "size=128k" in of_fs
    # Of the bind alone: the folder can be written elsewhere.
    assert "ro" in line_of(out, "/data")[0]
    (short_folder / "data/new").write_text("written")
    refused = walled.run("true", change=mounting("/fs", "tmpfs", "remount", "tmpcopyup"))
    assert refused.returncode == 1
    assert "is a remount" in refused.stderr


def test_mounts_are_listed_in_their_order(walled: Cli, short_folder: Path) -> None:
    """Whoever reads mountinfo takes the last line of a place for the one on top: binds too come when the
    specification has them, not when the runtime looked for their source."""
    (short_folder / "below").mkdir()
    (short_folder / "above").mkdir()
    change = all_of(
        mounting("/a", "tmpfs"),
        mounting("/b", "bind", "rbind", source=str(short_folder / "below")),
        mounting("/c", "tmpfs"),
        mounting("/a", "bind", "bind", source=str(short_folder / "above")),
    )
    out = walled.shell("cat /proc/self/mountinfo; touch /a/here", change)
    places = [line.split()[4] for line in out.splitlines()]
    assert [place for place in places if place in ("/a", "/b", "/c")] == ["/a", "/b", "/c", "/a"]
    assert names(short_folder / "above") == ["here"]


def test_an_idmapped_tmpfs(walled: Cli) -> None:
    """The owner on the file system is what the map makes of it."""
    ids = [{"containerID": 0, "hostID": 70_000, "size": 10}]
    change = mounting("/x", "tmpfs", "uid=3", "gid=4", "mode=755", uidMappings=ids, gidMappings=ids)
    done = walled.run("stat", "-c", "%u:%g", "/x", change=change)
    if "invalid argument" in done.stderr:
        pytest.skip("this kernel has no idmapped tmpfs")
    assert done.stdout == "70003:70004\n", done.stderr
    wrong = walled.run("true", change=mounting("/x", "tmpfs", "idmap"))
    assert wrong.returncode == 1
    assert "uidMappings" in wrong.stderr


# --- network devices -----------------------------------------------------------------------------------


def addresses(text: str) -> list[tuple[str, int, str, list[str]]]:
    """Name, number, state and permanent addresses of devices, of `ip -json address`."""
    rows = []
    for device in json.loads(text):
        own = [f"{a['local']}/{a['prefixlen']}" for a in device["addr_info"] if a["scope"] == "global"]
        up = "up" if "UP" in device["flags"] else "down"
        rows.append((device["ifname"], device["ifindex"], up, own))
    return rows


@pytest.fixture
def pair(walls: Walls) -> Walls:
    """Two ends of a cable with an address each, which exist behind the walls only."""
    assert addresses(walls.run("ip", "-json", "address"))[0][0] == "lo"
    walls.run("ip", "link", "add", "walled0", "type", "veth", "peer", "name", "walled1")
    walls.run("ip", "address", "add", "10.99.1.1/24", "dev", "walled0")
    walls.run("ip", "address", "add", "fd00:99::1/64", "dev", "walled0", "nodad")
    walls.run("ip", "link", "set", "walled0", "up")
    return walls


def giving(**devices: str) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        spec["linux"]["netDevices"] = {name: {"name": new} for name, new in devices.items()}

    return change


def behind(walls: Walls) -> list[tuple[str, int, str, list[str]]]:
    rows = addresses(walls.run("ip", "-json", "address"))
    return [row for row in rows if row[0].startswith("walled")]


def test_a_network_device_goes_along_with_its_addresses(walled: Cli, pair: Walls) -> None:
    name = walled.create("sleep", "1000", change=giving(walled0="net0", walled1=""))
    assert behind(pair) == []
    pid = walled.state(name)["pid"]
    inside = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json", "address"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {row[0]: row[2:] for row in addresses(inside)}
    assert found["net0"] == ("up", ["10.99.1.1/24", "fd00:99::1/64"])
    assert found["walled1"] == ("up", [])
    walled.ok("start", name)
    walled.ok("delete", "--force", name)


@pytest.mark.parametrize("why", ["program", "hook", "name"])
def test_a_network_device_comes_back_from_a_failed_create(walled: Cli, pair: Walls, why: str) -> None:
    """As it was: name, number, state and addresses. With the container's namespace it would be gone."""
    before = behind(pair)
    assert {row[0] for row in before} == {"walled0", "walled1"}

    def wrong(spec: Spec) -> None:
        if why == "program":
            spec["process"]["args"] = ["/no/such/program"]
        elif why == "hook":
            spec["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}

    taken = {"walled0": "net0", "walled1": "lo" if why == "name" else ""}
    done = walled.run("true", change=all_of(giving(**taken), wrong))
    assert done.returncode == 1
    assert behind(pair) == before
    assert names(walled.root) == []


def test_a_network_device_comes_back_from_a_container_that_never_ran(walled: Cli, pair: Walls) -> None:
    before = behind(pair)
    name = walled.create("sleep", "1000", change=giving(walled0="net0"))
    assert [row[0] for row in behind(pair)] == ["walled1"]
    walled.ok("delete", "--force", name)
    assert behind(pair) == before


def test_a_network_device_that_is_not_there(walled: Cli) -> None:
    done = walled.run("true", change=giving(walled9="net0"))
    assert done.returncode == 1
    assert "network device walled9" in done.stderr
    assert names(walled.root) == []


# --- the process ---------------------------------------------------------------------------------------


def test_a_memory_policy_is_the_programs(walled: Cli) -> None:
    def change(spec: Spec) -> None:
        policy = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
        spec["linux"]["memoryPolicy"] = policy

    done = walled.run("sh", "-c", "cat /proc/self/numa_maps", change=change)
    if done.returncode:
        # The kernel was built without it.
        assert "memoryPolicy" in done.stderr or "numa_maps" in done.stderr
        pytest.skip("no memory policies here: " + done.stderr.strip())
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"bind=static:0"}


def test_a_personality_is_the_programs_and_an_execs(walled: Cli) -> None:
    def change(spec: Spec) -> None:
        spec["linux"]["personality"] = {"domain": "LINUX32"}

    script = ("sh", "-c", "cat /proc/self/personality; busybox uname -m")
    seen = "00000008\ni686\n"
    assert walled.run(*script, change=change).stdout == seen
    name = walled.create("sleep", "1000", change=change)
    walled.ok("start", name)
    assert walled.ok("exec", name, *script) == seen
    walled.ok("delete", "--force", name)


@pytest.mark.parametrize("field", ["initial", "final"])
def test_an_exec_runs_on_the_processors_that_are_asked_for(walled: Cli, field: str) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    wanted = allowed[-1]
    name = walled.create("sleep", "1000")
    walled.ok("start", name)
    process: dict[str, Any] = {
        "args": ["sh", "-c", "grep Cpus_allowed_list /proc/self/status"],
        "cwd": "/",
        "user": {},
        "env": ["PATH=/bin"],
        "execCPUAffinity": {field: str(wanted)},
    }
    file = walled.folder / "process.json"
    file.write_text(json.dumps(process))
    out = walled.ok("exec", "--process", str(file), name)
    assert out.split() == ["Cpus_allowed_list:", str(wanted)]
    process["execCPUAffinity"] = {field: "many"}
    file.write_text(json.dumps(process))
    refused = walled("exec", "--process", str(file), name)
    assert refused.returncode == 1
    assert "execCPUAffinity" in refused.stderr
    walled.ok("delete", "--force", name)


# --- seccomp's listener ---------------------------------------------------------------------------------

NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
NOTIF, RESPONSE = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")


class Agent:
    """Serves one container's notifications: every call is told to have had this result, and is not made."""

    def __init__(self, path: Path, error: int) -> None:
        self.states: list[Spec] = []
        self.pids: list[int] = []
        self._error = error
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 1)
            self.states.append(json.loads(data))
            notice = bytearray(NOTIF.size)
            fcntl.ioctl(fds[0], NOTIF_RECV, notice)
            identity, pid, *_ = NOTIF.unpack(notice)
            self.pids.append(pid)
            fcntl.ioctl(fds[0], NOTIF_SEND, RESPONSE.pack(identity, 0, -self._error, 0))
            os.close(fds[0])

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(GIVE_UP_SECONDS)
        self._socket.close()


def listening(path: Path) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": str(path),
            "listenerMetadata": "words",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        }

    return change


@pytest.mark.parametrize(("error", "said"), [(0, "made"), (errno.EXDEV, "Invalid cross-device link")])
def test_an_agent_decides_about_calls_of_init_and_exec(walled: Cli, error: int, said: str) -> None:
    path = walled.folder / "agent"
    agent = Agent(path, error)
    script = ("sh", "-c", "mkdir /x 2>&1 && echo made; ls -d /x 2>/dev/null; echo end")
    try:
        name = walled.create("sh", "-c", f"{{ {script[2]}; }} >/out; exec sleep 1000", change=listening(path))
        walled.ok("start", name)
        out = walled.ok("exec", name, *script)
        assert said in out
        assert "/x\n" not in out
        init = next(walled.folder.glob("bundle*")) / "rootfs/out"
        until(lambda: init.exists() and init.read_text().endswith("end\n"), init)
        assert said in init.read_text()
        walled.ok("delete", "--force", name)
    finally:
        agent.close()
    assert [state["state"]["id"] for state in agent.states] == [name] * 2
    assert {state["metadata"] for state in agent.states} == {"words"}
    # The processes of the notifications are children of those the agent was told of.
    assert len(set(agent.pids)) == 2


def test_without_its_agent_a_container_does_not_run(walled: Cli) -> None:
    """A filter whose notifications nobody gets would stop the program at its first call."""
    path = walled.folder / "nobody"
    done = walled.run("true", change=listening(path))
    assert done.returncode == 1
    assert f"seccomp listener {path}" in done.stderr
    assert names(walled.root) == []


# --- cgroup v2 -----------------------------------------------------------------------------------------

ONLY_UNIFIED = "mount -t tmpfs none /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"


def unified_place() -> Path | None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return next((Path(line.split()[4]) for line in lines if " - cgroup2 " in line), None)


def test_a_cgroup_of_v2_is_given_to_a_user_who_gets_it_to_write(walled: Cli, walls: Walls) -> None:
    """Where nothing but an empty v2 hierarchy is to be seen: a user who is not root, in a container with a
    writable cgroup mount, owns the files that a delegation takes, and can make groups of its own."""
    command = [*walls.prefix, "sh", "-c", ONLY_UNIFIED]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no cgroup v2 can be mounted here")
    outside = unified_place()
    if outside is None:
        pytest.skip("the v2 hierarchy is mounted nowhere, so that what is left there could be removed")

    def change(spec: Spec) -> None:
        spec["process"]["user"] = {"uid": 7, "gid": 7}
        spec["linux"]["resources"] = {"unified": {"cgroup.max.depth": "3"}}
        spec["linux"]["cgroupsPath"] = f"/{walled.token}/box"
        for mount in spec["mounts"]:
            if mount["destination"] == "/sys/fs/cgroup":
                mount["options"].remove("ro")

    script = """
stat -c %u /sys/fs/cgroup /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/cgroup.max.depth
cat /sys/fs/cgroup/cgroup.max.depth
mkdir /sys/fs/cgroup/own && echo $$ >/sys/fs/cgroup/own/cgroup.procs && cat /proc/self/cgroup | grep ^0:"""
    try:
        out = walled.shell(script, change)
    finally:
        if (outside / walled.token).exists():
            (outside / walled.token).rmdir()
    assert out.split() == ["7", "7", "0", "3", "0::/own"]
