"""Spans, whose they are, which are recorded, and where they are told of."""

from __future__ import annotations

import asyncio
import logging

import pytest

from containerd_hybrid.app import logs
from containerd_hybrid.errors import InvalidConfigError, NotFoundError, UnimplementedError
from containerd_hybrid.proto.services.version.v1.version_pb2 import VersionResponse
from containerd_hybrid.rpc.api import CallContext, Kind, Method
from containerd_hybrid.rpc.interceptors.tracing import TracingInterceptor
from containerd_hybrid.tracing.api import Kind as SpanKind
from containerd_hybrid.tracing.api import Span, TraceContext, current, headers, inside, span
from containerd_hybrid.tracing.settings import export_settings, is_disabled, resource_attributes, sampler_of
from containerd_hybrid.tracing.tracer import SamplingTracer

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Sink:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def record(self, span: Span) -> None:
        self.spans.append(span)


def traceparent(flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", "tracestate": "vendor=1"}


async def called(
    sink: Sink, metadata: dict[str, str], fails: bool = False, sampler: str = "always_on"
) -> str:
    """A call through the interceptor whose handler has a span of its own; the headers it would send on."""

    async def handler(request: object, call: CallContext) -> VersionResponse:
        with span("inner", SpanKind.CLIENT, layer__digest="sha256:0"):
            sent = headers().get("traceparent", "")
        if fails:
            raise NotFoundError("no such thing: not found")
        return VersionResponse(version=sent)

    method = Method("Version", VersionResponse, VersionResponse, Kind.UNARY, handler)
    wrapped = TracingInterceptor(SamplingTracer(sink, sampler)).wrap("a.b.Version", method)
    answer = await wrapped.handler(VersionResponse(), CallContext("/a.b.Version/Version", metadata))  # type: ignore[arg-type,misc]
    return answer.version


async def test_a_call_below_the_callers_span_and_work_below_the_call() -> None:
    sink = Sink()
    sent = await called(sink, {**traceparent(), "containerd-namespace": "n"})
    inner, call = sink.spans
    assert (call.name, call.kind, call.trace_id.hex(), call.parent_id.hex()) == (
        *("a.b.Version/Version", SpanKind.SERVER, TRACE, PARENT),
    )
    assert call.state == inner.state == "vendor=1"
    assert call.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "a.b.Version",
        "rpc.method": "Version",
        "containerd.namespace": "n",
        "rpc.grpc.status_code": 0,
    }
    assert (inner.name, inner.kind, inner.parent_id) == ("inner", SpanKind.CLIENT, call.span_id)
    assert inner.attributes == {"layer.digest": "sha256:0"}
    assert sent == f"00-{TRACE}-{inner.span_id.hex()}-01"
    assert 0 < call.started <= inner.started <= inner.ended <= call.ended
    assert current() is None


async def test_a_failure_is_told_of() -> None:
    sink = Sink()
    with pytest.raises(NotFoundError):
        await called(sink, {}, fails=True)
    call = sink.spans[-1]
    assert (call.error, call.attributes["rpc.grpc.status_code"]) == ("no such thing: not found", 5)
    assert call.parent_id == b""
    assert sink.spans[0].error is None


@pytest.mark.parametrize(
    ("sampler", "flags", "recorded"),
    [
        ("always_on", "00", True),
        ("always_off", "01", False),
        ("parentbased_always_on", "00", False),
        ("parentbased_always_off", "01", True),
        ("parentbased_always_on", None, True),
        ("parentbased_always_off", None, False),
    ],
)
async def test_who_decides(sampler: str, flags: str | None, recorded: bool) -> None:
    sink = Sink()
    sent = await called(sink, traceparent(flags) if flags else {}, sampler=sampler)
    assert bool(sink.spans) is recorded
    assert bool(sent) is recorded


