"""The figures of ``io.containerd.cgroups.v1.Metrics``, by the names of containerd's v1 collector."""

from __future__ import annotations

from typing import Any, Final

from containerd_hybrid.metrics.figures import Figure, Reading, repeated, scalar
from containerd_hybrid.proto.cgroups.v1.metrics_pb2 import Metrics

TYPE: Final = "io.containerd.cgroups.v1.Metrics"
MESSAGE: Final = Metrics

# Lines of memory.stat as the message has them, by the names that they have there. The page events are
# counts, but "bytes" is what containerd calls them.
_MEMORY_STAT = {
    "cache": "cache",
    "rss": "rss",
    "rss_huge": "rss_huge",
    "mapped_file": "mapped_file",
    "dirty": "dirty",
    "writeback": "writeback",
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "inactive_anon": "inactive_anon",
    "active_anon": "active_anon",
    "inactive_file": "inactive_file",
    "active_file": "active_file",
    "unevictable": "unevictable",
}
_MEMORY_USERS = {
    "usage": ("usage", "memory"),
    "swap": ("swap", "memory and swap"),
    "kernel": ("kernel", "kernel memory"),
    "kerneltcp": ("kernel_tcp", "kernel TCP buffer memory"),
}
_BLKIO = {
    "io_merged_recursive_total": "io_merged_recursive",
    "io_queued_recursive_total": "io_queued_recursive",
    "io_service_bytes_recursive_bytes": "io_service_bytes_recursive",
    "io_service_time_recursive_total": "io_service_time_recursive",
    "io_serviced_recursive_total": "io_serviced_recursive",
    "io_time_recursive_total": "io_time_recursive",
    "sectors_recursive_total": "sectors_recursive",
}


def _cpu() -> list[Figure]:
    return [
        scalar("cpu_total_nanoseconds", "CPU time used", "cpu.usage.total"),
        scalar("cpu_kernel_nanoseconds", "CPU time used in the kernel", "cpu.usage.kernel"),
        scalar("cpu_user_nanoseconds", "CPU time used in user space", "cpu.usage.user"),
        repeated(
            "per_cpu_nanoseconds",
            "CPU time used on each CPU",
            "cpu.usage.per_cpu",
            lambda number, time: ({"cpu": str(number)}, time),
        ),
        scalar("cpu_throttle_periods_total", "CPU quota periods gone by", "cpu.throttling.periods"),
        scalar(
            "cpu_throttled_periods_total",
            "CPU quota periods in which it was throttled",
            "cpu.throttling.throttled_periods",
        ),
        scalar(
            "cpu_throttled_time_nanoseconds", "Time it was throttled for", "cpu.throttling.throttled_time"
        ),
    ]


def _memory() -> list[Figure]:
    own = [
        scalar(f"memory_{name}_bytes", f"{name} in memory.stat", f"memory.{field}")
        for name, field in _MEMORY_STAT.items()
    ]
    total = [
        scalar(
            f"memory_total_{name}_bytes",
            f"total_{name} in memory.stat, child cgroups included",
            f"memory.total_{field}",
        )
        for name, field in _MEMORY_STAT.items()
    ]
    limits = [
        scalar(
            "memory_hierarchical_memory_limit_bytes",
            "Lowest memory limit of it and its parents",
            "memory.hierarchical_memory_limit",
        ),
        scalar(
            "memory_hierarchical_memsw_limit_bytes",
            "Lowest limit of memory and swap, of it and its parents",
            "memory.hierarchical_swap_limit",
        ),
    ]
    return [*own, *limits, *total, *_memory_users()]


def _memory_users() -> list[Figure]:
    figures = []
    for name, (field, what) in _MEMORY_USERS.items():
        at, path = f"memory_{name}", f"memory.{field}"
        figures += [
            scalar(f"{at}_failcnt_total", f"Times the limit of {what} was hit", f"{path}.failcnt"),
            scalar(f"{at}_limit_bytes", f"Limit of {what}", f"{path}.limit"),
            scalar(f"{at}_max_bytes", f"Most {what} ever used", f"{path}.max"),
            scalar(f"{at}_usage_bytes", f"Used {what}", f"{path}.usage"),
        ]
    return figures


def _hugetlb() -> list[Figure]:
    def paged(field: str) -> Any:
        return lambda _, entry: ({"page": entry.pagesize}, getattr(entry, field))

    return [
        repeated("hugetlb_usage_bytes", "Used huge pages", "hugetlb", paged("usage")),
        repeated("hugetlb_failcnt_total", "Times a huge page limit was hit", "hugetlb", paged("failcnt")),
        repeated("hugetlb_max_bytes", "Most huge pages ever used", "hugetlb", paged("max")),
    ]


def _device(_: int, entry: Any) -> Reading:
    labels = {
        "op": entry.op,
        "device": entry.device,
        "major": str(entry.major),
        "minor": str(entry.minor),
    }
    return labels, entry.value


FIGURES: tuple[Figure, ...] = (
    scalar("pids_limit", "Most processes allowed, 0 for no limit", "pids.limit"),
    scalar("pids_current", "Processes and threads in it", "pids.current"),
    *_cpu(),
    *_memory(),
    *_hugetlb(),
    *(
        repeated(f"blkio_{name}", f"blkio.{field} by device", f"blkio.{field}", _device)
        for name, field in _BLKIO.items()
    ),
)
"""In the order of containerd's; ``container_`` goes before each name."""
