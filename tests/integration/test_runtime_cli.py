"""The OCI runtime's program beside runc: the same bundles, the same answers."""

from __future__ import annotations

import array
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.runtime_kit import (
    MARKS,
    Cli,
    ConsoleSocket,
    Spec,
    Walls,
    clis,
    names,
    namespace_of,
    ours,
    same,
    walls,
)

from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

__all__ = ["clis", "ours", "walls"]  # fixtures

pytestmark = MARKS


@pytest.fixture(autouse=True)
def _all_is_walled(walls: Walls, clis: tuple[Cli, Cli]) -> None:
    """Both runtimes run in namespaces of the test's own: no mount or device of the machine is in reach."""
    for cli in clis:
        cli.prefix = walls.prefix


def test_environment_identity_and_working_directory(clis: tuple[Cli, Cli]) -> None:
    def change(spec: Spec) -> None:
        spec["process"]["user"] = {"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o27}
        spec["process"]["cwd"] = "/work/made"

    script = (
        "id; env | sort | grep -v SHLVL; pwd; umask; hostname 2>/dev/null || cat /proc/sys/kernel/hostname"
    )
    out = same(clis, script, change)
    assert "HOME=/home/me" in out
    assert "GREETING=hello" in out
    assert "/work/made" in out


def test_rights_and_limits(clis: tuple[Cli, Cli]) -> None:
    script = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; cat /proc/self/limits; "
    out = same(clis, script + "cat /proc/self/oom_score_adj")
    assert re.search(r"Max open files\s+512\s+1000", out)

    def ambient(spec: Spec) -> None:
        caps = ["CAP_NET_BIND_SERVICE"]
        spec["process"]["capabilities"] = dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable", "ambient"), caps
        )
        spec["process"]["user"] = {"uid": 7, "gid": 7}
        spec["process"]["oomScoreAdj"] = 500

    out = same(clis, script + "cat /proc/self/oom_score_adj", ambient)
    assert "CapAmb:\t0000000000000400" in out
    assert out.endswith("500\n")


def test_mounts_have_the_same_shape(clis: tuple[Cli, Cli], short_folder: Path) -> None:
    (short_folder / "data").mkdir()
    (short_folder / "data/file").write_text("data")

    def change(spec: Spec) -> None:
        spec["root"]["readonly"] = True
        data = str(short_folder / "data")
        for name, options in {
            "ro": ["rbind", "ro"],
            "rw": ["bind", "nosuid", "noexec", "rw"],
            "private": ["rbind", "rprivate"],
            "shared": ["rbind", "rshared"],
        }.items():
            spec["mounts"].append(
                {"destination": f"/mnt/{name}", "type": "bind", "source": data, "options": options}
            )
        spec["mounts"].append(
            {"destination": "/mnt/f", "type": "bind", "source": f"{data}/file", "options": ["bind", "ro"]}
        )

    def shape(cli: Cli) -> list[tuple[str, ...]]:
        rows = []
        for line in cli.shell("cat /proc/self/mountinfo", change).splitlines():
            left, right = line.split(" - ")
            fields, kind = left.split(), right.split()
            optional = sorted({tag.split(":")[0] for tag in fields[6:]})
            row = (fields[4], ",".join(sorted(fields[5].split(","))), kind[0], *optional)
            # A file is hidden by a null device: the host's here, runc 1.1 takes the container's.
            rows.append((fields[4], "null") if fields[3] == "/null" else row)
            # runc 1.1 leaves the folder of the hierarchies writable, whatever the specification says.
            if fields[4] == "/sys/fs/cgroup":
                rows.remove(row)
                assert fields[5].startswith("ro") or cli.binary == "runc"
        return sorted(rows)

    mine, runcs = map(shape, clis)
    assert mine == runcs


def test_devices_links_and_what_is_hidden(clis: tuple[Cli, Cli]) -> None:
    def change(spec: Spec) -> None:
        spec["linux"]["devices"] = [
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/fifo", "type": "p", "fileMode": 0o600},
        ]

    script = (
        "stat -c '%n %F %a %u %g %t %T' /dev/* | sort; for l in fd stdin ptmx; do readlink /dev/$l; done;"
        "cat /proc/keys; cat /proc/timer_list; ls /sys/firmware; touch /proc/sys/x 2>&1;"
        "echo 1 > /proc/sys/kernel/panic"
    )
    mine, runcs = (cli.run("sh", "-c", script, change=change) for cli in clis)
    assert mine.stdout == runcs.stdout
    assert mine.returncode == runcs.returncode != 0
    assert "/dev/mine character special file 640 7 8 1 3" in mine.stdout


