"""The plug-in ``io.containerd.warning.v1.deprecations``: what deprecated use was seen, and when last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from containerd_hybrid.model.deprecations import Deprecation

_UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers")


class Deprecations:
    """Since the daemon started; of all namespaces together, as in containerd."""

    def __init__(self) -> None:
        self._seen: dict[Deprecation, int] = {}

    def warn(self, deprecation: Deprecation) -> None:
        """Note a use of it now."""
        self._seen[deprecation] = time.time_ns()

    def seen(self) -> Mapping[Deprecation, int]:
        """When each was used last, in Unix nanoseconds; in the order of first use."""
        return dict(self._seen)


def warn_of_host(deprecations: Deprecations, unified: Path = _UNIFIED) -> None:
    """Note what is deprecated about this machine. ``unified`` exists where cgroups are pure version 2."""
    if not unified.exists():
        deprecations.warn(Deprecation.CGROUP_V1)
