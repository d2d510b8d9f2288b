"""Counts calls by method and code, and their messages."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, cast

from containerd_hybrid.metrics.api import LATENCY_BOUNDS, MethodStats
from containerd_hybrid.rpc.api import CallContext, Handler, Kind, Method
from containerd_hybrid.rpc.interceptors.around import answers_once, around
from containerd_hybrid.rpc.interceptors.logging import code_of


class CallMetrics:
    """The counts of one server; used from the event loop only. Every method is there from the start.

    With ``histogram`` the durations are counted too, in the buckets of ``LATENCY_BOUNDS``.
    """

    def __init__(self, *, histogram: bool = False) -> None:
        self._histogram = histogram
        self._methods: dict[tuple[str, str], _Counts] = {}

    def counts(self, service: str, method: Method) -> _Counts:
        """The counters of a method, for the interceptor."""
        return self._methods.setdefault((service, method.name), _Counts(method.kind, self._histogram))

    def snapshot(self) -> list[MethodStats]:
        """The counts now, by service and method."""
        return [
            MethodStats(
                service,
                method,
                counts.kind,
                counts.started,
                dict(counts.handled),
                counts.seconds,
                counts.received,
                counts.sent,
                tuple(counts.latencies),
            )
            for (service, method), counts in sorted(self._methods.items())
        ]


class _Counts:
    __slots__ = ("handled", "kind", "latencies", "received", "seconds", "sent", "started")

    def __init__(self, kind: Kind, histogram: bool) -> None:
        self.kind = kind
        self.started = 0
        self.handled: Counter[str] = Counter()
        self.seconds = 0.0
        self.received = 0
        self.sent = 0
        self.latencies = [0] * (len(LATENCY_BOUNDS) + 1) if histogram else []

    def ended(self, code: str, seconds: float) -> None:
        self.handled[code] += 1
        self.seconds += seconds
        if self.latencies:
            self.latencies[bisect_left(LATENCY_BOUNDS, seconds)] += 1


class MetricsInterceptor:
    """Counts every call into ``metrics``."""

    def __init__(self, metrics: CallMetrics) -> None:
        self._metrics = metrics

    def wrap(self, service: str, method: Method) -> Method:
        counts = self._metrics.counts(service, method)
        return around(_with_counted_streams(method, counts), lambda call: _CountedCall(counts, call))


class _CountedCall:
    """The call, and the messages that it has one of: its request, and its response if it succeeds."""

    __slots__ = ("_counts", "_started")

    def __init__(self, counts: _Counts, call: CallContext) -> None:
        self._counts = counts
        self._started = time.monotonic()

    def __enter__(self) -> None:
        self._counts.started += 1
        self._counts.received += self._counts.kind in _ASKED_ONCE

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._counts.ended(code_of(error), time.monotonic() - self._started)
        if error is None:
            self._counts.sent += self._counts.kind in _ANSWERED_ONCE


_ASKED_ONCE = (Kind.UNARY, Kind.SERVER_STREAM)
_ANSWERED_ONCE = (Kind.UNARY, Kind.CLIENT_STREAM)


class _CountedRequests:
    """No generator: it may be dropped while somebody waits in it."""

    __slots__ = ("_counts", "_requests")

    def __init__(self, counts: _Counts, requests: AsyncIterator[Any]) -> None:
        self._counts = counts
        self._requests = aiter(requests)

    def __aiter__(self) -> _CountedRequests:
        return self

    async def __anext__(self) -> Any:
        request = await anext(self._requests)
        self._counts.received += 1
        return request


def _with_counted_streams(method: Method, counts: _Counts) -> Method:
    """The method with the messages of its streams counted; a unary one is left as it is."""
    handler = cast(Any, method.handler)
    asked_once, answered_once = method.kind in _ASKED_ONCE, answers_once(method)

    async def once(requests: AsyncIterator[Any], call: CallContext) -> Any:
        return await handler(_CountedRequests(counts, requests), call)

    async def many(request: Any, call: CallContext) -> AsyncIterator[Any]:
        asked = request if asked_once else _CountedRequests(counts, request)
        async with aclosing(handler(asked, call)) as responses:
            async for response in responses:
                counts.sent += 1
                yield response

    if asked_once and answered_once:
        return method
    return replace(method, handler=cast(Handler, once if answered_once else many))
