"""A task manager with real shims, real runc and a real root file system, for tests that need root."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.unit.tasks.kit import FakeContainers

from containerd_hybrid.events.api import Envelope
from containerd_hybrid.events.encode import parse
from containerd_hybrid.events.exchange import Exchange
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.mounts.linux import LinuxMounter
from containerd_hybrid.proto.services.ttrpc.events.v1 import events_pb2
from containerd_hybrid.proto.types.runc.options_pb2 import Options
from containerd_hybrid.tasks.adoption import Adoption
from containerd_hybrid.tasks.api import AdoptionReport, CreateTask, Status, Stdio
from containerd_hybrid.tasks.bundle import SPEC_TYPE, Bundles
from containerd_hybrid.tasks.launcher import Launcher
from containerd_hybrid.tasks.manager import ShimTaskManager
from containerd_hybrid.tasks.runtimes import Runtimes
from containerd_hybrid.tasks.settings import ShimSettings, Timeouts
from containerd_hybrid.tasks.table import TaskTable
from containerd_hybrid.ttrpc.api import ServerCall, ServerMethod
from containerd_hybrid.ttrpc.client import connect
from containerd_hybrid.ttrpc.server import Server

NO_STREAMS = Stdio()
# A busy machine is no shim that hangs.
PATIENT = Timeouts(60.0, 60.0, 60.0, 60.0, 60.0, 60.0)
PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"


class RealWorld:
    """``token`` is in the name of everything the kernel is asked to make."""

    def __init__(self, folder: Path, token: str, program: Path) -> None:
        self.folder = folder
        self.scope = Scope(token)
        self.program = program
        self.containers = FakeContainers()
        self.exchange = Exchange()
        self.seen: list[Envelope] = []
        self.rootfs = folder / "image"
        self._base = rootfs(self.rootfs)
        self._wire()

    def _wire(self) -> None:
        settings = ShimSettings(
            address=str(self.folder / "d.sock"),
            ttrpc_address=str(self.folder / "d.sock.ttrpc"),
            publish_binary=Path("/bin/false"),
            timeouts=PATIENT,
        )
        runtimes = Runtimes(lambda: self.program)
        bundles = Bundles(self.folder / "root", self.folder / "state")
        self.launcher = Launcher(
            bundles, TaskTable(), self.exchange, LinuxMounter(self.folder / "mounts"), connect, settings
        )
        self.tasks = ShimTaskManager(self.containers, runtimes, self.launcher)
        self.adoption = Adoption(self.containers, runtimes, self.launcher)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[RealWorld]:
        """The events service that shims publish to, and a subscriber that keeps everything."""
        await asyncio.to_thread(self.launcher.bundles.prepare)
        service = {"Forward": ServerMethod(once=self._forward)}
        server = Server({"containerd.services.events.ttrpc.v1.Events": service})
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.folder / "d.sock.ttrpc"))
        listener.listen()
        await server.listen(listener)
        keeping = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            await self.clean()
            keeping.cancel()
            await server.close()

    async def _forward(self, requests: AsyncIterator[bytes], call: ServerCall) -> bytes:
        message = events_pb2.ForwardRequest.FromString(await anext(requests)).envelope
        self.exchange.forward(
            Envelope(
                message.timestamp.ToNanoseconds(),
                message.namespace,
                message.topic,
                AnyValue(message.event.type_url, message.event.value),
            )
        )
        return b""

    async def _keep(self) -> None:
        async with self.exchange.subscribe() as events:
            async for envelope in events:
                self.seen.append(envelope)

    async def topics(self, id: str, until: str) -> list[str]:
        """The topics of a task's events, once the last one wanted has come."""
        give_up = time.monotonic() + 120
        while True:
            found = [e.topic for e in self.seen if getattr(parse(e.event), "container_id", "") == id]
            if until in found or time.monotonic() > give_up:
                return found
            await asyncio.sleep(0.01)

    async def restart(self) -> AdoptionReport:
        """A daemon that is killed and started again: its connections close, its shims stay."""
        await self.tasks.close()
        self._wire()
        return await self.adoption.run()

    def add(self, id: str, *args: str, terminal: bool = False, **fields: Any) -> None:
        """A container record."""
        spec = oci_spec(f"/{self.scope.namespace}-{id}", list(args), terminal=terminal)
        # runc leaves a folder for each namespace it has seen; this way it lies in the test's own.
        options = Options(root=str(self.folder / "runc")).SerializeToString()
        self.containers.add(
            id,
            namespace=self.scope.namespace,
            spec=AnyValue(SPEC_TYPE, json.dumps(spec).encode()),
            runtime_options=AnyValue("containerd.runc.v1.Options", options),
            **fields,
        )

    def mounts(self) -> tuple[Mount, ...]:
        """A writable root file system on busybox."""
        return (Mount("bind", str(self._base), ("rbind", "rw")),)

    async def create(self, id: str, *args: str, stdio: Stdio = NO_STREAMS, **fields: Any) -> int:
        """A container and its task."""
        self.add(id, *args, terminal=stdio.terminal, **fields)
        return await self.tasks.create(self.scope, CreateTask(id, self.mounts(), stdio))

    async def run(self, id: str, *args: str, stdio: Stdio = NO_STREAMS, **fields: Any) -> int:
        pid = await self.create(id, *args, stdio=stdio, **fields)
        await self.tasks.start(self.scope, id)
        return pid

    def bundle(self, id: str) -> Path:
        return self.folder / "state" / self.scope.namespace / id

    def shim_pid(self, id: str) -> int:
        """The shim's process, by its arguments and its folder."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if id.encode() in words and (entry / "cwd").readlink() == self.bundle(id):
                        return int(entry.name)
                except OSError:
                    continue
        raise AssertionError(f"no shim of {id}")

    def nothing_is_left(self, id: str) -> bool:
        """Whether bundle, working folder and mounts of a task are gone."""
        mounts = Path("/proc/self/mountinfo").read_text()
        work = self.folder / "root" / self.scope.namespace / id
        return not self.bundle(id).exists() and not work.exists() and str(self.bundle(id)) not in mounts

    async def clean(self) -> None:
        """Take away whatever a test left, so that its failure is its own."""
        for process in await self.tasks.list(self.scope):
            name = process.container_id
            if process.status is not Status.STOPPED:
                await self.tasks.kill(self.scope, name, 9, all=True)
                await self.tasks.wait(self.scope, name)
            await self.tasks.delete(self.scope, name)
        await self.tasks.close()


def rootfs(folder: Path) -> Path:
    """A root file system with busybox and nothing else."""
    (folder / "bin").mkdir(parents=True)
    for name in ("proc", "dev", "sys", "tmp"):
        (folder / name).mkdir()
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    for name in ("sh", "sleep", "echo", "cat", "true", "stty", "kill"):
        (folder / "bin" / name).symlink_to("busybox")
    return folder


def oci_spec(cgroup: str, args: list[str], *, terminal: bool) -> dict[str, Any]:
    """A small spec for runc."""
    namespaces = [{"type": name} for name in ("pid", "ipc", "uts", "mount")]
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
    ]
    return {
        "ociVersion": "1.0.2",
        "process": oci_process(args, terminal=terminal),
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": mounts,
        "linux": {"namespaces": namespaces, "cgroupsPath": cgroup},
    }


def oci_process(args: list[str], *, terminal: bool = False) -> dict[str, Any]:
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
    }


def exec_spec(*args: str) -> AnyValue:
    return AnyValue(PROCESS_TYPE, json.dumps(oci_process(list(args))).encode())


def can_run_containers() -> str:
    """Why real containers cannot be run here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/bin/busybox").exists():
        return "needs a static /bin/busybox (apt-get install busybox-static)"
    if shutil.which("runc") is None:
        return "needs runc (apt-get install runc)"
    try:
        subprocess.run(["runc", "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"runc does not run: {error}"
    return ""