def test_device_rules(clis: tuple[Cli, Cli]) -> None:
    script = "mknod /tmp/z c 1 5 && head -c1 /tmp/z >/dev/null && echo zero; "
    script += "mknod /tmp/m c 1 1 && cat /tmp/m; echo $?"
    script = script.replace("mknod", "busybox mknod").replace("head", "busybox head")
    mine, runcs = (cli.run("sh", "-c", script) for cli in clis)
    assert (mine.stdout, mine.stderr) == (runcs.stdout, runcs.stderr)
    assert "zero" in mine.stdout
    assert "Operation not permitted" in mine.stderr


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_seccomp_blocks_a_call(clis: tuple[Cli, Cli], no_new_privileges: bool) -> None:
    def change(spec: Spec) -> None:
        spec["process"]["noNewPrivileges"] = no_new_privileges
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
                {
                    "names": ["kill"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}],
                },
            ],
        }

    script = "mkdir /x; echo $?; kill -USR1 1; kill -0 1; echo $?; grep Seccomp: /proc/self/status"
    mine, runcs = (cli.run("sh", "-c", script, change=change) for cli in clis)
    assert (mine.stdout, mine.stderr) == (runcs.stdout, runcs.stderr)
    assert "No space left" in mine.stderr
    assert "Seccomp:\t2" in mine.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nosuch"], 'exec: "nosuch": executable file not found in $PATH'),
        (["/no/such"], 'exec: "/no/such": stat /no/such: no such file or directory'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_a_program_that_is_not_there(clis: tuple[Cli, Cli], args: list[str], words: str) -> None:
    for cli in clis:
        done = cli.run(*args)
        assert done.returncode == 1
        assert f"unable to start container process: {words}" in done.stderr
        logged = [json.loads(line) for line in cli.log.read_text().splitlines()]
        assert any(entry["level"] == "error" and words in entry["msg"] for entry in logged)
        assert names(cli.root) == []


def test_limits_below_what_the_runtime_itself_needs(ours: Cli) -> None:
    """runc 1.1 fails: it opens files of its own under the container's limit."""

    def change(spec: Spec) -> None:
        spec["process"]["rlimits"] = [
            {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6},
            {"type": "RLIMIT_FSIZE", "soft": 1 << 16, "hard": 1 << 16},
        ]

    out = ours.shell("cat /proc/self/limits", change)
    assert re.search(r"Max open files\s+5\s+6", out)


def can_raise() -> bool:
    """Whether this process has CAP_SYS_RESOURCE."""
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"CapEff:\s+(\w+)", status)
    return bool(effective and int(effective[1], 16) >> 24 & 1)


@pytest.mark.skipif(can_raise(), reason="this process may raise its limits")
def test_what_the_kernel_refuses_is_an_error_or_clamped(ours: Cli) -> None:
    def raised(spec: Spec) -> None:
        spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1 << 30, "hard": 1 << 30}]

    done = ours.run("true", change=raised)
    assert done.returncode == 1
    assert "error setting rlimit RLIMIT_NOFILE: operation not permitted" in done.stderr

    def lowered(spec: Spec) -> None:
        spec["process"]["oomScoreAdj"] = -1000

    done = ours.run("true", change=lowered)
    assert done.returncode == 1
    assert "oom_score_adj: permission denied" in done.stderr
    bundle = ours.bundle("cat", "/proc/self/oom_score_adj", change=lowered)
    out = ours.ok("--restrict-oom-score-adj", "run", "--bundle", str(bundle), f"{ours.token}-clamped")
    assert out == Path("/proc/self/oom_score_adj").read_text()


