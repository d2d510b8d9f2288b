"""Batches that never wait, and what a collector gets over HTTP and over gRPC."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from containerd_hybrid.errors import InvalidConfigError, UnavailableError, UnknownError
from containerd_hybrid.proto.otlp import trace_pb2 as pb
from containerd_hybrid.tracing.api import Kind, Span, SpanSink
from containerd_hybrid.tracing.batch import SpanBatches
from containerd_hybrid.tracing.otlp import HttpExport, encode
from containerd_hybrid.tracing.otlp_grpc import GrpcExport
from containerd_hybrid.tracing.settings import ExportSettings


class Nowhere:
    def record(self, span: Span) -> None:
        raise AssertionError


def ended(name: str, sink: SpanSink | None = None) -> Span:
    span = Span(
        sink or Nowhere(), name, Kind.SERVER, bytes(range(16)), b"parent-i", "s=1", {"a": "b", "n": 7}
    )
    span.started, span.ended = 10, 20
    return span


class Collector:
    """Takes spans over HTTP. ``answers`` are the statuses that it gives first, before it says 200."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.body = b""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, data))
                status = outer.answers.pop(0) if outer.answers else 200
                self.send_response(status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    @property
    def messages(self) -> list[pb.ExportTraceServiceRequest]:
        return [pb.ExportTraceServiceRequest.FromString(data) for _, _, data in self.requests]


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def test_the_message_is_otlp() -> None:
    failed = ended("failed")
    failed.error = "no such thing"
    message = pb.ExportTraceServiceRequest.FromString(
        encode([ended("x"), failed], {"service.name": "c"}, "1.2")
    )
    (resource,) = message.resource_spans
    assert {one.key: one.value.string_value for one in resource.resource.attributes} == {"service.name": "c"}
    (scope,) = resource.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("containerd_hybrid", "1.2")
    first, second = scope.spans
    assert (first.name, first.trace_id, first.parent_span_id, first.trace_state) == (
        *("x", bytes(range(16)), b"parent-i", "s=1"),
    )
    assert (first.kind, first.start_time_unix_nano, first.end_time_unix_nano) == (pb.Span.SERVER, 10, 20)
    assert [(one.key, one.value.WhichOneof("value")) for one in first.attributes] == [
        ("a", "string_value"),
        ("n", "int_value"),
    ]
    assert first.status.code == pb.Status.UNSET
    assert (second.status.code, second.status.message) == (pb.Status.ERROR, "no such thing")


def test_http_with_headers_and_compression(collector: Collector) -> None:
    export = HttpExport(ExportSettings(collector.url, headers={"x-key": "secret"}, compression="gzip"))
    export(b"one")
    export(b"two")
    path, headers, data = collector.requests[0]
    assert (path, headers["content-type"], headers["x-key"]) == (
        "/v1/traces",
        "application/x-protobuf",
        "secret",
    )
    assert [gzip.decompress(body) for _, _, body in collector.requests] == [b"one", b"two"]
    assert headers["content-encoding"] == "gzip"
    assert data
    with pytest.raises(InvalidConfigError, match="compression"):
        HttpExport(ExportSettings(collector.url, compression="lzma"))


def test_a_collector_that_is_busy_is_asked_again_and_one_that_refuses_is_not(collector: Collector) -> None:
    pauses: list[float] = []
    export = HttpExport(ExportSettings(collector.url), pause=pauses.append)
    collector.answers = [503, 429]
    export(b"x")
    assert (len(collector.requests), pauses) == (3, [0.5, 1.0])
    collector.answers = [400]
    with pytest.raises(UnknownError, match="answered 400"):
        export(b"x")
    collector.answers = [503] * 4
    with pytest.raises(UnavailableError, match="takes nothing now"):
        export(b"x")


def test_a_collector_that_is_away_and_back_again(collector: Collector) -> None:
    with pytest.raises(UnavailableError):
        HttpExport(ExportSettings("http://127.0.0.1:1/v1/traces"))(b"x")
    export = HttpExport(ExportSettings(collector.url))
    export(b"x")
    assert export._connection is not None
    assert export._connection.sock is not None
    export._connection.sock.shutdown(2)  # as a server does that is tired of a kept connection
    export(b"y")
    assert [data for _, _, data in collector.requests] == [b"x", b"y"]


def test_what_a_collector_rejected_is_logged(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    partial = pb.PartialSuccess(rejected_spans=3, error_message="too old")
    collector.body = pb.ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    HttpExport(ExportSettings(collector.url))(b"x")
    said = [vars(one) for one in caplog.records if one.name.startswith("containerd_hybrid")]
    assert [(one["spans"], one["error"]) for one in said] == [(3, "too old")]


@contextmanager
def grpc_collector(taken: list[tuple[bytes, dict[str, str]]]) -> Iterator[str]:
    def export(request: bytes, context: grpc.ServicerContext) -> bytes:
        taken.append((request, dict(context.invocation_metadata())))
        return b""

    method = grpc.unary_unary_rpc_method_handler(export)
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {"Export": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_grpc() -> None:
    taken: list[tuple[bytes, dict[str, str]]] = []
    with grpc_collector(taken) as endpoint:
        export = GrpcExport(ExportSettings(endpoint, "grpc", headers={"X-Key": "secret"}, compression="gzip"))
        export(b"message")
        export.close()
    ((message, metadata),) = taken
    assert (message, metadata["x-key"]) == (b"message", "secret")
    export = GrpcExport(ExportSettings("http://127.0.0.1:1", "grpc", timeout=5))
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1: UNAVAILABLE"):
        export(b"x")
    export.close()


async def test_batches_are_sent_by_size_and_at_the_end() -> None:
    sent: list[list[str]] = []
    full = threading.Event()

    def send(spans: Sequence[Span]) -> None:
        sent.append([span.name for span in spans])
        full.set()

    batches = SpanBatches(send, queue=100, batch=3, delay=1000)
    batches.start()
    for name in "abc":
        batches.record(ended(name, batches))
    assert full.wait(60)
    for name in "de":
        batches.record(ended(name, batches))
    await batches.close()
    assert [name for batch in sent for name in batch] == list("abcde")
    assert len(sent) >= 2


async def test_a_collector_that_does_not_answer_costs_spans_and_no_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on, asked = threading.Event(), threading.Event()
    sent: list[str] = []

    def send(spans: Sequence[Span]) -> None:
        asked.set()
        go_on.wait()
        sent.extend(span.name for span in spans)

    batches = SpanBatches(send, queue=10, batch=2, delay=0.01)
    batches.start()
    batches.record(ended("first", batches))
    assert asked.wait(60)
    for number in range(1000):
        batches.record(ended(str(number), batches))
    go_on.set()
    await batches.close()
    assert sent == ["first", *map(str, range(10))]
    assert [vars(one)["spans"] for one in caplog.records if "dropped" in one.message] == [990]


async def test_one_that_is_away_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0
    many = threading.Event()

    def send(spans: Sequence[Span]) -> None:
        nonlocal tries
        tries += 1
        if tries == 5:
            many.set()
        raise UnavailableError("away")

    batches = SpanBatches(send, queue=10, batch=1, delay=0.01)
    batches.start()
    for number in range(5):
        batches.record(ended(str(number), batches))
    assert many.wait(60)
    await batches.close()
    assert len([one for one in caplog.records if "cannot be sent" in one.message]) == 1
