"""The ``process_*`` figures that every Prometheus client has, of this process, and what it is.

Source: proc(5); the names are in Prometheus's documentation, "Writing client libraries", "Process metrics".
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
from collections.abc import Sequence
from pathlib import Path

from containerd_hybrid.metrics.api import Family, Sample

_PROC = Path("/proc")
# Fields of /proc/PID/stat after the program's name, which may have spaces in it; the first is field 3.
_USER_TIME, _SYSTEM_TIME, _THREADS, _START, _VIRTUAL, _RESIDENT = 11, 12, 17, 19, 20, 21


class ProcessCollector:
    """Implements :class:`~containerd_hybrid.metrics.api.Collector`."""

    def __init__(self, version: str, revision: str) -> None:
        self._build = {"version": version, "revision": revision}
        self._python = {"implementation": platform.python_implementation()}
        self._python["version"] = platform.python_version()

    async def collect(self) -> Sequence[Family]:
        """What the kernel says of this process; nothing of it where /proc is not mounted."""
        found = [
            _family("containerd_build_info_total", "counter", "The build that runs", 1, self._build),
            _family("python_info", "gauge", "The interpreter that runs it", 1, self._python),
        ]
        try:
            return [*found, *await asyncio.to_thread(_of_process)]
        except (OSError, ValueError, IndexError):
            return found


def _of_process() -> list[Family]:
    fields = (_PROC / "self/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / ticks
    descriptors = sum(1 for _ in (_PROC / "self/fd").iterdir()) - 1  # without the one that listing takes
    resident = int(fields[_RESIDENT]) * resource.getpagesize()
    received, sent = _network()
    return [
        _family("process_cpu_seconds_total", "counter", "CPU time used", cpu),
        _family("process_open_fds", "gauge", "Open file descriptors", descriptors),
        _family("process_max_fds", "gauge", "Most open file descriptors", _limit(resource.RLIMIT_NOFILE)),
        _family("process_threads", "gauge", "Threads", int(fields[_THREADS])),
        _family("process_resident_memory_bytes", "gauge", "Resident memory", resident),
        _family("process_virtual_memory_bytes", "gauge", "Virtual memory", int(fields[_VIRTUAL])),
        _family(
            "process_virtual_memory_max_bytes", "gauge", "Most virtual memory", _limit(resource.RLIMIT_AS)
        ),
        _family(
            "process_start_time_seconds",
            "gauge",
            "Unix time at which it started",
            _booted() + int(fields[_START]) / ticks,
        ),
        _family(
            "process_network_receive_bytes_total", "counter", "Bytes its network namespace received", received
        ),
        _family("process_network_transmit_bytes_total", "counter", "Bytes its network namespace sent", sent),
    ]


def _family(name: str, kind: str, help: str, value: float, labels: dict[str, str] | None = None) -> Family:
    return Family(name, help, "counter" if kind == "counter" else "gauge", [Sample(value, labels or {})])


def _limit(which: int) -> float:
    soft, _ = resource.getrlimit(which)
    return float(1 << 64) if soft == resource.RLIM_INFINITY else soft


def _booted() -> int:
    """Unix time of the machine's start, in seconds."""
    lines = (_PROC / "stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("btime ")), 0)


def _network() -> tuple[int, int]:
    """Bytes over IP, of the whole network namespace: the kernel counts none by process."""
    names: list[str] = []
    for line in (_PROC / "self/net/netstat").read_text().splitlines():
        kind, _, rest = line.partition(":")
        if kind != "IpExt":
            continue
        if not names:
            names = rest.split()
            continue
        values = dict(zip(names, map(int, rest.split()), strict=True))
        return values.get("InOctets", 0), values.get("OutOctets", 0)
    return 0, 0
