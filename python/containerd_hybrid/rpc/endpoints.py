"""Where a gRPC server listens, and what its calls have in common whatever serves them."""

from __future__ import annotations

from dataclasses import dataclass

from containerd_hybrid.rpc.sockets import SocketOwner

# Calls that wait for something to happen, for ever if need be. A drain ends them at once, because no
# work of theirs is lost; every other call is given time to finish.
WAITING = frozenset(
    {
        "/containerd.services.events.v1.Events/Subscribe",
        "/containerd_hybrid.v1.EventLog/Replay",
        "/containerd.services.sandbox.v1.Controller/Wait",
        "/containerd.services.streaming.v1.Streaming/Stream",
        "/containerd.services.tasks.v1.Tasks/Wait",
        "/grpc.health.v1.Health/Watch",
        "/runtime.v1.RuntimeService/GetContainerEvents",
    }
)

STOPPING = "the daemon is stopping"


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """A socket file of mode 0660."""

    path: str
    owner: SocketOwner

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """``host:port``, with TLS when there is a certificate, and mutual TLS with ``ca`` (all PEM)."""

    address: str
    certificate: bytes = b""
    key: bytes = b""
    ca: bytes = b""

    def __str__(self) -> str:
        return self.address


def unknown_path(path: str, services: set[str]) -> str:
    """What Go's server says of a path that no method has."""
    service, _, method = path.removeprefix("/").rpartition("/")
    if service in services:
        return f"unknown method {method} for service {service}"
    return f"unknown service {service}"
