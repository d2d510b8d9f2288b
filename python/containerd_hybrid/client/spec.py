"""From an image and options to an OCI runtime spec, with the defaults that containerd's clients use.

Pure: nothing is read from the system here, so what a container gets can be tested as data.
Source: OCI runtime spec 1.2 (config.md, config-linux.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
_NAMESPACES = ("pid", "ipc", "uts", "mount", "network")


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of the host in the container; ``options`` as mount(8) has them."""

    source: str
    destination: str
    options: tuple[str, ...] = ("rbind", "rw")
    type: str = "bind"

    @classmethod
    def parse(cls, text: str) -> Bind:
        """Parse ``source:destination[:ro]`` or ``type=bind,src=…,dst=…,options=rbind:ro``.

        Raises:
            InvalidArgumentError: a part is missing.
        """
        if "=" in text.partition(":")[0]:
            parts = dict(item.partition("=")[::2] for item in text.split(","))
            source = parts.get("source") or parts.get("src") or ""
            destination = parts.get("destination") or parts.get("dst") or parts.get("target") or ""
            kind = parts.get("type", "bind")
            options = tuple(option for option in parts.get("options", "").split(":") if option)
            if destination:
                return cls(source or kind, destination, options or ("rbind", "rw"), kind)
        else:
            fields = text.split(":")
            if len(fields) in {2, 3} and all(fields):
                mode = fields[2] if len(fields) == 3 else "rw"
                return cls(fields[0], fields[1], ("rbind", *mode.split(",")))
        raise InvalidArgumentError(
            f"invalid mount {text!r}: expected source:destination[:ro] or type=…,src=…,dst=…[,options=…]"
        )


@dataclass(frozen=True, slots=True)
class User:
    """Numeric identity of a process."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a container is run; everything left out is the image's choice or containerd's default.

    ``memory_limit`` is in bytes, ``cpus`` in processors, ``stop_signal`` a name or number.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    user: str = ""
    mounts: tuple[Bind, ...] = ()
    hostname: str = ""
    host_network: bool = False
    read_only: bool = False
    privileged: bool = False
    terminal: bool = False
    memory_limit: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    capabilities_added: tuple[str, ...] = ()
    capabilities_dropped: tuple[str, ...] = ()
    no_new_privileges: bool = True
    annotations: Mapping[str, str] = field(default_factory=dict)


def arguments(config: ImageConfig, args: Sequence[str]) -> list[str]:
    """What to execute: the image's entrypoint with ``args`` or, without any, its own command.

    Raises:
        InvalidArgumentError: neither the caller nor the image says what to run.
    """
    command = [*config.entrypoint, *(args or config.cmd)]
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
    cgroup_v2: bool,
) -> dict[str, Any]:
    """The whole spec. ``all_capabilities`` are those that the kernel knows, for privileged containers."""
    capabilities = _capabilities(options, all_capabilities)
    spec: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": process_spec(
            arguments(config, args),
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
    return upper if upper.startswith("CAP_") else f"CAP_{upper}"


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


def _resources(options: RunOptions) -> dict[str, Any]:
    resources: dict[str, Any] = {
        "devices": [{"allow": options.privileged, "access": "rwm"}],
    }
    if options.memory_limit is not None:
        resources["memory"] = {"limit": options.memory_limit}
    if options.cpus is not None:
        resources["cpu"] = {"quota": int(options.cpus * 100_000), "period": 100_000}
    if options.pids_limit is not None:
        resources["pids"] = {"limit": options.pids_limit}
    return resources
