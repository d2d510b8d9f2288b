"""What a container gets: containerd's defaults, the image's wishes, the caller's last word."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.client.options import MountPoint, RunOptions, User
from containerd_hybrid.client.spec import arguments, container_spec, environment
from containerd_hybrid.client.system import CAPABILITIES, Device, capability_names, host_devices
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model import Platform
from containerd_hybrid.model.manifest import ImageConfig

CONFIG = ImageConfig(
    Platform("linux", "amd64"), (), cmd=("sh",), env=("A=image", "B=image"), working_dir="/app"
)
DEVICE = Device("/dev/sda", "b", 8, 0, 0o660, 0, 6)
KNOWN = ("CAP_CHOWN", "CAP_SYS_ADMIN")


def spec(
    options: RunOptions | None = None, *, cgroup_v2: bool = False, user: User | None = None
) -> dict[str, Any]:
    return container_spec(
        "id",
        "ns",
        CONFIG,
        (),
        user or User(),
        options or RunOptions(hostname="host"),
        all_capabilities=KNOWN,
        host_devices=(DEVICE,),
        cgroup_v2=cgroup_v2,
    )


def mount_at(made: dict[str, Any], destination: str) -> dict[str, Any] | None:
    return next((mount for mount in made["mounts"] if mount["destination"] == destination), None)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "args", "own", "expected"),
    [
        ((), ("sh",), (), (), ["sh"]),
        ((), ("sh",), ("ls", "-l"), (), ["ls", "-l"]),
        (("e",), ("c",), (), (), ["e", "c"]),
        (("e",), ("c",), ("a",), (), ["e", "a"]),
        (("e",), ("c",), (), ("own",), ["own"]),
        (("e",), ("c",), ("a",), ("own",), ["own", "a"]),
    ],
)
def test_what_is_executed(
    entrypoint: tuple[str, ...],
    cmd: tuple[str, ...],
    args: tuple[str, ...],
    own: tuple[str, ...],
    expected: list[str],
) -> None:
    config = dataclasses.replace(CONFIG, entrypoint=entrypoint, cmd=cmd)
    assert arguments(config, args, own) == expected


def test_an_image_without_a_command_needs_one() -> None:
    with pytest.raises(InvalidArgumentError, match="names no command to run: give one"):
        arguments(dataclasses.replace(CONFIG, cmd=()), ())


def test_the_environment_is_the_images_with_the_callers_in_it() -> None:
    values = environment(CONFIG, {"B": "caller", "C": "x=y"}, terminal=False)
    assert values[0].startswith("PATH=/usr/local/sbin:")
    assert values[1:] == ["A=image", "B=caller", "C=x=y"]
    assert "TERM=xterm" in environment(CONFIG, {}, terminal=True)
    assert "TERM=dumb" in environment(CONFIG, {"TERM": "dumb"}, terminal=True)
    config = dataclasses.replace(CONFIG, env=("PATH=/bin",))
    assert environment(config, {}, terminal=False) == ["PATH=/bin"]


def test_the_spec_is_json_and_has_what_a_runtime_needs() -> None:
    made = json.loads(json.dumps(spec(user=User(5, 6, (6, 7)))))
    assert made["process"]["user"] == {"uid": 5, "gid": 6, "additionalGids": [6, 7]}
    assert made["process"]["cwd"] == "/app"
    assert made["process"]["noNewPrivileges"] is True
    assert made["root"] == {"path": "rootfs", "readonly": False}
    assert made["linux"]["cgroupsPath"] == "/ns/id"
    assert made["hostname"] == "host"
    assert [ns["type"] for ns in made["linux"]["namespaces"]] == ["pid", "ipc", "uts", "mount", "network"]
    assert "/proc/kcore" in made["linux"]["maskedPaths"]
    assert "devices" not in made["linux"]
    assert mount_at(made, "/sys/fs/cgroup") is None


def test_cgroup_v2_has_a_namespace_and_a_mount_of_its_own() -> None:
    made = spec(cgroup_v2=True)
    assert {"type": "cgroup"} in made["linux"]["namespaces"]
    mount = mount_at(made, "/sys/fs/cgroup")
    assert mount is not None
    assert "ro" in mount["options"]


def test_the_hosts_network_comes_with_its_names() -> None:
    made = spec(RunOptions(host_network=True, hostname="x"))
    assert {"type": "network"} not in made["linux"]["namespaces"]
    assert made["hostname"] == ""
    for file in ("/etc/hosts", "/etc/resolv.conf"):
        mount = mount_at(made, file)
        assert mount is not None
        assert (mount["source"], mount["options"]) == (file, ["rbind", "ro"])


def test_privileged_is_everything_this_machine_has() -> None:
    made = spec(RunOptions(privileged=True), cgroup_v2=True)
    assert made["process"]["capabilities"]["bounding"] == list(KNOWN)
    assert made["process"]["noNewPrivileges"] is False
    assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    (device,) = made["linux"]["devices"]
    assert device == {
        "path": "/dev/sda", "type": "b", "major": 8, "minor": 0, "fileMode": 0o660, "uid": 0, "gid": 6
    }  # fmt: skip
    mount = mount_at(made, "/sys")
    assert mount is not None
    assert "rw" in mount["options"]
    assert {"type": "cgroup"} not in made["linux"]["namespaces"]


def test_devices_are_refused_but_for_the_harmless() -> None:
    devices = spec()["linux"]["resources"]["devices"]
    assert devices[0] == {"allow": False, "access": "rwm"}
    assert {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"} in devices
    assert {"allow": True, "type": "c", "major": 136, "access": "rwm"} in devices


def capabilities(**options: Any) -> set[str]:
    return set(spec(RunOptions(**options))["process"]["capabilities"]["effective"])


def test_capabilities_are_added_and_dropped_by_any_of_their_names() -> None:
    usual = capabilities()
    assert "CAP_SYS_ADMIN" not in usual
    assert capabilities(capabilities_added=("sys_admin",)) == usual | {"CAP_SYS_ADMIN"}
    assert capabilities(capabilities_dropped=("cap_kill",)) == usual - {"CAP_KILL"}
    assert capabilities(capabilities_added=("ALL",)) == usual | set(KNOWN)
    assert capabilities(capabilities_dropped=("all",), capabilities_added=("NET_RAW",)) == {"CAP_NET_RAW"}
    with pytest.raises(InvalidArgumentError, match="there is no capability 'CAP_FLY'"):
        capabilities(capabilities_dropped=("CAP_FLY",))


def test_limits() -> None:
    resources = spec(RunOptions(memory_limit=1 << 20, cpus=1.5, pids_limit=7))["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 20}
    assert resources["cpu"] == {"quota": 150_000, "period": 100_000}
    assert resources["pids"] == {"limit": 7}
    assert set(spec()["linux"]["resources"]) == {"devices"}
    for wrong in (RunOptions(memory_limit=0), RunOptions(cpus=0.001), RunOptions(pids_limit=-5)):
        with pytest.raises(InvalidArgumentError, match="is too small"):
            spec(wrong)


# --- mounts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a:/b", MountPoint("/a", "/b", ("rbind", "rw"))),
        ("/a:/b:ro", MountPoint("/a", "/b", ("rbind", "ro"))),
        ("/a:/b:ro,rslave", MountPoint("/a", "/b", ("rbind", "ro", "rslave"))),
        ("type=bind,src=/a,dst=/b", MountPoint("/a", "/b", ("rbind", "rw"))),
        ("source=/a,target=/b,readonly", MountPoint("/a", "/b", ("rbind", "ro"))),
        ("type=bind,source=/a,destination=/b,ro=true", MountPoint("/a", "/b", ("rbind", "ro"))),
        ("type=bind,src=/a,dst=/b,options=rbind:ro", MountPoint("/a", "/b", ("rbind", "ro"))),
        (
            "type=tmpfs,dst=/t,options=size=1m:mode=700",
            MountPoint("tmpfs", "/t", ("size=1m", "mode=700"), "tmpfs"),
        ),
        ("type=tmpfs,target=/t", MountPoint("tmpfs", "/t", (), "tmpfs")),
    ],
)
def test_mounts_as_docker_and_ctr_write_them(text: str, expected: MountPoint) -> None:
    assert MountPoint.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/a", "expected source:destination"),
        ("/a:/b:ro:x", "expected source:destination"),
        ("/a::ro", "expected source:destination"),
        ("data:/b", "the path on the host has to begin with a slash .volumes with names"),
        ("/a:b", "the path in the container has to begin with a slash"),
        ("type=bind,src=/a", "the path in the container"),
        ("type=bind,dst=/a", "it has no src="),
        ("type=bind,src=/a,dst=/b,volume-nocopy=1", "unknown key 'volume-nocopy': use type, src"),
    ],
)
def test_a_mount_that_cannot_be_says_why(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        MountPoint.parse(text)


# --- this machine


def test_capabilities_of_this_process() -> None:
    shown = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapBnd" in line)
    assert len(capability_names()) == int(shown.split()[1], 16).bit_count()
    assert set(capability_names()) <= set(CAPABILITIES)
    assert CAPABILITIES[21] == "CAP_SYS_ADMIN"
    assert CAPABILITIES[40] == "CAP_CHECKPOINT_RESTORE"


def test_devices_of_this_machine() -> None:
    before = listed_devices()
    found = {device.path: device for device in host_devices()}
    after = listed_devices()
    assert (found["/dev/null"].type, found["/dev/null"].major, found["/dev/null"].minor) == ("c", 1, 3)
    # Others may make some and take some away meanwhile.
    assert before & after <= set(found) <= before | after


def listed_devices() -> set[str]:
    listed = subprocess.run(
        ["find", "/dev", "-xdev", "(", "-type", "c", "-o", "-type", "b", ")", "-not", "-path", "/dev/pts/*"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return set(listed.stdout.split()) - {"/dev/console"}
