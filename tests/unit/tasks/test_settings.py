"""Time limits by the names of containerd's configuration."""

from __future__ import annotations

from containerd_hybrid.tasks.settings import Timeouts


def test_defaults_are_containerds() -> None:
    timeouts = Timeouts()
    assert (timeouts.load, timeouts.cleanup, timeouts.shutdown) == (5.0, 5.0, 3.0)
    assert (timeouts.state, timeouts.stats) == (2.0, 2.0)


def test_names() -> None:
    assert Timeouts.named({}) == Timeouts()
    assert Timeouts.named(
        {
            "io.containerd.timeout.shim.load": 1.0,
            "io.containerd.timeout.shim.cleanup": 2.0,
            "io.containerd.timeout.shim.shutdown": 3.0,
            "io.containerd.timeout.shim.start": 4.0,
            "io.containerd.timeout.task.state": 5.0,
            "io.containerd.timeout.metrics.shimstats": 0.0,
            "io.containerd.timeout.bolt.open": 7.0,
        }
    ) == Timeouts(1.0, 2.0, 3.0, 5.0, None, 4.0)