def test_a_ratio_of_all_traces() -> None:
    tracer = SamplingTracer(Sink(), "traceidratio", 0.25)
    taken = [tracer.begin("x", SpanKind.SERVER) is not None for _ in range(4000)]
    assert 700 < sum(taken) < 1300
    low, high = (TraceContext(bytes(8) + half, b"12345678", True) for half in (bytes(8), b"\xff" * 8))
    assert tracer.begin("x", SpanKind.SERVER, low) is not None
    assert tracer.begin("x", SpanKind.SERVER, high) is None
    for sampler, ratio in (("sometimes", 1.0), ("traceidratio", 1.5)):
        with pytest.raises(InvalidConfigError):
            SamplingTracer(Sink(), sampler, ratio)


@pytest.mark.parametrize(
    "header",
    [
        *("", "00", f"00-{TRACE}-{PARENT}", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01"),
        *(f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-more"),
    ],
)
def test_headers_that_are_none(header: str) -> None:
    assert TraceContext.parse({"traceparent": header}) is None


def test_a_version_of_the_future_is_read() -> None:
    found = TraceContext.parse({"traceparent": f"01-{TRACE}-{PARENT}-00-more"})
    assert found == TraceContext(bytes.fromhex(TRACE), bytes.fromhex(PARENT), False)


async def test_the_log_names_the_trace() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.configure("info", "json", trace_ids=True)
        record = logging.makeLogRecord({"msg": "x", "levelno": logging.INFO})
        begun = SamplingTracer(Sink()).begin("x", SpanKind.SERVER)
        assert begun is not None
        with inside(begun):
            assert root.handlers[0].filter(record)
        assert f'"trace_id": "{begun.trace_id.hex()}"' in root.handlers[0].format(record)
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])


async def test_tasks_that_are_begun_inside_belong_to_the_call() -> None:
    sink = Sink()
    begun = SamplingTracer(sink).begin("call", SpanKind.SERVER)

    async def work() -> None:
        with span("in a task"):
            await asyncio.to_thread(lambda: span("in a thread").__enter__().end())  # type: ignore[union-attr]

    with inside(begun):
        await asyncio.gather(work(), work())
    names = [one.name for one in sink.spans]
    assert sorted(names) == ["call", "in a task", "in a task", "in a thread", "in a thread"]


def test_where_traces_go() -> None:
    assert export_settings(environment={}) is None
    assert export_settings("http://x", environment={"OTEL_TRACES_EXPORTER": "none"}) is None
    base = export_settings(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"})
    assert base is not None
    assert (base.endpoint, base.protocol, base.is_plain) == (
        *("http://collector:4318/v1/traces", "http/protobuf", True),
    )
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://not:1",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/own/path",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc, x = y",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_BSP_MAX_QUEUE_SIZE": "10",
    }
    found = export_settings("http://file:1", environment=environment)
    assert found is not None
    assert (found.endpoint, found.timeout, found.compression, found.queue) == (
        *("https://collector/own/path", 2.5, "gzip", 10),
    )
    assert found.headers == {"authorization": "Bearer abc", "x": "y"}
    assert "abc" not in repr(found)
    grpc = export_settings("collector:4317", "grpc", insecure=True, environment={})
    assert grpc is not None
    assert (grpc.endpoint, grpc.is_plain) == ("http://collector:4317", True)


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, UnimplementedError),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, UnimplementedError),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://x"}, InvalidConfigError),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "no-equals"}, InvalidConfigError),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, InvalidConfigError),
        ({"OTEL_EXPORTER_OTLP_INSECURE": "perhaps"}, InvalidConfigError),
    ],
)
def test_what_cannot_be_meant(environment: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        export_settings("http://x:1", environment=environment)


def test_names_and_samplers_of_the_environment() -> None:
    assert resource_attributes(environment={}) == {"service.name": "containerd"}
    given = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,zone=b", "OTEL_SERVICE_NAME": "c"}
    assert resource_attributes("file", given) == {"service.name": "c", "zone": "b"}
    assert sampler_of(0.5, {}) == ("parentbased_traceidratio", 0.5)
    assert sampler_of(0.5, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}) == (
        *("traceidratio", 0.1),
    )
    assert is_disabled({"OTEL_SDK_DISABLED": "true"})
    with pytest.raises(InvalidConfigError):
        is_disabled({"OTEL_SDK_DISABLED": "maybe"})
