"""Counts calls by method and code."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from containerd_hybrid.rpc.api import CallContext, Kind, Method
from containerd_hybrid.rpc.interceptors.around import around
from containerd_hybrid.rpc.interceptors.logging import code_of


@dataclass(frozen=True, slots=True)
class MethodStats:
    """What is known of one method: its ended calls by code, and the seconds they took together."""

    service: str
    method: str
    kind: Kind
    started: int
    handled: Mapping[str, int]
    seconds: float


class CallMetrics:
    """The counts of one process; used from the event loop only. Every method is there from the start."""

    def __init__(self) -> None:
        self._methods: dict[tuple[str, str], _Counts] = {}

    def counts(self, service: str, method: Method) -> _Counts:
        """The counters of a method, for the interceptor."""
        return self._methods.setdefault((service, method.name), _Counts(method.kind))

    def snapshot(self) -> list[MethodStats]:
        """The counts now, by service and method."""
        return [
            MethodStats(service, method, c.kind, c.started, dict(c.handled), c.seconds)
            for (service, method), c in sorted(self._methods.items())
        ]


class _Counts:
    __slots__ = ("handled", "kind", "seconds", "started")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.started = 0
        self.handled: Counter[str] = Counter()
        self.seconds = 0.0


class MetricsInterceptor:
    """Counts every call into ``metrics``."""

    def __init__(self, metrics: CallMetrics) -> None:
        self._metrics = metrics

    def wrap(self, service: str, method: Method) -> Method:
        counts = self._metrics.counts(service, method)
        return around(method, lambda call: _CountedCall(counts, call))


class _CountedCall:
    __slots__ = ("_counts", "_started")

    def __init__(self, counts: _Counts, call: CallContext) -> None:
        self._counts = counts
        self._started = time.monotonic()

    def __enter__(self) -> None:
        self._counts.started += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._counts.handled[code_of(error)] += 1
        self._counts.seconds += time.monotonic() - self._started
