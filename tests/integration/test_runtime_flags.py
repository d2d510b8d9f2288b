"""What runc's command line takes: every flag of it, and what the rarer ones do, beside runc where it can."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from pathlib import Path

from tests.integration.runtime_kit import CGROUPS, MARKS, Cli, Spec, Walls, clis, names, ours, walled, walls

__all__ = ["clis", "ours", "walled", "walls"]  # fixtures

pytestmark = MARKS

COMMANDS = [
    *("checkpoint", "create", "delete", "events", "exec", "features", "kill", "list", "pause", "ps"),
    *("restore", "resume", "run", "spec", "start", "state", "update"),
]


class PidfdSocket:
    """Receives one process descriptor, and what is said with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(120)
        self._got: tuple[bytes, list[int]] = (b"", [])
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            word, fds, _, _ = socket.recv_fds(connection, 4096, 1)
            self._got = (word, list(fds))

    def process(self) -> tuple[int, str]:
        self._thread.join()
        self._listener.close()
        word, (fd,) = self._got
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        os.close(fd)
        (pid,) = re.findall(r"^Pid:\s+(-?\d+)$", info, re.MULTILINE)
        return int(pid), word.decode()


def test_every_flag_of_runc_is_known(clis: tuple[Cli, Cli]) -> None:
    ours, runc = clis
    without = {"features", "pause", "resume", "start", "state"}
    for command in COMMANDS:
        options = runc.ok(command, "--help").partition("OPTIONS:\n")[2]
        flags = re.findall(r"^   --([a-z0-9-]+)", options, re.MULTILINE)
        assert flags or command in without
        for flag in flags:
            done = ours(command, f"--{flag}=1", "--help")
            assert done.returncode == 0, done.stderr


def test_every_global_flag_of_runc_is_known(clis: tuple[Cli, Cli]) -> None:
    ours, runc = clis
    options = runc.ok("--help").partition("GLOBAL OPTIONS:\n")[2]
    flags = set(re.findall(r"^   --([a-z-]+)", options, re.MULTILINE))
    assert len(flags) >= 9
    assert flags <= set(re.findall(r"^  --([a-z-]+)", ours.ok("--help"), re.MULTILINE))
    wrong = ours("--rootless", "perhaps", "list")
    assert (wrong.returncode, "true, false or auto" in wrong.stderr) == (1, True)


def test_descriptors_of_processes_go_to_a_socket(walled: Cli, short_folder: Path) -> None:
    sockets = [PidfdSocket(short_folder / name) for name in ("init", "exec", "run")]
    init, exec_, run = (("--pidfd-socket", str(held.path)) for held in sockets)
    name = walled.create("sleep", "1000", flags=init)
    assert sockets[0].process() == (walled.state(name)["pid"], "standard")
    walled.ok("start", name)
    pid_file = short_folder / "pid"
    walled.ok("exec", *exec_, "--detach", "--pid-file", str(pid_file), name, "sleep", "1000")
    assert sockets[1].process() == (int(pid_file.read_text()), "setns")
    refused = walled(
        "exec", "--pidfd-socket", str(short_folder / "nobody"), "--detach", name, "sleep", "1000"
    )
    assert refused.returncode == 1
    assert f"pidfd socket {short_folder}/nobody" in refused.stderr
    walled.ok("delete", "--force", name)

    bundle = walled.bundle("true")
    walled.ok("run", *run, "--bundle", str(bundle), name)
    assert sockets[2].process()[1] == "standard"
    lost = walled("create", "--pidfd-socket", str(short_folder / "nobody"), "--bundle", str(bundle), name)
    assert "pidfd socket" in lost.stderr
    assert names(walled.root) == []


def own_cgroups(cli: Cli) -> dict[str, Path]:
    """The directories of the last container, by hierarchy; "" is the unified one."""
    name = f"{cli.token}/{cli.count}-{Path(cli.binary).name}"
    if (CGROUPS / "cgroup.controllers").exists():
        return {"": CGROUPS / name}
    return {path.parents[1].name: path for path in CGROUPS.glob(f"*/{name}")}


