"""Uses of the API that containerd has said will go, as ``ctr deprecations list`` shows them.

The ids are containerd's (its ``pkg/deprecation``), because tools look for them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeAlias


class Deprecation(enum.StrEnum):
    """Ids of what this program can notice; ``advice`` says what to do instead."""

    CGROUP_V1 = "io.containerd.deprecation/cgroup-v1"
    RUNC_OPTIONS_TASK_API_ADDRESS = "io.containerd.deprecation/runc-options-task-api-address"
    RUNC_OPTIONS_TASK_API_VERSION = "io.containerd.deprecation/runc-options-task-api-version"

    @property
    def advice(self) -> str:
        """One sentence or two for whoever runs the client or the host."""
        return _ADVICE[self]


_ADVICE = {
    Deprecation.CGROUP_V1: (
        "This host uses cgroup v1, which containerd has deprecated since version 2.2 and will drop by May"
        " 2029 (this program keeps serving it). Move the host to cgroup v2."
    ),
    Deprecation.RUNC_OPTIONS_TASK_API_ADDRESS: (
        "A task was created with task_api_address in runc's options, deprecated since containerd 2.3."
        " Put it into the field of that name of CreateTaskRequest."
    ),
    Deprecation.RUNC_OPTIONS_TASK_API_VERSION: (
        "A task was created with task_api_version in runc's options, deprecated since containerd 2.3."
        " Put it into the field of that name of CreateTaskRequest."
    ),
}

Warn: TypeAlias = Callable[[Deprecation], None]
"""Notes that something deprecated was used now."""
