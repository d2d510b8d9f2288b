"""The ``container_*`` figures: containerd's names and labels, and each name's own figure.

``containerd-names-*.txt`` has the names and labels of containerd 2.4's collectors, besides those that
every figure has. ``test_metrics.py`` of the integration tests compares with what one served.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from containerd_hybrid.metrics.api import Family
from containerd_hybrid.metrics.tasks import TaskCollector
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.cgroups.v1 import metrics_pb2 as v1
from containerd_hybrid.proto.cgroups.v2 import metrics_pb2 as v2
from containerd_hybrid.tasks.api import Metric, TaskMetric

V1 = "io.containerd.cgroups.v1.Metrics"
V2 = "io.containerd.cgroups.v2.Metrics"
COMMON = {"container_id", "namespace", "runtime"}

# What a shim says of a container on cgroup v2: `sh -c 'sleep 1000'` with a limit of 64 MiB and 10 processes.
V2_STATS = """
pids { current: 2 limit: 10 }
cpu { usage_usec: 31417 user_usec: 12034 system_usec: 19383 nr_periods: 9 nr_throttled: 4 throttled_usec: 77 }
memory {
  anon: 217088 file: 4096 kernel_stack: 32768 slab: 130048 file_mapped: 1024 anon_thp: 2 inactive_anon: 212992
  active_anon: 4096 slab_reclaimable: 44032 slab_unreclaimable: 86016 pgfault: 1311 pgmajfault: 3
  usage: 544768 usage_limit: 67108864 swap_usage: 8192 swap_limit: 18446744073709551615
}
io { usage { major: 254 rbytes: 4096 wbytes: 512 rios: 1 wios: 2 } usage { major: 8 minor: 16 rbytes: 7 } }
memory_events { oom: 5 oom_kill: 6 }
"""


class Tasks:
    def __init__(self, *metrics: TaskMetric) -> None:
        self._metrics = metrics

    async def all_metrics(self) -> Sequence[TaskMetric]:
        return self._metrics


def task(
    stats: Message, *, id: str = "c1", namespace: str = "ns", runtime: str = "io.containerd.runc.v2"
) -> TaskMetric:
    type_url = V1 if isinstance(stats, v1.Metrics) else V2
    return TaskMetric(namespace, runtime, Metric(1, id, AnyValue(type_url, stats.SerializeToString())))


async def collected(*metrics: TaskMetric) -> dict[str, Family]:
    families = await TaskCollector(Tasks(*metrics)).collect()
    assert {family.kind for family in families} <= {"gauge"}
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    return {family.name: family for family in families}


def fill(message: Message, next_number: int = 1) -> int:
    """Give every number in the message a value of its own, with one entry in every list."""
    for field in message.DESCRIPTOR.fields:
        value: Any = getattr(message, field.name)
        repeated = field.is_repeated
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if not repeated:
                value.SetInParent()
            next_number = fill(value.add() if repeated else value, next_number)
        elif repeated:
            value.append(next_number)
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, f"text{next_number}")
        else:
            setattr(message, field.name, next_number)
        next_number += 1
    return next_number


def containerds(version: str) -> dict[str, set[str]]:
    """Labels by name."""
    lines = Path(__file__).with_name(f"containerd-names-{version}.txt").read_text().splitlines()
    parts = [line.partition(" ") for line in lines]
    return {name: set(labels.split(",")) if labels else set() for name, _, labels in parts}


@pytest.mark.parametrize(("version", "message"), [("v1", v1.Metrics()), ("v2", v2.Metrics())])
async def test_names_and_labels_are_containerds(version: str, message: Message) -> None:
    fill(message)
    families = await collected(task(message))
    found = {name: set(family.samples[0].labels) - COMMON for name, family in families.items()}
    assert found == containerds(version)
    assert all(family.samples[0].labels.keys() >= COMMON for family in families.values())
    values = [sample.value for family in families.values() for sample in family.samples]
    assert len(values) == len(set(values)), "two names have the same figure"


async def test_what_a_controller_that_is_off_would_say_is_left_out() -> None:
    assert await collected(task(v1.Metrics()), task(v2.Metrics())) == {}
    only_pids = v1.Metrics(pids=v1.PidsStat(current=1))
    assert set(await collected(task(only_pids))) == {"container_pids_current", "container_pids_limit"}
    no_swap = v1.Metrics(memory=v1.MemoryStat(usage=v1.MemoryEntry(usage=5)))
    families = await collected(task(no_swap))
    assert families["container_memory_usage_usage_bytes"].samples[0].value == 5
    assert "container_memory_swap_usage_bytes" not in families


async def test_figures_of_cgroup_v2() -> None:
    from google.protobuf import text_format

    families = await collected(task(text_format.Parse(V2_STATS, v2.Metrics())))
    figures = {name: family.samples[0].value for name, family in families.items() if len(family.samples) == 1}
    assert {
        "container_cpu_usage_usec_microseconds": 31417,
        "container_cpu_system_usec_microseconds": 19383,
        "container_cpu_nr_throttled_total": 4,
        "container_memory_usage_bytes": 544768,
        "container_memory_usage_limit_bytes": 67108864,
        "container_memory_swap_limit_bytes": 18446744073709551615,
        "container_memory_anon_bytes": 217088,
        "container_memory_pgfault_bytes": 1311,
        "container_memory_oom_total": 5,
        "container_pids_current": 2,
        "container_pids_limit": 10,
    }.items() <= figures.items()
    reads = {
        (s.labels["major"], s.labels["minor"]): s.value for s in families["container_io_rbytes_bytes"].samples
    }
    assert reads == {("254", "0"): 4096, ("8", "16"): 7}


async def test_each_cpu_and_device_of_cgroup_v1_has_its_own() -> None:
    disk = v1.BlkIOEntry(op="Read", device="/dev/sda", major=8, value=99)
    stats = v1.Metrics(
        cpu=v1.CPUStat(usage=v1.CPUUsage(per_cpu=[11, 22])),
        blkio=v1.BlkIOStat(io_service_bytes_recursive=[disk]),
        hugetlb=[v1.HugetlbStat(usage=3, pagesize="2MB"), v1.HugetlbStat(usage=4, pagesize="1GB")],
    )
    families = await collected(task(stats))
    assert [(s.labels["cpu"], s.value) for s in families["container_per_cpu_nanoseconds"].samples] == [
        ("0", 11),
        ("1", 22),
    ]
    assert [(s.labels["page"], s.value) for s in families["container_hugetlb_usage_bytes"].samples] == [
        ("2MB", 3),
        ("1GB", 4),
    ]
    (sample,) = families["container_blkio_io_service_bytes_recursive_bytes"].samples
    assert dict(sample.labels) == {
        "container_id": "c1",
        "namespace": "ns",
        "runtime": "io.containerd.runc.v2",
        "op": "Read",
        "device": "/dev/sda",
        "major": "8",
        "minor": "0",
    }


async def test_tasks_of_one_name_in_two_namespaces_are_told_apart() -> None:
    stats = v1.Metrics(pids=v1.PidsStat(current=1))
    families = await collected(task(stats, namespace="a"), task(stats, namespace="b", runtime=""))
    assert [dict(sample.labels) for sample in families["container_pids_current"].samples] == [
        {"container_id": "c1", "namespace": "a", "runtime": "io.containerd.runc.v2"},
        {"container_id": "c1", "namespace": "b"},
    ]


async def test_rubbish_and_unknown_figures_do_not_take_the_others_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    families = await collected(
        TaskMetric("ns", "", Metric(1, "rubbish", AnyValue(V1, b"\xff\xff"))),
        TaskMetric("ns", "", Metric(1, "other", AnyValue("some.vm/Stats", b""))),
        task(v1.Metrics(pids=v1.PidsStat(current=7)), id="good"),
    )
    assert [s.labels["container_id"] for s in families["container_pids_current"].samples] == ["good"]
    assert "the shim of task rubbish gave figures that are no" in caplog.text
    assert "task other has figures of the unknown type some.vm/Stats" in caplog.text
