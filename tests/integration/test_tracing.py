"""Traces of a daemon, at a collector: calls below their callers, and what they do below the calls."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import clean
from tests.unit.tracing.test_export import Collector

import containerd_hybrid
from containerd_hybrid.client.grpc_transport import GrpcTransport
from containerd_hybrid.proto.otlp import trace_pb2 as pb
from containerd_hybrid.proto.services.namespaces.v1 import namespaces_pb2
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import LeakCheck

pytestmark = pytest.mark.root

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


@pytest.fixture
def traced(collector: Collector, short_folder: Path, leak_check: LeakCheck) -> Iterator[DaemonProcess]:
    base = collector.url.removesuffix("/v1/traces")
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": base, "OTEL_SERVICE_NAME": "traced-by-a-test"}
    with DaemonProcess(short_folder, environment=environment).serving(leak_check) as daemon:
        yield daemon


def spans(collector: Collector) -> list[pb.Span]:
    return [
        span
        for message in collector.messages
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


async def test_a_call_below_its_caller(traced: DaemonProcess, collector: Collector, token: str) -> None:
    transport = GrpcTransport(traced.address)
    request = namespaces_pb2.CreateNamespaceRequest(namespace=namespaces_pb2.Namespace(name=token))
    service = namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"].full_name
    await transport.unary(
        service,
        "Create",
        request,
        namespaces_pb2.CreateNamespaceResponse,
        metadata={"traceparent": f"00-{TRACE}-{PARENT}-01"},
    )
    await transport.close()
    traced.stop()
    (call,) = [span for span in spans(collector) if span.name == f"{service}/Create"]
    assert (call.trace_id.hex(), call.parent_span_id.hex(), call.kind) == (TRACE, PARENT, pb.Span.SERVER)
    (name,) = {
        one.value.string_value
        for message in collector.messages
        for resource in message.resource_spans
        for one in resource.resource.attributes
        if one.key == "service.name"
    }
    assert name == "traced-by-a-test"


def test_shims_and_layers_are_below_the_calls(
    traced: DaemonProcess, collector: Collector, token: str, busybox_tar: Path
) -> None:
    if shutil.which("ctr") is None:
        pytest.skip("ctr is not installed (apt-get install containerd)")
    ctr = Ctr(traced.address, token)
    ctr("image", "import", str(busybox_tar))
    image = ctr("image", "ls", "-q").split()[0]
    try:
        ctr("run", "--rm", image, "c", "true")
    finally:
        clean(ctr)
    traced.stop()
    found = spans(collector)
    by_id = {span.span_id: span for span in found}

    def above(name: str) -> set[str]:
        return {
            by_id[span.parent_span_id].name
            for span in found
            if span.name == name and span.parent_span_id in by_id
        }

    create = next(name for name in {span.name for span in found} if name.endswith(".Task/Create"))
    assert above(create) == {"containerd.services.tasks.v1.Tasks/Create"}
    assert {span.kind for span in found if span.name == create} == {pb.Span.CLIENT}
    assert "containerd.services.events.ttrpc.v1.Events/Forward" in {span.name for span in found}


async def test_without_a_daemon_and_by_configuration(collector: Collector, short_folder: Path) -> None:
    config = {
        "io.containerd.tracing.processor.v1.otlp": {"endpoint": collector.url.removesuffix("/v1/traces")}
    }
    async with await containerd_hybrid.open_async(
        short_folder / "root", short_folder / "state", config=config
    ) as client:
        await client.version()
    assert [span.name for span in spans(collector)] == ["containerd.services.version.v1.Version/Version"]


def test_off_until_configured_and_nothing_is_imported_for_it(short_folder: Path) -> None:
    script = (
        "import asyncio, sys, containerd_hybrid\n"
        "async def main():\n"
        f"    async with await containerd_hybrid.open_async({str(short_folder / 'r')!r}, "
        f"{str(short_folder / 's')!r}) as client:\n"
        "        await client.version()\n"
        "asyncio.run(main())\n"
        "names = {name.rpartition('.')[2] for name in sys.modules if '.tracing.' in name}\n"
        "assert not names & {'otlp', 'otlp_grpc', 'batch', 'tracer'}, names\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
