"""A span around each call, below the caller's if it named one (W3C Trace Context in the headers)."""

from __future__ import annotations

from types import TracebackType

from containerd_hybrid.errors import CODES
from containerd_hybrid.rpc.api import NAMESPACE_HEADER, TTRPC_NAMESPACE_HEADER, CallContext, Method
from containerd_hybrid.rpc.interceptors.around import around
from containerd_hybrid.rpc.interceptors.logging import code_of
from containerd_hybrid.tracing.api import Kind, Span, TraceContext, Tracer, inside

# gRPC's numbers of its codes, as OpenTelemetry's conventions want them.
_CODES = {name: number for number, name in enumerate(CODES)}


class TracingInterceptor:
    """Records calls by ``tracer``, and makes their spans the current ones of their handlers."""

    def __init__(self, tracer: Tracer, system: str = "grpc") -> None:
        self._tracer = tracer
        self._system = system

    def wrap(self, service: str, method: Method) -> Method:
        name = f"{service}/{method.name}"
        attributes = {"rpc.system": self._system, "rpc.service": service, "rpc.method": method.name}

        def traced(call: CallContext) -> _TracedCall:
            span = self._tracer.begin(name, Kind.SERVER, TraceContext.parse(call.metadata))
            if span is not None:
                span.attributes.update(attributes)
                namespace = call.metadata.get(NAMESPACE_HEADER) or call.metadata.get(TTRPC_NAMESPACE_HEADER)
                if namespace:
                    span.attributes["containerd.namespace"] = namespace
            return _TracedCall(span)

        return around(method, traced)


class _TracedCall:
    __slots__ = ("_inside", "_span")

    def __init__(self, span: Span | None) -> None:
        self._span = span
        self._inside = inside(span)

    def __enter__(self) -> None:
        self._inside.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.attributes["rpc.grpc.status_code"] = _CODES.get(code_of(error), _CODES["UNKNOWN"])
        self._inside.__exit__(kind, error, trace)
