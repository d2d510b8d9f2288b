"""Figures for a monitoring system: who has some gives families of samples, one place writes them out.

Names, labels and meaning are containerd's, so that dashboards made for it work: ``grpc_server_*`` (of
go-grpc-middleware), ``process_*`` (of every Prometheus client), ``container_*`` (of its task monitor).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from containerd_hybrid.rpc.api import Kind

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of a call histogram's buckets in seconds; one more bucket has what took longer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure: ``suffix`` is what a histogram's parts add to the family's name."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """Samples of one name; a family without samples is not written."""

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram"]
    samples: Sequence[Sample]


class Collector(Protocol):
    """Somebody with figures."""

    async def collect(self) -> Sequence[Family]:
        """The figures now. Returns within a bounded time and never blocks the event loop."""
        ...


@dataclass(frozen=True, slots=True)
class MethodStats:
    """What is known of one method: its ended calls by code, and the seconds they took together.

    ``received`` and ``sent`` are messages. ``latencies`` counts the calls in each bucket of
    ``LATENCY_BOUNDS`` and one beyond (not cumulated); empty when they are not counted.
    """

    service: str
    method: str
    kind: Kind
    started: int
    handled: Mapping[str, int]
    seconds: float
    received: int = 0
    sent: int = 0
    latencies: Sequence[int] = ()


class CallStats(Protocol):
    """The counts of a server's methods."""

    def snapshot(self) -> Sequence[MethodStats]:
        """The counts now, by service and method."""
        ...
