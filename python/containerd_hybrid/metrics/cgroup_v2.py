"""The figures of ``io.containerd.cgroups.v2.Metrics``, by the names of containerd's v2 collector."""

from __future__ import annotations

from typing import Any, Final

from containerd_hybrid.metrics.figures import Figure, repeated, scalar
from containerd_hybrid.proto.cgroups.v2.metrics_pb2 import Metrics

TYPE: Final = "io.containerd.cgroups.v2.Metrics"
MESSAGE: Final = Metrics

# Lines of memory.stat; "bytes" is what containerd calls them all, events too.
_MEMORY_STAT = (
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pgmajfault",
    "pglazyfree",
    "pgrefill",
    "pglazyfreed",
    "pgscan",
    "pgsteal",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "anon",
    "file",
    "kernel_stack",
    "slab",
    "sock",
    "shmem",
    "anon_thp",
    "slab_reclaimable",
    "slab_unreclaimable",
    "workingset_refault",
    "workingset_activate",
    "workingset_nodereclaim",
    "thp_fault_alloc",
    "thp_collapse_alloc",
)


def _io(name: str, help: str, field: str) -> Figure:
    def entry(_: int, one: Any) -> tuple[dict[str, str], int]:
        return {"major": str(one.major), "minor": str(one.minor)}, getattr(one, field)

    return repeated(name, help, "io.usage", entry)


FIGURES: tuple[Figure, ...] = (
    scalar("pids_limit", "Most processes allowed", "pids.limit"),
    scalar("pids_current", "Processes and threads in it", "pids.current"),
    scalar("cpu_usage_usec_microseconds", "CPU time used", "cpu.usage_usec"),
    scalar("cpu_user_usec_microseconds", "CPU time used in user space", "cpu.user_usec"),
    scalar("cpu_system_usec_microseconds", "CPU time used in the kernel", "cpu.system_usec"),
    scalar("cpu_nr_periods_total", "CPU quota periods gone by", "cpu.nr_periods"),
    scalar("cpu_nr_throttled_total", "CPU quota periods in which it was throttled", "cpu.nr_throttled"),
    scalar("cpu_throttled_usec_microseconds", "Time it was throttled for", "cpu.throttled_usec"),
    scalar("memory_usage_bytes", "Used memory", "memory.usage"),
    scalar("memory_usage_limit_bytes", "Limit of memory", "memory.usage_limit"),
    scalar("memory_swap_usage_bytes", "Used swap", "memory.swap_usage"),
    scalar("memory_swap_limit_bytes", "Limit of swap", "memory.swap_limit"),
    *(scalar(f"memory_{name}_bytes", f"{name} in memory.stat", f"memory.{name}") for name in _MEMORY_STAT),
    scalar("memory_oom_total", "Times its memory limit was about to be exceeded", "memory_events.oom"),
    _io("io_rbytes_bytes", "Bytes read, by device", "rbytes"),
    _io("io_wbytes_bytes", "Bytes written, by device", "wbytes"),
    _io("io_rios_total", "Read operations, by device", "rios"),
    _io("io_wios_total", "Write operations, by device", "wios"),
)
"""``container_`` goes before each name."""
