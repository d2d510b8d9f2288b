"""What the daemon tells the tasks package: where it listens and how long it waits for shims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a shim; None waits for ever.

    ``start`` bounds the ``start`` action of a shim program, which containerd leaves to the caller's
    deadline; without a bound a program that never returns would keep its thread and its bundle.
    """

    load: float | None = 5.0
    cleanup: float | None = 5.0
    shutdown: float | None = 3.0
    state: float | None = 2.0
    stats: float | None = 2.0
    start: float | None = 60.0

    @property
    def of_adoption(self) -> float | None:
        """What one shim's adoption or clean-up may take at a start.

        Reconnecting and asking; then Delete, Shutdown, its effect, the delete action, unmounting.
        """
        if self.load is None or self.cleanup is None or self.shutdown is None:
            return None
        return 2 * self.load + 3 * self.cleanup + 2 * self.shutdown

    @classmethod
    def named(cls, values: Mapping[str, float]) -> Timeouts:
        """From the names in containerd's ``[timeouts]`` table; 0 means no limit, other names are ignored."""
        default = cls()
        found = {
            field: (values[name] or None) if name in values else getattr(default, field)
            for name, field in _NAMES.items()
        }
        return cls(**found)


_NAMES = {
    "io.containerd.timeout.shim.load": "load",
    "io.containerd.timeout.shim.cleanup": "cleanup",
    "io.containerd.timeout.shim.shutdown": "shutdown",
    "io.containerd.timeout.shim.start": "start",
    "io.containerd.timeout.task.state": "state",
    "io.containerd.timeout.metrics.shimstats": "stats",
}


@dataclass(frozen=True, slots=True)
class ShimSettings:
    """What every shim program is started with.

    ``address`` and ``ttrpc_address`` are the daemon's own sockets, to which shims publish events;
    ``publish_binary`` is the daemon's program for shims that cannot speak ttrpc; ``env`` holds
    additional ``NAME=value`` entries (``[plugins."io.containerd.shim.v1.manager"] env``);
    ``socket_dir`` is where shims put their sockets, empty for their own default.
    """

    address: str
    ttrpc_address: str
    publish_binary: Path
    socket_dir: str = ""
    env: tuple[str, ...] = ()
    debug: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)