def test_seccomp_notifications_go_to_their_agent(ours: Cli) -> None:
    path = ours.folder / "agent.sock"
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(path))
    agent.listen()

    def change(spec: Spec) -> None:
        spec["annotations"] = {"who": "me"}
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": str(path),
            "listenerMetadata": "some words",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        }

    received: list[Spec] = []

    def serve() -> None:
        connection, _ = agent.accept()
        with connection:
            data, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            received.append(json.loads(data))
            fds = array.array("i")
            fds.frombytes(control[0][2][:4])
            # Nobody listens any more: the call fails with ENOSYS.
            os.close(fds[0])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    done = ours.run("sh", "-c", "mkdir /x; echo $?", change=change)
    thread.join(GIVE_UP_SECONDS)
    agent.close()
    assert "Function not implemented" in done.stderr
    state = received[0]
    assert (state["metadata"], state["fds"]) == ("some words", ["seccompFd"])
    assert state["state"]["annotations"] == {"who": "me"}
    assert state["pid"] == state["state"]["pid"] > 1


def test_exit_codes(clis: tuple[Cli, Cli]) -> None:
    for script, code in (("exit 7", 7), ("kill -9 $$", None), ("true", 0)):
        # As init, its own signals do not reach it: `kill -9 $$` changes nothing.
        mine, runcs = (cli.run("sh", "-c", script) for cli in clis)
        assert mine.returncode == runcs.returncode
        assert code is None or mine.returncode == code


def test_the_life_of_a_container(clis: tuple[Cli, Cli]) -> None:
    for cli in clis:
        pid_file = cli.folder / "pid"
        name = cli.create("sleep", "1000", flags=("--pid-file", str(pid_file)))
        state = cli.state(name)
        assert state["status"] == "created"
        assert state["pid"] == int(pid_file.read_text())
        again = cli("create", "--bundle", state["bundle"], name)
        assert again.returncode == 1
        assert "container with given ID already exists" in again.stderr or "exists" in again.stderr
        cli.ok("start", name)
        assert cli.state(name)["status"] == "running"
        assert cli("start", name).returncode == 1
        assert "that is not stopped: running" in cli("delete", name).stderr
        assert json.loads(cli.ok("ps", "--format", "json", name)) == [state["pid"]]
        assert str(state["pid"]) in cli.ok("ps", name)
        cli.ok("pause", name)
        assert cli.state(name)["status"] == "paused"
        assert cli("exec", name, "true").returncode != 0
        cli.ok("resume", name)
        assert cli.state(name)["status"] == "running"
        cli.ok("kill", name, "KILL")
        cli.wait(name, "stopped")
        assert "container not running" in cli("kill", name, "TERM").stderr
        cli.ok("delete", name)
        gone = cli("state", name)
        assert gone.returncode == 1
        assert "does not exist" in gone.stderr


def test_a_created_container_is_killed_and_deleted(clis: tuple[Cli, Cli]) -> None:
    for cli in clis:
        name = cli.create("sleep", "1000")
        cli.ok("kill", name, "9")
        cli.wait(name, "stopped")
        cli.ok("delete", name)
        name = cli.create("sleep", "1000")
        cli.ok("delete", name)
        name = cli.create("sleep", "1000")
        cli.ok("start", name)
        cli.ok("delete", "--force", name)
        cli.ok("delete", "--force", "never-there")


def test_exec(clis: tuple[Cli, Cli]) -> None:
    outs = []
    for cli in clis:
        name = cli.create("sleep", "1000")
        cli.ok("start", name)
        script = "id; env | sort | grep -v SHLVL; readlink /proc/1/ns/pid | wc -c; cat /proc/self/cgroup; "

        out = cli.ok("exec", "--env", "MORE=1", "--user", "7:8", "--cwd", "/tmp", name, "sh", "-c", script)
        outs.append(out)
        code = cli("exec", name, "sh", "-c", "exit 9")
        assert code.returncode == 9
        missing = cli("exec", name, "nosuch")
        assert missing.returncode != 0
        assert (
            'exec failed: unable to start container process: exec: "nosuch": executable file not found'
            in (missing.stderr)
        )
        lost = cli("exec", "--cwd", "/nosuch", name, "true")
        assert lost.returncode != 0
        assert "no such file or directory" in lost.stderr
        spec = cli.folder / "process.json"
        spec.write_text(json.dumps({"args": ["sleep", "900"], "cwd": "/", "user": {}, "env": ["PATH=/bin"]}))
        pid_file = cli.folder / "exec.pid"
        cli.ok("exec", "--detach", "--process", str(spec), "--pid-file", str(pid_file), name)
        pid = int(pid_file.read_text())
        assert pid in json.loads(cli.ok("ps", "--format", "json", name))
        for kind in ("pid", "net", "mnt", "uts", "ipc"):
            init = cli.state(name)["pid"]
            assert namespace_of(pid, kind) == namespace_of(init, kind)
        cli.ok("kill", "--all", name, "KILL")
        cli.wait(name, "stopped")
        cli.ok("delete", name)
    assert outs[0] == outs[1]


