"""The daemon as a process: ready, signals, reload, a second one, a crash, and its commands."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.app.inprocess import open_runtime
from containerd_hybrid.client.api import Transport
from containerd_hybrid.client.grpc_transport import GrpcTransport
from containerd_hybrid.errors import FailedPreconditionError, HybridError, InvalidConfigError
from containerd_hybrid.proto.grpc.health.v1 import health_pb2
from containerd_hybrid.proto.services.events.v1 import events_pb2
from containerd_hybrid.proto.services.introspection.v1 import introspection_pb2
from containerd_hybrid.proto.services.namespaces.v1 import namespaces_pb2
from containerd_hybrid.proto.services.version.v1 import version_pb2
from containerd_hybrid.proto.types import event_pb2
from containerd_hybrid.testing.daemon import DaemonError, DaemonProcess
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS

pytestmark = pytest.mark.root

VERSION = "containerd.services.version.v1.Version"
NAMESPACES = "containerd.services.namespaces.v1.Namespaces"
EVENTS = "containerd.services.events.v1.Events"
HEALTH = "grpc.health.v1.Health"
INTROSPECTION = "containerd.services.introspection.v1.Introspection"


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport(daemon.address)
    try:
        yield transport
    finally:
        await transport.close()


async def version_of(transport: Transport) -> str:
    return (
        await transport.unary(VERSION, "Version", Empty(), version_pb2.VersionResponse, metadata={})
    ).version


async def create_namespace(transport: Transport, name: str) -> None:
    request = namespaces_pb2.CreateNamespaceRequest(namespace=namespaces_pb2.Namespace(name=name))
    await transport.unary(NAMESPACES, "Create", request, namespaces_pb2.CreateNamespaceResponse, metadata={})


async def namespaces(transport: Transport) -> list[str]:
    request = namespaces_pb2.ListNamespacesRequest()
    found = await transport.unary(
        NAMESPACES, "List", request, namespaces_pb2.ListNamespacesResponse, metadata={}
    )
    return [namespace.name for namespace in found.namespaces]


# Start and end


async def test_a_daemon_that_is_ready_answers(daemon: DaemonProcess) -> None:
    async with connected(daemon) as transport:
        assert (await version_of(transport)).startswith("v2.")
        check = health_pb2.HealthCheckRequest()
        answer = await transport.unary(HEALTH, "Check", check, health_pb2.HealthCheckResponse, metadata={})
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert "successfully booted" in daemon.log


async def test_introspection_shows_what_runs_and_what_was_skipped(daemon: DaemonProcess) -> None:
    async with connected(daemon) as transport:
        response = await transport.unary(
            INTROSPECTION,
            "Plugins",
            introspection_pb2.PluginsRequest(),
            introspection_pb2.PluginsResponse,
            metadata={},
        )
    plugins = {f"{plugin.type}.{plugin.id}": plugin for plugin in response.plugins}
    failed = {
        name: plugin.init_err.message for name, plugin in plugins.items() if plugin.HasField("init_err")
    }
    skipped, untraced = "no address is configured", "tracing endpoint not configured"
    expected = {f"io.containerd.server.v1.{name}": skipped for name in ("grpc-tcp", "metrics", "debug")} | {
        "io.containerd.tracing.processor.v1.otlp": untraced,
        "io.containerd.internal.v1.tracing": untraced,
    }
    for name, reason in expected.items():
        assert failed[name] == f"{reason}: skip plugin"
    # What else does not run depends on the machine, and says so.
    assert [name for name, message in failed.items() if not message.endswith(": skip plugin")] == []
    overlay = plugins["io.containerd.snapshotter.v1.overlayfs"]
    assert overlay.exports["root"] == f"{daemon.root}/io.containerd.snapshotter.v1.overlayfs"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_takes_the_sockets_away(daemon: DaemonProcess, number: signal.Signals) -> None:
    process = daemon.process
    daemon.send_signal(number)
    assert process.wait(GIVE_UP_SECONDS) == 0
    assert not Path(daemon.address).exists()
    assert not Path(daemon.ttrpc_address).exists()
    assert "containers keep running" in daemon.log


async def test_the_end_does_not_wait_for_who_only_watches(daemon: DaemonProcess) -> None:
    async with connected(daemon) as transport:
        stream = transport.server_stream(
            HEALTH, "Watch", health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse, metadata={}
        )
        await anext(stream)
        code = asyncio.create_task(asyncio.to_thread(daemon.stop))
        with pytest.raises(HybridError, match="the daemon is stopping"):
            await anext(stream)
        assert await code == 0
    assert "not waiting" not in daemon.log


async def test_what_was_acknowledged_survives_a_crash(daemon: DaemonProcess, token: str) -> None:
    async with connected(daemon) as transport:
        await create_namespace(transport, token)
    await asyncio.to_thread(daemon.restart, crash=True)
    async with connected(daemon) as transport:
        assert await namespaces(transport) == [token]


def test_sigterm_while_it_starts(short_folder: Path) -> None:
    daemon = DaemonProcess(short_folder)
    process = subprocess.Popen(
        daemon.command(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stderr is not None
    for line in process.stderr:
        if b"loading plugin" in line:
            process.terminate()
            break
    process.stderr.read()
    assert process.wait(GIVE_UP_SECONDS) == 0


# A second daemon, and what keeps one from starting


def refused(daemon: DaemonProcess) -> str:
    with pytest.raises(DaemonError) as caught:
        daemon.start()
    assert "the daemon ended with 1:" in str(caught.value)
    return str(caught.value)


async def test_a_second_daemon_on_the_same_root_is_refused(daemon: DaemonProcess, short_folder: Path) -> None:
    (short_folder / "second").mkdir()
    second = DaemonProcess(short_folder / "second", arguments=["--root", str(daemon.root)])
    said = await asyncio.to_thread(refused, second)
    assert f"{daemon.root} is in use by the daemon with process id {daemon.pid}" in said
    async with connected(daemon) as transport:
        assert await version_of(transport)


async def test_a_second_daemon_on_the_same_socket_is_refused(
    daemon: DaemonProcess, short_folder: Path
) -> None:
    (short_folder / "second").mkdir()
    second = DaemonProcess(short_folder / "second", arguments=["--address", daemon.address])
    said = await asyncio.to_thread(refused, second)
    assert f"{daemon.address}.ttrpc is in use by another daemon" in said
    async with connected(daemon) as transport:
        assert await version_of(transport)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("version = 1\n", "configuration version 1 is no longer supported"),
        ('version = 4\n[debug]\nlevel = "loud"\n', 'not a valid log level: "loud"'),
        ('version = 4\n[debug]\nformat = "xml"\n', "unknown log format: xml"),
        (
            'version = 4\nrequired_plugins = ["io.containerd.snapshotter.v1.zfs"]\n',
            "required plugin io.containerd.snapshotter.v1.zfs not included",
        ),
        (
            'version = 4\ndisabled_plugins = ["io.containerd.metadata.v1.bolt"]\n',
            "io.containerd.metadata.v1.bolt not included: disabled by disabled_plugins",
        ),
    ],
)
def test_what_keeps_a_daemon_from_starting(short_folder: Path, config: str, said: str) -> None:
    arguments = ["--log-level", ""] if "level" in config else []
    assert said in refused(DaemonProcess(short_folder, config=config, arguments=arguments))


def test_no_open_port_without_certificates(short_folder: Path) -> None:
    config = 'version = 4\n[plugins."io.containerd.server.v1.grpc-tcp"]\naddress = "127.0.0.1:0"\n'
    daemon = DaemonProcess(short_folder, config=config).start()
    daemon.stop()
    assert "needs tls_cert, tls_key and tls_ca" in daemon.log


def test_a_damaged_database_keeps_a_daemon_from_starting(daemon: DaemonProcess) -> None:
    daemon.stop()
    database = daemon.root / "io.containerd.metadata.v1.sqlite" / "meta.db"
    database.write_bytes(b"\x00garbage" * 1000)
    said = refused(daemon)
    assert "load required plugin io.containerd.metadata.v1.bolt" in said
    assert str(database) in said


# Signals of a running daemon


async def test_sighup_takes_over_what_it_can_and_names_the_rest(short_folder: Path) -> None:
    daemon = DaemonProcess(short_folder, arguments=["--log-level", "info"])
    await asyncio.to_thread(daemon.start)
    try:
        async with connected(daemon) as transport:
            await version_of(transport)
            assert "method=/containerd.services.version" not in daemon.log
        daemon.write_config(
            "version = 4\noom_score = 5\nunknown_key = 1\n"
            '[plugins."io.containerd.gc.v1.scheduler"]\nmutation_threshold = 7\n'
        )
        daemon.send_signal(signal.SIGHUP)
        await asyncio.to_thread(daemon.wait_for_log, "configuration reloaded")
        assert "a restart is needed for: oom_score, io.containerd.gc.v1.scheduler" in daemon.log
        assert "Ignoring unknown key in TOML" in daemon.log
        daemon.write_config("version = [")
        daemon.send_signal(signal.SIGHUP)
        await asyncio.to_thread(daemon.wait_for_log, "configuration not reloaded")
        async with connected(daemon) as transport:
            assert await version_of(transport)
    finally:
        await asyncio.to_thread(daemon.stop)


async def test_sighup_changes_the_log_level(short_folder: Path) -> None:
    daemon = DaemonProcess(short_folder, arguments=["--log-level", ""])
    await asyncio.to_thread(daemon.start)
    try:
        async with connected(daemon) as transport:
            await version_of(transport)
            assert "Version/Version" not in daemon.log
            daemon.write_config('version = 4\n[debug]\nlevel = "debug"\nformat = "json"\n')
            daemon.send_signal(signal.SIGHUP)
            await asyncio.to_thread(daemon.wait_for_log, '"configuration reloaded"')
            await version_of(transport)
            await asyncio.to_thread(
                daemon.wait_for_log, '"method": "/containerd.services.version.v1.Version/Version"'
            )
    finally:
        await asyncio.to_thread(daemon.stop)


def test_sigusr1_dumps_stacks_and_the_daemon_goes_on(daemon: DaemonProcess) -> None:
    daemon.send_signal(signal.SIGUSR1)
    daemon.wait_for_log("stack dump written to")
    (path,) = re.findall(r"stack dump written to ([^\"\s]+)", daemon.log)
    text = Path(path).read_text()
    Path(path).unlink()
    assert "[MainThread]" in text
    assert "gc-scheduler" in text
    assert daemon.process.poll() is None


def test_nothing_is_inherited(short_folder: Path) -> None:
    """A daemon started with an open pipe and an ignored SIGHUP keeps neither."""
    daemon = DaemonProcess(short_folder)
    read, write = os.pipe()
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh", *daemon.command()],
        pass_fds=[write],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert process.stderr is not None
    for line in process.stderr:
        if b"successfully booted" in line:
            break
    # The end of the pipe is only seen when nobody holds its other side any more.
    os.set_blocking(read, False)
    assert os.read(read, 1) == b""
    os.close(read)
    process.send_signal(signal.SIGHUP)
    for line in process.stderr:
        if b"configuration reloaded" in line:
            break
    process.terminate()
    process.stderr.read()
    assert process.wait(GIVE_UP_SECONDS) == 0


# publish


async def test_publish_hands_an_event_to_the_daemon(daemon: DaemonProcess, token: str) -> None:
    event = AnyMessage(type_url="containerd.events.ContainerDelete", value=b"\x0a\x02c1")
    async with connected(daemon) as transport:
        request = events_pb2.SubscribeRequest(filters=[f'topic=="/{token}/test"'])
        stream = transport.server_stream(EVENTS, "Subscribe", request, event_pb2.Envelope, metadata={})
        received = asyncio.ensure_future(anext(stream))
        while not received.done():
            result = await asyncio.to_thread(
                publish, daemon, token, f"/{token}/test", event.SerializeToString()
            )
            assert result.returncode == 0, result.stderr
            await asyncio.wait({received}, timeout=0.2)
        envelope = received.result()
    assert (envelope.namespace, envelope.topic, envelope.event) == (token, f"/{token}/test", event)


def publish(
    daemon: DaemonProcess, namespace: str, topic: str, payload: bytes
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "containerd_hybrid.app.main", "--address", daemon.address, "publish"]
    return subprocess.run(
        [*command, "--namespace", namespace, "--topic", topic],
        input=payload,
        capture_output=True,
        check=False,
    )


def test_publish_says_what_is_wrong(daemon: DaemonProcess) -> None:
    assert b"cannot be decoded" in publish(daemon, "x", "/t", b"\xff\xff").stderr
    refused = publish(daemon, "", "/t", b"")
    assert (refused.returncode, b"namespace is required" in refused.stderr) == (1, True)
    daemon.stop()
    assert b"no daemon answers" in publish(daemon, "x", "/t", b"").stderr


# In process


async def test_the_same_in_process_and_then_as_a_daemon(short_folder: Path, token: str) -> None:
    daemon = DaemonProcess(short_folder)
    runtime = await open_runtime(daemon.root, daemon.state)
    try:
        await create_namespace(runtime, token)
        assert await namespaces(runtime) == [token]
        with pytest.raises(FailedPreconditionError, match=f"process id {os.getpid()}"):
            await open_runtime(daemon.root, short_folder / "other")
        said = await asyncio.to_thread(refused, daemon)
        assert "is in use by the daemon with process id" in said
    finally:
        await runtime.close()
    await asyncio.to_thread(daemon.start)
    async with connected(daemon) as transport:
        assert await namespaces(transport) == [token]
    await asyncio.to_thread(daemon.stop)


async def test_configuration_of_a_runtime(short_folder: Path) -> None:
    with pytest.raises(InvalidConfigError, match=r"no such plugin: io\.containerd\.none"):
        await open_runtime(short_folder / "r", short_folder / "s", {"io.containerd.none.v1.none": {}})
    table = {"io.containerd.gc.v1.scheduler": {"mutation_threshold": "x"}}
    with pytest.raises(InvalidConfigError, match="mutation_threshold: expected an integer"):
        await open_runtime(short_folder / "r", short_folder / "s", table)
    runtime = await open_runtime(short_folder / "r", short_folder / "s")
    await runtime.close()
