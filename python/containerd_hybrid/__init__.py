"""containerd_hybrid: a container runtime you can talk to, import, or install as a daemon.

    import containerd_hybrid

    with containerd_hybrid.connect() as client:              # a daemon: ours, or any containerd
        client.images.import_archive("busybox.tar")
        print(client.containers.run("busybox", ["echo", "hello"]).stdout)

    with containerd_hybrid.open(root="/srv/containers") as client:   # no daemon at all
        ...

``connect_async`` and ``open_async`` give the same objects for asyncio.

The way of the data, from a registry to a running process, is one direction through these packages:
`registry` → `content` → `unpack` → `snapshots` → `images` → `containers` → `tasks` → `events`. Values are
in `model`, the exceptions in `errors`, each package's contract in its `api` module.
"""

from __future__ import annotations

# `typing` and `pathlib` take longer to import than everything else here; type checkers know this name.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from containerd_hybrid.client.client import AsyncClient
    from containerd_hybrid.client.container import AsyncContainer, ContainerInfo
    from containerd_hybrid.client.containers import Completed
    from containerd_hybrid.client.events import Event
    from containerd_hybrid.client.options import MountPoint, RunOptions, TlsFiles, User
    from containerd_hybrid.client.process import AsyncProcess, Exited
    from containerd_hybrid.client.stdio import Streams
    from containerd_hybrid.client.sync import Client, Container, Process
    from containerd_hybrid.errors import HybridError
    from containerd_hybrid.images.api import Image
    from containerd_hybrid.model import Descriptor, Digest, Platform, Reference
    from containerd_hybrid.mounts.api import Mounter
    from containerd_hybrid.tasks.api import Status

__version__ = "0.1.0"

DEFAULT_ADDRESS = "/run/containerd/containerd.sock"
DEFAULT_NAMESPACE = "default"
# Not the folders of a daemon: one that is installed may be a stock containerd.
DEFAULT_ROOT = "/var/lib/containerd-hybrid"
DEFAULT_STATE = "/run/containerd-hybrid"

__all__ = [
    "AsyncClient",
    "AsyncContainer",
    "AsyncProcess",
    "Client",
    "Completed",
    "Container",
    "ContainerInfo",
    "Descriptor",
    "Digest",
    "Event",
    "Exited",
    "HybridError",
    "Image",
    "MountPoint",
    "Platform",
    "Process",
    "Reference",
    "RunOptions",
    "Status",
    "Streams",
    "TlsFiles",
    "User",
    "__version__",
    "connect",
    "connect_async",
    "open",
    "open_async",
]

# Where the names above are, so that importing the package costs next to nothing.
_HOMES = {
    "AsyncClient": "client.client",
    "AsyncContainer": "client.container",
    "AsyncProcess": "client.process",
    "Client": "client.sync",
    "Completed": "client.containers",
    "Container": "client.sync",
    "ContainerInfo": "client.container",
    "Descriptor": "model",
    "Digest": "model",
    "Event": "client.events",
    "Exited": "client.process",
    "HybridError": "errors",
    "Image": "images.api",
    "MountPoint": "client.options",
    "Platform": "model",
    "Process": "client.sync",
    "Reference": "model",
    "RunOptions": "client.options",
    "Status": "tasks.api",
    "Streams": "client.stdio",
    "TlsFiles": "client.options",
    "User": "client.options",
}


def connect(
    address: str = DEFAULT_ADDRESS, namespace: str = DEFAULT_NAMESPACE, tls: TlsFiles | None = None
) -> Client:
    """A client of the daemon that listens at ``address``: the path of a Unix socket, or ``tcp://host:port``.

    TCP needs ``tls``. Nothing is sent yet: that no daemon answers, or that it does not trust us, is told by
    the first call (UnavailableError).

    Raises:
        FailedPreconditionError: a file of ``tls`` cannot be read.
        InvalidArgumentError: TCP without ``tls``, or a Unix socket with it.
    """
    from containerd_hybrid.client.portal import through_portal
    from containerd_hybrid.client.sync import Client

    return Client(*through_portal(lambda: connect_async(address, namespace, tls)))


async def connect_async(
    address: str = DEFAULT_ADDRESS, namespace: str = DEFAULT_NAMESPACE, tls: TlsFiles | None = None
) -> AsyncClient:
    """As :func:`connect`, for the event loop that runs now."""
    import asyncio

    from containerd_hybrid.client.client import AsyncClient
    from containerd_hybrid.client.grpc_transport import GrpcTransport

    pems = None if tls is None else await asyncio.to_thread(tls.read)
    return AsyncClient(GrpcTransport(address, pems), _mounter(), namespace)


def open(  # noqa: A001 (as `shelve.open`: it is used with the module's name before it)
    root: str | Path = DEFAULT_ROOT,
    state: str | Path = DEFAULT_STATE,
    namespace: str = DEFAULT_NAMESPACE,
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> Client:
    """A runtime in this process, without a daemon. It needs root.

    ``root`` holds what stays (images, snapshots, records), ``state`` what runs; no daemon and no other
    process may use them meanwhile. ``config`` has plug-in tables as a daemon's configuration file has
    them, by the plug-ins' full names. Containers outlive the client, and who opens the same folders
    again finds them.

    Raises:
        FailedPreconditionError: the folders are in use.
        InvalidConfigError: a value in ``config`` has a wrong type.
    """
    from containerd_hybrid.client.portal import through_portal
    from containerd_hybrid.client.sync import Client

    return Client(*through_portal(lambda: open_async(root, state, namespace, config)))


async def open_async(
    root: str | Path = DEFAULT_ROOT,
    state: str | Path = DEFAULT_STATE,
    namespace: str = DEFAULT_NAMESPACE,
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> AsyncClient:
    """As :func:`open`, for the event loop that runs now."""
    from containerd_hybrid.app.inprocess import open_runtime
    from containerd_hybrid.client.client import AsyncClient

    return AsyncClient(await open_runtime(root, state, config), _mounter(), namespace)


def _mounter() -> Mounter:
    """Mounts what a client looks into: the users of an image."""
    import os
    from pathlib import Path

    from containerd_hybrid.mounts.linux import LinuxMounter

    return LinuxMounter(Path(os.environ.get("TMPDIR") or "/tmp"))  # noqa: S108


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