def test_update(ours: Cli) -> None:
    def change(spec: Spec) -> None:
        spec["linux"]["resources"].update(
            {"pids": {"limit": 20}, "memory": {"limit": 64 << 20}, "cpu": {"shares": 512}}
        )

    name = ours.create("sleep", "1000", change=change)
    paths = json.loads((ours.root / name / "state.json").read_text())["cgroup_paths"]

    def read(controller: str, file: str) -> str:
        if controller not in paths:
            pytest.skip(f"this host has no v1 {controller} controller")
        return Path(paths[controller], file).read_text().strip()

    assert read("pids", "pids.max") == "20"
    assert read("memory", "memory.limit_in_bytes") == str(64 << 20)
    assert read("cpu", "cpu.shares") == "512"
    ours.ok("update", "--pids-limit", "30", "--memory", "128m", "--cpu-quota", "50000", name)
    assert read("pids", "pids.max") == "30"
    assert read("memory", "memory.limit_in_bytes") == str(128 << 20)
    assert read("cpu", "cpu.cfs_quota_us") == "50000"
    resources = ours.folder / "resources.json"
    resources.write_text(json.dumps({"pids": {"limit": 40}}))
    ours.ok("update", "--resources", str(resources), name)
    assert read("pids", "pids.max") == "40"
    stats = json.loads(ours.ok("events", "--stats", name))
    assert stats["data"]["pids"] == {"current": 1, "limit": 40}
    ours.ok("delete", "--force", name)


def test_hooks_run_in_their_places_and_order(clis: tuple[Cli, Cli]) -> None:
    orders = []
    for cli in clis:
        log = cli.folder / "hooks"
        shared = cli.folder / "shared"
        shared.mkdir()
        (shared / "hook").write_text(
            f"#!/bin/sh\ncat > {log}.$1.json\necho $1 $(readlink /proc/self/ns/mnt) >> {log}\n"
        )
        (shared / "hook").chmod(0o755)

        def change(spec: Spec, shared: Path = shared) -> None:
            hook = str(shared / "hook")
            spec["hooks"] = {
                place: [{"path": hook, "args": ["hook", place], "env": ["PATH=/bin:/usr/bin"]}]
                for place in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
            }
            started = ["sh", "-c", "cat > /tmp/new && busybox mv /tmp/new /tmp/started.json"]
            spec["hooks"]["startContainer"] = [{"path": "/bin/sh", "args": started, "env": ["PATH=/bin"]}]

        name = cli.create("sleep", "1000", change=change)
        cli.ok("start", name)
        # The last hook is the container's own: runc does not wait for it.
        own = next(cli.folder.glob("bundle*")) / "rootfs/tmp/started.json"
        until(own.exists, own)
        cli.ok("delete", "--force", name)
        lines = [line.split() for line in log.read_text().splitlines()]
        host = namespace_of("self", "mnt")
        orders.append([(place, namespace == host) for place, namespace in lines])
        bundle = next(cli.folder.glob("bundle*"))
        for file, status in (
            (Path(f"{log}.prestart.json"), "creating"),
            (Path(f"{log}.createContainer.json"), "creating"),
            (bundle / "rootfs/tmp/started.json", "created"),
            (Path(f"{log}.poststart.json"), "running"),
            (Path(f"{log}.poststop.json"), "stopped"),
        ):
            state = json.loads(file.read_text())
            assert (state["id"], state["bundle"]) == (name, str(bundle))
            # runc 1.1 says "created" after the start too.
            assert state["status"] == status or cli.binary == "runc"
    assert orders[0] == orders[1]
    assert [place for place, _ in orders[0]] == [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ]


