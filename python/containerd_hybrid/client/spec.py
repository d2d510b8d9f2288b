"""From an image and options to an OCI runtime spec, with the defaults that containerd's clients use.

Pure: nothing is read from the system here, so what a container gets can be tested as data.
Source: OCI runtime spec 1.2 (config.md, config-linux.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from containerd_hybrid.client.options import RunOptions, User
from containerd_hybrid.client.system import CAPABILITIES, Device
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model.manifest import ImageConfig

SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
_MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# null, random, full, tty, zero, urandom, console, pts/*, ptmx: major and minor (devices.txt of the kernel).
_DEFAULT_DEVICES = ((1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 1), (136, None), (5, 2))
_CPU_PERIOD = 100_000  # microseconds
_NAMESPACES = ("pid", "ipc", "uts", "mount", "network")


def arguments(config: ImageConfig, args: Sequence[str], entrypoint: Sequence[str] = ()) -> list[str]:
    """What to execute: the image's entrypoint with ``args`` or, without any, its own command.

    Raises:
        InvalidArgumentError: neither the caller nor the image says what to run.
    """
    command = [*entrypoint, *args] if entrypoint else [*config.entrypoint, *(args or config.cmd)]
    if not command:
        raise InvalidArgumentError("the image names no command to run: give one")
    return command


def process_spec(
    args: Sequence[str],
    env: Sequence[str],
    working_dir: str,
    user: User,
    capabilities: Sequence[str],
    *,
    terminal: bool = False,
    no_new_privileges: bool = True,
) -> dict[str, Any]:
    """The ``process`` object of the OCI runtime spec."""
    return {
        "args": list(args),
        "cwd": working_dir or "/",
        "env": list(env),
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "capabilities": {kind: list(capabilities) for kind in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": no_new_privileges,
        "terminal": terminal,
    }


def container_spec(
    container_id: str,
    namespace: str,
    config: ImageConfig,
    args: Sequence[str],
    user: User,
    options: RunOptions,
    *,
    all_capabilities: Sequence[str],
    host_devices: Sequence[Device],
    cgroup_v2: bool,
) -> dict[str, Any]:
    """The whole spec. ``all_capabilities`` and ``host_devices`` are what a privileged container gets.

    Raises:
        InvalidArgumentError: no command, or a capability or a limit that cannot be.
    """
    capabilities = _capabilities(options, all_capabilities)
    spec: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": process_spec(
            arguments(config, args, options.entrypoint),
            environment(config, options.env, terminal=options.terminal),
            options.working_dir or config.working_dir,
            user,
            capabilities,
            terminal=options.terminal,
            no_new_privileges=options.no_new_privileges and not options.privileged,
        ),
        "root": {"path": "rootfs", "readonly": options.read_only},
        "hostname": "" if options.host_network else options.hostname,
        "mounts": _mounts(options, cgroup_v2=cgroup_v2),
        "annotations": dict(options.annotations),
        "linux": {
            "cgroupsPath": f"/{namespace}/{container_id}",
            "namespaces": _namespaces(options, cgroup_v2=cgroup_v2),
            "resources": _resources(options),
            "maskedPaths": [] if options.privileged else list(_MASKED_PATHS),
            "readonlyPaths": [] if options.privileged else list(_READONLY_PATHS),
        },
    }
    if options.privileged:
        spec["linux"]["devices"] = [_device(device) for device in host_devices]
    return spec


def environment(config: ImageConfig, extra: Mapping[str, str], *, terminal: bool) -> list[str]:
    """The image's variables, with ``extra`` replacing those of the same name."""
    values = dict(entry.partition("=")[::2] for entry in (_DEFAULT_PATH, *config.env))
    if terminal:
        values.setdefault("TERM", "xterm")
    return [f"{name}={value}" for name, value in (values | dict(extra)).items()]


def _capabilities(options: RunOptions, known: Sequence[str]) -> list[str]:
    chosen = list(known) if options.privileged else list(_DEFAULT_CAPABILITIES)
    for name in map(_capability, options.capabilities_added):
        chosen += list(known) if name == "CAP_ALL" else [name]
    dropped = set(map(_capability, options.capabilities_dropped))
    if "CAP_ALL" in dropped:
        chosen = [name for name in map(_capability, options.capabilities_added) if name != "CAP_ALL"]
    return [name for name in dict.fromkeys(chosen) if name not in dropped]


def _capability(name: str) -> str:
    upper = name.upper()
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full != "CAP_ALL" and full not in CAPABILITIES:
        raise InvalidArgumentError(f"there is no capability {name!r} (capabilities(7) lists them; or ALL)")
    return full


def _namespaces(options: RunOptions, *, cgroup_v2: bool) -> list[dict[str, str]]:
    kinds = [kind for kind in _NAMESPACES if not (kind == "network" and options.host_network)]
    if cgroup_v2 and not options.privileged:
        kinds.append("cgroup")
    return [{"type": kind} for kind in kinds]


def _mounts(options: RunOptions, *, cgroup_v2: bool) -> list[dict[str, Any]]:
    writable = "rw" if options.privileged else "ro"
    mounts = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        _mount(
            "/dev/shm",  # noqa: S108 (a path inside the container)
            "tmpfs",
            "shm",
            "nosuid",
            "noexec",
            "nodev",
            "mode=1777",
            "size=65536k",
        ),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", writable),
        _mount("/run", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    ]
    if cgroup_v2 or options.privileged:
        mounts.append(
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", writable)
        )
    if options.host_network:
        mounts += [_mount(file, "bind", file, "rbind", "ro") for file in ("/etc/hosts", "/etc/resolv.conf")]
    mounts += [_mount(bind.destination, bind.type, bind.source, *bind.options) for bind in options.mounts]
    return mounts


def _mount(destination: str, type: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


def _device(device: Device) -> dict[str, Any]:
    return {
        "path": device.path,
        "type": device.type,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }


def _resources(options: RunOptions) -> dict[str, Any]:
    devices: list[dict[str, Any]] = [{"allow": options.privileged, "access": "rwm"}]
    if not options.privileged:
        devices += [
            {"allow": True, "type": "c", "major": major, "access": "rwm"}
            | ({} if minor is None else {"minor": minor})
            for major, minor in _DEFAULT_DEVICES
        ]
    resources: dict[str, Any] = {"devices": devices}
    if options.memory_limit is not None:
        _check(options.memory_limit > 0, "memory limit", options.memory_limit)
        resources["memory"] = {"limit": options.memory_limit}
    if options.cpus is not None:
        quota = int(options.cpus * _CPU_PERIOD)
        # The kernel takes no quota below a millisecond of each period.
        _check(quota >= 1000, "number of processors", options.cpus)
        resources["cpu"] = {"quota": quota, "period": _CPU_PERIOD}
    if options.pids_limit is not None:
        _check(options.pids_limit > 0, "limit of processes", options.pids_limit)
        resources["pids"] = {"limit": options.pids_limit}
    return resources


def _check(valid: bool, what: str, value: float) -> None:
    if not valid:
        raise InvalidArgumentError(f"invalid {what} {value}: it is too small")
