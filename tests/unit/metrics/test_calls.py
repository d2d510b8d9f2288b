"""The ``grpc_server_*`` figures."""

from __future__ import annotations

from collections.abc import Sequence

from tests.unit.metrics.kit import parsed

from containerd_hybrid.metrics.api import MethodStats
from containerd_hybrid.metrics.calls import CallCollector
from containerd_hybrid.metrics.exposition import exposition
from containerd_hybrid.rpc.api import Kind

SERVICE = "containerd.services.events.v1.Events"


class Calls:
    def __init__(self, *stats: MethodStats) -> None:
        self._stats = stats

    def snapshot(self) -> Sequence[MethodStats]:
        return self._stats


async def served(*stats: MethodStats) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return parsed(exposition(await CallCollector(Calls(*stats)).collect()))


def labels(method: str, type: str, **more: str) -> frozenset[tuple[str, str]]:
    return frozenset({"grpc_service": SERVICE, "grpc_method": method, "grpc_type": type, **more}.items())


async def test_counters_have_containerds_names_and_labels() -> None:
    handled = {"OK": 2, "CANCELLED": 3}
    samples = await served(MethodStats(SERVICE, "Subscribe", Kind.SERVER_STREAM, 6, handled, 1.5, 6, 40))
    own = labels("Subscribe", "server_stream")
    assert samples["grpc_server_started_total", own] == 6
    assert samples["grpc_server_msg_received_total", own] == 6
    assert samples["grpc_server_msg_sent_total", own] == 40
    by_code = {
        dict(found)["grpc_code"]: value
        for (name, found), value in samples.items()
        if name == "grpc_server_handled_total"
    }
    assert {code: count for code, count in by_code.items() if count} == {"OK": 2, "Canceled": 3}
    assert len(by_code) == 17, "every code is there from the start"
    assert not any("handling_seconds" in name for name, _ in samples), "the histogram is off"


async def test_the_histogram_is_cumulated_and_has_its_sum() -> None:
    latencies = (1, 0, 2, *([0] * 8), 4)
    samples = await served(
        MethodStats(SERVICE, "Publish", Kind.UNARY, 7, {"OK": 7}, 60.5, latencies=latencies)
    )
    name = "grpc_server_handling_seconds"

    def bucket(bound: str) -> float:
        return samples[f"{name}_bucket", labels("Publish", "unary", le=bound)]

    assert [bucket(b) for b in ("0.005", "0.01", "0.025", "1", "10", "+Inf")] == [1, 1, 3, 3, 3, 7]
    assert samples[f"{name}_count", labels("Publish", "unary")] == 7
    assert samples[f"{name}_sum", labels("Publish", "unary")] == 60.5