def cgroups_of(pid: int) -> dict[str, str]:
    """Hierarchy, by one of its controllers, and path."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    fields = [line.split(":", 2) for line in lines]
    return {name: path for _, controllers, path in fields for name in controllers.split(",")}


def test_exec_goes_into_a_cgroup_below(clis: tuple[Cli, Cli], short_folder: Path) -> None:
    seen = []
    for cli in clis:
        name = cli.create("sleep", "1000")
        cli.ok("start", name)
        own = own_cgroups(cli)
        unified = "" in own
        for controller in ("",) if unified else ("pids", "memory"):
            (own[controller] / "sub").mkdir()
        places = ("sub",) if unified else ("pids,memory:sub",)
        flags = [word for place in places for word in ("--cgroup", place)]
        pid_file = short_folder / "pid"
        cli.ok("exec", *flags, "--detach", "--pid-file", str(pid_file), name, "sleep", "1000")
        place = f"/{cli.token}/{cli.count}-{Path(cli.binary).name}"
        found = {key: path.replace(place, "") for key, path in cgroups_of(int(pid_file.read_text())).items()}
        if not unified:
            found.pop("", None)  # beside v1, whether the unified hierarchy is used is the runtime's affair
        seen.append(found)
        assert {found[key] for key in (("",) if unified else ("pids", "memory"))} == {"/sub"}
        if not unified:
            assert found["devices"] == ""
        for wrong, words in [
            (("--cgroup", "a:b:c"), "invalid --cgroup argument"),
            (("--cgroup", "sub", "--cgroup", "sub"), "missing <controller>: prefix"),
            (("--cgroup", "no-such:sub"), ""),
            (("--cgroup", "../../elsewhere"), "is not a sub cgroup path"),
            (("--cgroup", "not-there"), ""),
        ]:
            done = cli("exec", *wrong, name, "true")
            assert done.returncode != 0
            assert words in done.stderr
        cli.ok("delete", "--force", name)
    assert seen[0] == seen[1]


def test_update_of_a_group_that_is_not_there(walled: Cli) -> None:
    name = walled.create("true")
    done = walled("update", "--l3-cache-schema", "L3:0=f", "--mem-bw-schema", "MB:0=50", name)
    assert done.returncode == 1
    assert "linux.intelRdt" in done.stderr
    walled.ok("delete", name)


def spec_of(cli: Cli, *flags: str) -> Spec:
    folder = cli.folder / "spec"
    folder.mkdir()
    cli.ok("spec", "--bundle", str(folder), *flags)
    spec: Spec = json.loads((folder / "config.json").read_text())
    return spec


def test_a_configuration_for_a_user_without_rights(clis: tuple[Cli, Cli]) -> None:
    mine, runcs = (spec_of(cli, "--rootless") for cli in clis)

    def shape(spec: Spec) -> object:
        linux = spec["linux"]
        mounts = {mount["destination"]: mount.get("options") or [] for mount in spec["mounts"]}
        return (
            sorted(namespace["type"] for namespace in linux["namespaces"] if namespace["type"] != "cgroup"),
            (linux["uidMappings"], linux["gidMappings"], "resources" in linux),
            mounts,
        )

    assert shape(mine) == shape(runcs)


READ_ONLY = """
for folder in $(grep -o ' /sys/fs/cgroup[^ ]* ' /proc/self/mountinfo); do
  mount -o remount,bind,ro "$folder"
done
"""


def test_without_the_right_to_make_a_cgroup(walls: Walls, walled: Cli) -> None:
    walls.run("sh", "-c", READ_ONLY)

    def without_limits(spec: Spec) -> None:
        spec["linux"].pop("resources", None)
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]

    bundle = walled.bundle("true", change=without_limits)
    refused = walled("--rootless", "false", "run", "--bundle", str(bundle), "box")
    assert refused.returncode == 1
    assert "read-only file system" in refused.stderr.lower()
    walled.ok("--rootless", "true", "run", "--bundle", str(bundle), "box")

    def with_a_limit(spec: Spec) -> None:
        without_limits(spec)
        spec["linux"]["resources"] = {"pids": {"limit": 7}}

    bundle = walled.bundle("true", change=with_a_limit)
    refused = walled("--rootless", "true", "run", "--bundle", str(bundle), "box")
    assert refused.returncode == 1
    assert "linux.resources.pids" in refused.stderr
    assert names(walled.root) == []
