"""The configuration as values. Keys, defaults and their order are those of containerd 2.4's version 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from containerd_hybrid.app.config.durations import Duration

VERSION = 4
OLDEST_VERSION = 2
DEFAULT_FILE = "/etc/containerd/config.toml"
DEFAULT_ADDRESS = "/run/containerd/containerd.sock"
MAX_MESSAGE_SIZE = 16 << 20

GRPC_SERVER = "io.containerd.server.v1.grpc"
GRPC_TCP_SERVER = "io.containerd.server.v1.grpc-tcp"
TTRPC_SERVER = "io.containerd.server.v1.ttrpc"
DEBUG_SERVER = "io.containerd.server.v1.debug"
METRICS_SERVER = "io.containerd.server.v1.metrics"


def _timeouts() -> dict[str, Duration]:
    defaults = {
        "bolt.open": "0s",
        "cri.defercleanup": "1m0s",
        "metrics.shimstats": "2s",
        "shim.cleanup": "5s",
        "shim.load": "5s",
        "shim.shutdown": "3s",
        "task.state": "2s",
    }
    return {f"io.containerd.timeout.{name}": Duration.parse(text) for name, text in defaults.items()}


@dataclass(frozen=True, slots=True)
class Debug:
    """The log: a level's name, ``text`` or ``json``."""

    level: str = ""
    format: str = ""
    log_trace_id: bool = False


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The cgroup that the daemon puts itself into."""

    path: str = ""


@dataclass(frozen=True, slots=True)
class ProxyPlugin:
    """A plug-in that is another process behind a gRPC socket."""

    type: str = ""
    address: str = ""
    platform: str = ""
    exports: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamProcessor:
    """A program that turns layers of one media type into another."""

    accepts: tuple[str, ...] = ()
    returns: str = ""
    path: str = ""
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


def _decoder(suffix: str) -> StreamProcessor:
    layer = f"application/vnd.oci.image.layer.v1.{suffix}"
    return StreamProcessor(
        accepts=(f"{layer}+encrypted",),
        returns=layer,
        path="ctd-decoder",
        args=("--decryption-keys-path", "/etc/containerd/ocicrypt/keys"),
        env=("OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf",),
    )


def _stream_processors() -> dict[str, StreamProcessor]:
    name = "io.containerd.ocicrypt.decoder.v1"
    return {f"{name}.tar": _decoder("tar"), f"{name}.tar.gzip": _decoder("tar+gzip")}


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. ``plugins`` has tables as they were written, by the plug-ins' full names."""

    version: int = VERSION
    root: str = "/var/lib/containerd"
    state: str = "/run/containerd"
    temp: str = ""
    disabled_plugins: tuple[str, ...] = ()
    required_plugins: tuple[str, ...] = ()
    oom_score: int = 0
    imports: tuple[str, ...] = ("/etc/containerd/conf.d/*.toml",)
    debug: Debug = Debug()
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cgroup: Cgroup = Cgroup()
    proxy_plugins: Mapping[str, ProxyPlugin] = field(default_factory=dict)
    timeouts: Mapping[str, Duration] = field(default_factory=_timeouts)
    stream_processors: Mapping[str, StreamProcessor] = field(default_factory=_stream_processors)


# What versions 2 and 3 have besides; version 4 has it in the tables of the server plug-ins.


@dataclass(frozen=True, slots=True)
class OldDebug(Debug):
    """``[debug]`` of version 3."""

    address: str = ""
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class OldGrpc:
    """``[grpc]`` of version 3."""

    address: str = ""
    tcp_address: str = ""
    tcp_tls_ca: str = ""
    tcp_tls_cert: str = ""
    tcp_tls_key: str = ""
    tcp_tls_common_name: str = ""
    uid: int = 0
    gid: int = 0
    max_recv_message_size: int = 0
    max_send_message_size: int = 0


@dataclass(frozen=True, slots=True)
class OldTtrpc:
    """``[ttrpc]`` of version 3."""

    address: str = ""
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class OldMetrics:
    """``[metrics]`` of version 3."""

    address: str = ""
    grpc_histogram: bool = False


@dataclass(frozen=True, slots=True)
class FileConfig:
    """One file, of any version: nothing set that the file does not set."""

    version: int = 0
    root: str = ""
    state: str = ""
    temp: str = ""
    disabled_plugins: tuple[str, ...] = ()
    required_plugins: tuple[str, ...] = ()
    oom_score: int = 0
    imports: tuple[str, ...] = ()
    debug: OldDebug = OldDebug()
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cgroup: Cgroup = Cgroup()
    proxy_plugins: Mapping[str, ProxyPlugin] = field(default_factory=dict)
    timeouts: Mapping[str, Duration] = field(default_factory=dict)
    stream_processors: Mapping[str, StreamProcessor] = field(default_factory=dict)
    grpc: OldGrpc = OldGrpc()
    ttrpc: OldTtrpc = OldTtrpc()
    metrics: OldMetrics = OldMetrics()
