"""One cross-cutting concern a file, and :func:`wrap_services`, which puts them around handlers.

The order of the standard chain, from the outside: tracing, logging and metrics see the status that the caller
sees; errors gives every failure a status; deadline, namespace and lease complete the call's context; and
what the handler published is recorded before it is answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from containerd_hybrid.events.api import EventLog
from containerd_hybrid.rpc.api import Interceptor, Service
from containerd_hybrid.rpc.interceptors.deadline import DeadlineInterceptor
from containerd_hybrid.rpc.interceptors.errors import ErrorInterceptor
from containerd_hybrid.rpc.interceptors.lease import LeaseInterceptor
from containerd_hybrid.rpc.interceptors.logging import LoggingInterceptor
from containerd_hybrid.rpc.interceptors.metrics import CallMetrics, MetricsInterceptor
from containerd_hybrid.rpc.interceptors.namespace import NamespaceInterceptor
from containerd_hybrid.rpc.interceptors.recorded import RecordedInterceptor
from containerd_hybrid.rpc.interceptors.tracing import TracingInterceptor
from containerd_hybrid.tracing.api import Tracer

__all__ = ["CallMetrics", "standard_interceptors", "wrap_services"]


def standard_interceptors(
    metrics: CallMetrics,
    log: EventLog | None = None,
    tracer: Tracer | None = None,
    system: str = "grpc",
) -> tuple[Interceptor, ...]:
    """The chain around every handler of the daemon, outermost first.

    With ``log`` events are recorded, with ``tracer`` calls are traced, as those of ``system``.
    """
    return (
        *((TracingInterceptor(tracer, system),) if tracer is not None else ()),
        LoggingInterceptor(),
        MetricsInterceptor(metrics),
        ErrorInterceptor(),
        DeadlineInterceptor(),
        NamespaceInterceptor(),
        LeaseInterceptor(),
        *((RecordedInterceptor(log),) if log is not None else ()),
    )


def wrap_services(services: Iterable[Service], interceptors: Sequence[Interceptor]) -> tuple[Service, ...]:
    """The same services with every handler inside the interceptors, the first of which is outermost."""
    return tuple(_wrap(service, interceptors) for service in services)


def _wrap(service: Service, interceptors: Sequence[Interceptor]) -> Service:
    methods = {}
    for name, method in service.methods.items():
        for interceptor in reversed(interceptors):
            method = interceptor.wrap(service.name, method)
        methods[name] = method
    return Service(service.name, methods)
