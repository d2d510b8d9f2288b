"""What this build calls itself. Clients compare versions with containerd's, so that one comes first."""

from __future__ import annotations

from containerd_hybrid import __version__

CONTAINERD_VERSION = "v2.4.0"
SERVED_VERSION = f"{CONTAINERD_VERSION}+hybrid.{__version__}"
REVISION = ""
