"""Which calls are traced: OpenTelemetry's samplers, by their names in OTEL_TRACES_SAMPLER."""

from __future__ import annotations

import os

from containerd_hybrid.errors import InvalidConfigError
from containerd_hybrid.tracing.api import Kind, Span, SpanSink, TraceContext

_PARENT_BASED = "parentbased_"
SAMPLERS = ("always_on", "always_off", "traceidratio")
DEFAULT_SAMPLER = f"{_PARENT_BASED}always_on"


class SamplingTracer:
    """Implements :class:`containerd_hybrid.tracing.api.Tracer`.

    ``sampler`` is ``always_on``, ``always_off`` or ``traceidratio`` (of which ``ratio`` is the share),
    with ``parentbased_`` before it when the caller decides if it traces itself.
    """

    def __init__(self, sink: SpanSink, sampler: str = DEFAULT_SAMPLER, ratio: float = 1.0) -> None:
        """
        Raises:
            InvalidConfigError: there is no such sampler, or the ratio is none.
        """
        name = sampler.removeprefix(_PARENT_BASED)
        if name not in SAMPLERS:
            known = ", ".join((*SAMPLERS, *(_PARENT_BASED + one for one in SAMPLERS)))
            raise InvalidConfigError(f"unknown trace sampler {sampler!r}: use one of {known}")
        if not 0 <= ratio <= 1:
            raise InvalidConfigError(f"trace sampling ratio {ratio}: expected a number from 0 to 1")
        self._sink = sink
        self._by_parent = sampler.startswith(_PARENT_BASED)
        share = {"always_on": 1.0, "always_off": 0.0}.get(name, ratio)
        # Collectors of many services agree when all compare the same bits of the id.
        self._below = int(share * (1 << 63))

    def begin(self, name: str, kind: Kind, parent: TraceContext | None = None) -> Span | None:
        """See :meth:`containerd_hybrid.tracing.api.Tracer.begin`."""
        trace_id = parent.trace_id if parent is not None else os.urandom(16)
        if parent is not None and self._by_parent:
            wanted = parent.sampled
        else:
            wanted = int.from_bytes(trace_id[8:]) >> 1 < self._below
        if not wanted:
            return None
        if parent is None:
            return Span(self._sink, name, kind, trace_id)
        return Span(self._sink, name, kind, trace_id, parent.span_id, parent.state)
