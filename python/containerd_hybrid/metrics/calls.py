"""The ``grpc_server_*`` figures, by the names of go-grpc-middleware's Prometheus provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from containerd_hybrid.metrics.api import LATENCY_BOUNDS, CallStats, Family, MethodStats, Sample
from containerd_hybrid.metrics.exposition import number

# Go's names of the status codes, which are the values of the label grpc_code.
_CODES = {
    "OK": "OK",
    "CANCELLED": "Canceled",
    "UNKNOWN": "Unknown",
    "INVALID_ARGUMENT": "InvalidArgument",
    "DEADLINE_EXCEEDED": "DeadlineExceeded",
    "NOT_FOUND": "NotFound",
    "ALREADY_EXISTS": "AlreadyExists",
    "PERMISSION_DENIED": "PermissionDenied",
    "RESOURCE_EXHAUSTED": "ResourceExhausted",
    "FAILED_PRECONDITION": "FailedPrecondition",
    "ABORTED": "Aborted",
    "OUT_OF_RANGE": "OutOfRange",
    "UNIMPLEMENTED": "Unimplemented",
    "INTERNAL": "Internal",
    "UNAVAILABLE": "Unavailable",
    "DATA_LOSS": "DataLoss",
    "UNAUTHENTICATED": "Unauthenticated",
}


class CallCollector:
    """Implements :class:`~containerd_hybrid.metrics.api.Collector`.

    Methods that were never called and codes that never occurred are there with zeroes, so that a rate
    can be told from the first call on.
    """

    def __init__(self, calls: CallStats) -> None:
        self._calls = calls

    async def collect(self) -> Sequence[Family]:
        """Counters, and a histogram when latencies are counted."""
        methods = [(_method_labels(stats), stats) for stats in self._calls.snapshot()]
        return [
            Family(
                "grpc_server_started_total",
                "Calls that came in.",
                "counter",
                [Sample(stats.started, labels) for labels, stats in methods],
            ),
            Family(
                "grpc_server_handled_total",
                "Calls that ended, by the code that they ended with.",
                "counter",
                [
                    Sample(stats.handled.get(code, 0), {**labels, "grpc_code": name})
                    for labels, stats in methods
                    for code, name in _CODES.items()
                ],
            ),
            Family(
                "grpc_server_msg_received_total",
                "Messages that callers sent.",
                "counter",
                [Sample(stats.received, labels) for labels, stats in methods],
            ),
            Family(
                "grpc_server_msg_sent_total",
                "Messages sent to callers.",
                "counter",
                [Sample(stats.sent, labels) for labels, stats in methods],
            ),
            Family(
                "grpc_server_handling_seconds",
                "How long calls took, streams from their start to their end.",
                "histogram",
                [sample for labels, stats in methods for sample in _histogram(labels, stats)],
            ),
        ]


def _method_labels(stats: MethodStats) -> Mapping[str, str]:
    return {
        "grpc_method": stats.method,
        "grpc_service": stats.service,
        "grpc_type": stats.kind.value.replace("-", "_"),
    }


def _histogram(labels: Mapping[str, str], stats: MethodStats) -> Iterator[Sample]:
    if not stats.latencies:
        return
    bounds = (*(number(bound) for bound in LATENCY_BOUNDS), "+Inf")
    for bound, count in zip(bounds, accumulate(stats.latencies), strict=True):
        yield Sample(count, {**labels, "le": bound}, "_bucket")
    yield Sample(stats.seconds, labels, "_sum")
    yield Sample(sum(stats.latencies), labels, "_count")
