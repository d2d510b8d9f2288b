"""containerd_hybrid: a container runtime you can talk to, import, or install as a daemon.

The way of the data, from a registry to a running process, is one direction through these packages:
`registry` → `content` → `unpack` → `snapshots` → `images` → `containers` → `tasks` → `events`. Values are
in `model`, the exceptions in `errors`, each package's contract in its `api` module.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
