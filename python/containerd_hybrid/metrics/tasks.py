"""The ``container_*`` figures of every task, from what its shim says of its cgroup."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

from google.protobuf.message import DecodeError, Message

from containerd_hybrid.metrics import cgroup_v1, cgroup_v2
from containerd_hybrid.metrics.api import Family, Sample
from containerd_hybrid.metrics.figures import Figure
from containerd_hybrid.tasks.api import TaskFigures, TaskMetric

logger = logging.getLogger(__name__)

_KNOWN: Mapping[str, tuple[type[Message], Sequence[Figure]]] = {
    cgroup_v1.TYPE: (cgroup_v1.MESSAGE, cgroup_v1.FIGURES),
    cgroup_v2.TYPE: (cgroup_v2.MESSAGE, cgroup_v2.FIGURES),
}


class TaskCollector:
    """Implements :class:`~containerd_hybrid.metrics.api.Collector`.

    A shim that does not answer within its time is left out, as is one whose runtime has other figures
    than those of cgroups.
    """

    def __init__(self, tasks: TaskFigures) -> None:
        self._tasks = tasks

    async def collect(self) -> Sequence[Family]:
        """One family for each figure that any task has."""
        metrics = await self._tasks.all_metrics()
        return await asyncio.to_thread(_families, metrics)


def _families(metrics: Iterable[TaskMetric]) -> list[Family]:
    figures: dict[str, Figure] = {}
    samples: dict[str, list[Sample]] = {}
    for task in metrics:
        labels = {"container_id": task.metric.id, "namespace": task.namespace}
        if task.runtime:
            labels["runtime"] = task.runtime
        for figure, sample in _samples(task, labels):
            figures.setdefault(figure.name, figure)
            samples.setdefault(figure.name, []).append(sample)
    return [
        Family(f"container_{name}", figure.help, "gauge", samples[name]) for name, figure in figures.items()
    ]


def _samples(task: TaskMetric, labels: Mapping[str, str]) -> Iterator[tuple[Figure, Sample]]:
    data = task.metric.data
    known = _KNOWN.get(data.type_url.rpartition("/")[2])
    if known is None:
        logger.debug("task %s has figures of the unknown type %s", task.metric.id, data.type_url or "(none)")
        return
    message, figures = known
    try:
        stats = message.FromString(data.value)
    except DecodeError:
        logger.error("the shim of task %s gave figures that are no %s", task.metric.id, data.type_url)
        return
    for figure in figures:
        for own, value in figure.read(stats):
            yield figure, Sample(value, {**labels, **own})
