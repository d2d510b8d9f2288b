"""OpenTelemetry tracing: off, and nothing of it imported, until an endpoint is configured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_hybrid.app.api import InitContext, Plugin, PluginType, SkipPlugin

if TYPE_CHECKING:
    from containerd_hybrid.tracing.api import Span, SpanSink, Tracer
    from containerd_hybrid.tracing.settings import ExportSettings


@dataclass(frozen=True, slots=True)
class OtlpConfig:
    """``[plugins."io.containerd.tracing.processor.v1.otlp"]``; OTEL_EXPORTER_OTLP_* wins over it."""

    endpoint: str = ""
    protocol: str = ""
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """``[plugins."io.containerd.internal.v1.tracing"]``; OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER win."""

    service_name: str = ""
    sampling_ratio: float = 0.0


def _otlp(context: InitContext) -> SpanSink:
    from containerd_hybrid.tracing.settings import export_settings, is_disabled

    config: OtlpConfig = context.config
    if is_disabled():
        raise SkipPlugin("tracing disabled by env OTEL_SDK_DISABLED")
    settings = export_settings(config.endpoint, config.protocol, config.insecure)
    if settings is None:
        raise SkipPlugin("tracing endpoint not configured")
    service = context.catalog.explainer.setting("plugins", f"{PluginType.INTERNAL}.tracing", "service_name")
    return _started(context, settings, str(service or ""))


def _started(context: InitContext, settings: ExportSettings, service: str) -> SpanSink:
    from containerd_hybrid import __version__
    from containerd_hybrid.tracing.batch import SpanBatches
    from containerd_hybrid.tracing.otlp import encode
    from containerd_hybrid.tracing.settings import resource_attributes

    export, close = _export(settings)
    resource = resource_attributes(service)

    def send(spans: Sequence[Span]) -> None:
        export(encode(spans, resource, __version__))

    batches = SpanBatches(send, queue=settings.queue, batch=settings.batch, delay=settings.delay)
    batches.start()
    # In the other order: what is there is sent before the connection ends.
    context.on_close(close)
    context.on_close(batches.close)
    context.exports["endpoint"] = settings.endpoint
    return batches


def _export(settings: ExportSettings) -> tuple[Callable[[bytes], None], Callable[[], None]]:
    from containerd_hybrid.tracing.settings import GRPC

    if settings.protocol == GRPC:
        from containerd_hybrid.tracing.otlp_grpc import GrpcExport

        over_grpc = GrpcExport(settings)
        return over_grpc, over_grpc.close
    from containerd_hybrid.tracing.otlp import HttpExport

    over_http = HttpExport(settings)
    return over_http, over_http.close


def _tracing(context: InitContext) -> Tracer:
    from containerd_hybrid.tracing.api import SpanSink

    sinks = context.all(PluginType.TRACING_PROCESSOR, SpanSink)
    if not sinks:
        raise SkipPlugin("tracing endpoint not configured")
    from containerd_hybrid.tracing.settings import sampler_of
    from containerd_hybrid.tracing.tracer import SamplingTracer

    config: TracingConfig = context.config
    return SamplingTracer(next(iter(sinks.values())), *sampler_of(config.sampling_ratio))


PLUGINS = (
    Plugin(PluginType.TRACING_PROCESSOR, "otlp", _otlp, config=OtlpConfig),
    Plugin(PluginType.INTERNAL, "tracing", _tracing, (PluginType.TRACING_PROCESSOR,), config=TracingConfig),
)
