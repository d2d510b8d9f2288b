"""How a container ended, kept in its labels: its task, which knows, is deleted to free what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from containerd_hybrid.client.container import AsyncContainer
from containerd_hybrid.client.process import Exited
from containerd_hybrid.errors import NotFoundError

_STATUS = "io.containerd.hybrid.exit-status"
_MOMENT = "io.containerd.hybrid.exited-at"


async def note_end(container: AsyncContainer, exited: Exited) -> None:
    """Somebody may have removed the container meanwhile."""
    with suppress(NotFoundError):
        await container.set_labels({_STATUS: str(exited.status), _MOMENT: str(exited.exited_at)})


def noted_end(labels: Mapping[str, str]) -> Exited | None:
    """How the last run ended, if it was noted."""
    status, moment = labels.get(_STATUS, ""), labels.get(_MOMENT, "")
    return Exited(int(status), int(moment)) if status.isdecimal() and moment.isdecimal() else None