@pytest.mark.parametrize("place", ["createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failing_hook_fails_the_container(ours: Cli, place: str) -> None:
    def change(spec: Spec) -> None:
        spec["hooks"] = {place: [{"path": "/bin/sh", "args": ["sh", "-c", "echo woe >&2; exit 3"]}]}

    done = ours.run("sleep", "1000", change=change)
    assert done.returncode == 1
    assert f"error running {place} hook #0 (/bin/sh)" in done.stderr
    assert names(ours.root) == []


def test_a_hook_that_takes_too_long(ours: Cli) -> None:
    for place in ("createRuntime", "createContainer"):

        def change(spec: Spec, place: str = place) -> None:
            spec["hooks"] = {place: [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}

        done = ours.run("true", change=change)
        assert done.returncode == 1
        assert place in done.stderr


def test_a_runtime_killed_while_it_creates(ours: Cli) -> None:
    """Its container is half made: the id is taken, the process has ended, and delete takes the rest."""
    marker, gate = ours.folder / "in-hook", ours.folder / "gate"
    os.mkfifo(gate)
    held = os.open(gate, os.O_RDWR)  # the hook reads until this is closed

    def change(spec: Spec) -> None:
        script = f"touch {marker}; read _ < {gate}"
        spec["hooks"] = {
            "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]
        }

    bundle = ours.bundle("sleep", "1000", change=change)
    name = f"{ours.token}-half"
    command = ours.line("create", "--bundle", str(bundle), name)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        until(marker.exists, "the hook")
        process.kill()
    os.close(held)
    assert names(ours.root) == [name]
    ours.wait(name, "stopped")
    assert ours("create", "--bundle", str(bundle), name).returncode == 1
    ours.ok("delete", "--force", name)
    assert names(ours.root) == []


def test_user_namespace(clis: tuple[Cli, Cli]) -> None:
    maps = [{"containerID": 0, "hostID": 100_000, "size": 65536}]

    def change(spec: Spec) -> None:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update({"uidMappings": maps, "gidMappings": maps})

    outs = []
    for cli in clis:
        if cli.binary == "runc":
            # It looks for the root as the container's user.
            for folder in (cli.folder.parent, cli.folder):
                folder.chmod(0o755)
        name = cli.create("sh", "-c", "sleep 1000", change=change)
        cli.ok("start", name)
        script = "id; cat /proc/self/uid_map /proc/self/setgroups; echo x > /dev/null"
        outs.append(cli.ok("exec", name, "sh", "-c", script))
        init = Path(f"/proc/{cli.state(name)['pid']}")
        # Only a program of the container's shows its user there; runc itself is still root's.
        until(lambda init=init: init.stat().st_uid == 100_000, init)
        cli.ok("delete", "--force", name)
    assert outs[0] == outs[1]
    assert "100000" in outs[0]


def test_idmapped_binds(ours: Cli, short_folder: Path) -> None:
    source = short_folder / "data"
    source.mkdir()
    (source / "file").write_text("data")

    def change(spec: Spec) -> None:
        maps = [{"containerID": 0, "hostID": 100_000, "size": 65536}]
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update({"uidMappings": maps, "gidMappings": maps})
        for target, options in (("/tmp", ["rbind", "idmap"]), ("/root", ["rbind", "rro"])):
            spec["mounts"].append(
                {"destination": target, "type": "bind", "source": str(source), "options": options}
            )

    script = "stat -c %u /tmp/file /root/file; touch /tmp/new; touch /root/new"
    done = ours.run("sh", "-c", script, change=change)
    assert done.stdout.split() == ["0", "65534"]
    assert "Read-only file system" in done.stderr
    assert (source / "new").stat().st_uid == 0


def test_namespaces_joined_by_path(clis: tuple[Cli, Cli]) -> None:
    for cli in clis:
        first = cli.create("sleep", "1000")
        pid = cli.state(first)["pid"]

        def change(spec: Spec, pid: int = pid) -> None:
            for namespace in spec["linux"]["namespaces"]:
                kind = {"network": "net"}.get(namespace["type"], namespace["type"])
                if kind in ("net", "ipc", "pid", "uts"):
                    namespace["path"] = f"/proc/{pid}/ns/{kind}"

        second = cli.create("sleep", "1000", change=change)
        cli.ok("start", second)
        other = cli.state(second)["pid"]
        for kind in ("net", "ipc", "pid", "uts"):
            assert namespace_of(other, kind) == namespace_of(pid, kind)
        assert namespace_of(other, "mnt") != namespace_of(pid, "mnt")
        cli.ok("delete", "--force", second)
        cli.ok("delete", "--force", first)


def test_without_any_namespace(ours: Cli, walls: Walls) -> None:
    """The container's mounts are in the runtime's own namespace then, and go with the container."""

    def change(spec: Spec) -> None:
        spec["linux"].update({"namespaces": [], "maskedPaths": [], "readonlyPaths": []})
        del spec["hostname"]
        spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "cgroup"]

    before = mountinfo(walls.pid)
    name = ours.create("sleep", "1000", change=change)
    ours.ok("start", name)
    pid = ours.state(name)["pid"]
    for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
        assert namespace_of(pid, kind) == namespace_of(walls.pid, kind)
    rootfs = str(Path(ours.state(name)["bundle"]) / "rootfs")
    assert str(Path(f"/proc/{pid}/root").readlink()) == rootfs
    below = [line for line in mountinfo(walls.pid) if line.split()[4].startswith(rootfs)]
    assert len(below) == 6
    assert "crw-rw-rw-" in ours.ok("exec", name, "ls", "-l", "/dev/null")
    ours.ok("delete", "--force", name)
    assert [line for line in mountinfo(walls.pid) if line.split()[4].startswith(rootfs)] == []
    done = ours.run("nosuch", change=change)
    assert done.returncode == 1
    left = set(mountinfo(walls.pid)) - set(before)
    assert [line for line in left if str(ours.folder) in line] == []


def test_time_namespace_and_sysctls(ours: Cli) -> None:
    def change(spec: Spec) -> None:
        spec["linux"]["namespaces"].append({"type": "time"})
        spec["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5}}
        spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "4097"}
        spec["domainname"] = "dom"

    script = (
        "cat /proc/uptime /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax /proc/sys/kernel/domainname"
    )
    uptime, forward, shmmax, domain = ours.shell(script, change).splitlines()
    assert float(uptime.split()[0]) > 1_000_000
    assert (forward, shmmax, domain) == ("1", "4097", "dom")


def test_terminals(clis: tuple[Cli, Cli]) -> None:
    outs = []
    for cli in clis:

        def change(spec: Spec) -> None:
            spec["process"].update({"terminal": True, "consoleSize": {"height": 30, "width": 99}})

        console = ConsoleSocket(cli.folder / "console.sock")
        script = (
            "tty; stty size; test /dev/console -ef /dev/pts/0 && echo same; [ -t 0 ] && [ -t 2 ] && echo all"
        )
        script = script.replace("tty;", "busybox tty;", 1).replace("stty", "busybox stty")
        name = cli.create("sh", "-c", script, change=change, flags=("--console-socket", str(console.path)))
        cli.ok("start", name)
        outs.append(console.output())
        cli.wait(name, "stopped")
        cli.ok("delete", name)
    assert outs[0] == outs[1]
    assert "/dev/pts/0" in outs[0]
    assert "30 99" in outs[0]
    assert "all" in outs[0]


def test_a_terminal_for_exec(ours: Cli) -> None:
    name = ours.create("sleep", "1000")
    ours.ok("start", name)
    console = ConsoleSocket(ours.folder / "console.sock")
    ours.ok(
        "exec",
        "--tty",
        "--detach",
        "--console-socket",
        str(console.path),
        name,
        "sh",
        "-c",
        "echo on $(busybox tty)",
    )
    assert console.output().strip() == "on /dev/pts/0"
    ours.ok("delete", "--force", name)


def test_terminals_and_sockets_belong_together(clis: tuple[Cli, Cli]) -> None:
    for cli in clis:
        bundle = cli.bundle("true", change=lambda spec: spec["process"].update({"terminal": True}))
        done = cli("create", "--bundle", str(bundle), "x")
        assert done.returncode == 1
        assert "cannot allocate tty" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # Never a name that the host may have: the device would be taken from it.
        (lambda s: s["linux"].update({"netDevices": {"no-such-dev": {}}}), "no-such-dev"),
        (lambda s: s["linux"].update({"intelRdt": {"closID": "x"}}), "linux.intelRdt"),
        (
            lambda s: s["linux"].update({"memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "0"}}),
            "linux.memoryPolicy",
        ),
        (lambda s: s["linux"].update({"sysctl": {"kernel.panic": "1"}}), "kernel.panic"),
        (
            lambda s: s["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/such"}),
            "/no/such",
        ),
        (lambda s: s["mounts"].append({"destination": "/x", "type": "nosuchfs"}), "/x"),
        (lambda s: s["process"].update({"args": []}), "args"),
        (
            lambda s: s["process"].update({"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}),
            "RLIMIT_X",
        ),
        (lambda s: s["root"].update({"path": "nowhere"}), "nowhere"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_leaves_nothing(
    ours: Cli, change: Callable[[Spec], object], words: str
) -> None:
    done = ours.run("true", change=change)
    assert done.returncode == 1
    assert words in done.stderr
    assert names(ours.root) == []


def test_links_of_an_image_do_not_lead_out(ours: Cli, short_folder: Path) -> None:
    """Mount points, devices and masks that an image made links of stay inside of its root."""
    outside = short_folder / "outside"
    outside.mkdir()
    (outside / "keep").write_text("kept")
    source = short_folder / "source"
    source.mkdir()

    def change(spec: Spec) -> None:
        spec["mounts"] = [m for m in spec["mounts"] if m["destination"] in ("/proc", "/sys")]
        spec["mounts"].append(
            {"destination": "/evil/new", "type": "bind", "source": str(source), "options": ["bind"]}
        )
        spec["linux"]["maskedPaths"] = ["/hide/keep"]

    bundle = ours.bundle("sh", "-c", "ls -d /dev; ls /dev/null", change=change)
    rootfs = bundle / "rootfs"
    shutil.rmtree(rootfs / "dev")
    for name in ("evil", "hide", "dev"):
        (rootfs / name).symlink_to(f"../../../../../../..{outside}")
    (rootfs / outside.relative_to("/")).mkdir(parents=True)
    done = ours("run", "--bundle", str(bundle), f"{ours.token}-links")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in outside.iterdir()) == ["keep"]
    assert (outside / "keep").read_text() == "kept"


def test_a_working_directory_out_of_the_root_is_refused(ours: Cli) -> None:
    """`/proc/self/fd/N` of a directory of the host (CVE-2024-21626)."""
    held = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in range(3, 12):

            def change(spec: Spec, number: int = number) -> None:
                spec["process"]["cwd"] = f"/proc/self/fd/{number}"

            bundle = ours.bundle("cat", "/etc/shadow", change=change)
            done = ours("run", "--bundle", str(bundle), f"{ours.token}-cwd", pass_fds=[held])
            assert done.returncode == 1
            assert done.stdout == ""
    finally:
        os.close(held)


def test_nothing_of_the_runtime_leaks_into_the_program(ours: Cli) -> None:
    held = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    bundle = ours.bundle("sh", "-c", "ls /proc/self/fd")
    try:
        done = ours("run", "--bundle", str(bundle), f"{ours.token}-fds", pass_fds=[held])
    finally:
        os.close(held)
    # 3 is the directory that ls reads.
    assert done.stdout.split() == ["0", "1", "2", "3"]


def test_the_runtimes_file_cannot_be_written_through_proc(ours: Cli) -> None:
    """An image whose program is the runtime itself gets a copy on a read-only mount (CVE-2019-5736)."""
    before = Path(ours.binary).stat()
    name = ours.create("sleep", "1000")
    pid = ours.state(name)["pid"]
    with pytest.raises(OSError, match=r"Read-only|busy"):
        os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY))
    held = os.open(f"/proc/{pid}/exe", os.O_PATH)
    ours.ok("delete", "--force", name)
    with pytest.raises(OSError, match="Read-only"):
        os.close(os.open(f"/proc/self/fd/{held}", os.O_WRONLY))
    os.close(held)
    after = Path(ours.binary).stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def test_preserved_descriptors(ours: Cli) -> None:
    read, write = os.pipe()
    bundle = ours.bundle("sh", "-c", "echo through >&3")
    command = ours.line("run", "--preserve-fds", "1", "--bundle", str(bundle))

    def give() -> None:
        os.dup2(write, 3)

    done = subprocess.run([*command, f"{ours.token}-p"], pass_fds=[3], preexec_fn=give, check=False)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert (done.returncode, pipe.read()) == (0, "through\n")


def test_signals_reach_the_init(ours: Cli) -> None:
    name = ours.create("sh", "-c", "trap 'exit 5' TERM; touch /tmp/ready; while :; do sleep 0.05; done")
    ours.ok("start", name)
    ready = next(ours.folder.glob("bundle*")) / "rootfs/tmp/ready"
    until(ready.exists, "the trap")
    ours.ok("kill", name, "SIGTERM")
    ours.wait(name, "stopped")
    ours.ok("delete", name)


def test_fifty_at_once(ours: Cli) -> None:
    bundles = [ours.bundle("true") for _ in range(50)]
    base = ours.line("run", "--bundle")
    running = [
        subprocess.Popen([*base, str(bundle), f"{ours.token}-{n}"], stdin=subprocess.DEVNULL)
        for n, bundle in enumerate(bundles)
    ]
    assert [process.wait() for process in running] == [0] * 50
    assert names(ours.root) == []


UNIFIED = """\
mount -t tmpfs none /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"
"""


def test_on_a_host_with_cgroup_v2_only(ours: Cli) -> None:
    """In a mount namespace that shows nothing but the unified hierarchy."""
    unshared = [*ours.prefix, "unshare", "--mount", "sh", "-c", UNIFIED, "sh"]
    if subprocess.run([*unshared, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no cgroup v2 can be mounted here")
    script = f"""
set -e
r="{ours.binary} --root {ours.root}"
$r create --bundle "$1" --pid-file "$1/pid" box
$r start box
cat /proc/$(cat "$1/pid")/cgroup | grep ^0:
$r exec box cat /proc/self/cgroup | grep ^0:
$r exec box sh -c 'busybox mknod /tmp/z c 1 5 && busybox head -c1 /tmp/z >/dev/null && echo zero' 2>&1
$r exec box sh -c 'busybox mknod /tmp/m c 1 1; cat /tmp/m || echo refused' 2>&1
$r ps --format json box
$r pause box
$r list | grep -o paused
$r resume box
$r kill --all box KILL
$r delete --force box
"""
    name = f"{ours.token}-v2"

    def change(spec: Spec) -> None:
        spec["linux"]["cgroupsPath"] = f"/{ours.token}/box"

    bundle = ours.bundle("sleep", "1000", change=change)
    command = [*unshared, "sh", "-c", script, name, str(bundle)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    unified = next((line.split()[4] for line in mountinfo() if " - cgroup2 " in line), None)
    if unified:
        Path(unified, ours.token).rmdir()
    assert done.returncode == 0, done.stderr
    pid = (bundle / "pid").read_text()
    assert done.stdout.splitlines() == [
        f"0::/{ours.token}/box",
        "0::/",
        "zero",
        "cat: can't open '/tmp/m': Operation not permitted",
        "refused",
        f"[{pid}]",
        "paused",
    ]


def mountinfo(pid: int | str = "self") -> list[str]:
    return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()


def test_features_and_list(ours: Cli) -> None:
    features = json.loads(ours.ok("features"))
    assert features["linux"]["seccomp"]["enabled"] is True
    assert {"time", "user", "cgroup"} <= set(features["linux"]["namespaces"])
    runc = json.loads(subprocess.run(["runc", "features"], capture_output=True, check=True).stdout)
    # remount, and flags that only say what is the default anyway
    missing = set(runc["mountOptions"]) - set(features["mountOptions"])
    assert missing <= {"remount", "iversion", "noiversion"}
    name = ours.create("true")
    listed = json.loads(ours.ok("list", "--format", "json"))
    assert [(entry["id"], entry["status"]) for entry in listed] == [(name, "created")]
    assert ours.ok("list", "--quiet").split() == [name]
    ours.ok("delete", name)
