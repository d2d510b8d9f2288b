"""The explicit list of the daemon's plug-ins: one line registers one.

Types, ids and configuration keys are containerd's. Implementations are imported when they are made,
so that ``config dump`` and ``--help`` need none of them.
"""

from __future__ import annotations

from containerd_hybrid.app.api import Plugin
from containerd_hybrid.app.builtins import (
    operator,
    runtime,
    servers,
    services,
    snapshotters,
    storage,
    tracing,
)

# Without these there is nothing to serve; the daemon does not start when one of them fails.
ESSENTIAL = (
    "io.containerd.content.v1.content",
    "io.containerd.event.v1.exchange",
    "io.containerd.metadata.v1.bolt",
)


def builtins() -> list[Plugin]:
    """Every plug-in of this program, each after those it needs."""
    return [
        *snapshotters.PLUGINS,
        *storage.PLUGINS,
        *runtime.PLUGINS,
        *operator.PLUGINS,
        *tracing.PLUGINS,
        *services.PLUGINS,
        *servers.PLUGINS,
    ]
