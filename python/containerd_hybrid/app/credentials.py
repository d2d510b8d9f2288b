"""Credentials of the calling user, for the programs; the daemon itself uses what its clients send."""

from __future__ import annotations

from pathlib import Path

from containerd_hybrid.registry.api import Credentials


def docker_file() -> Path:
    """Where Docker keeps this user's credentials."""
    from containerd_hybrid.registry.docker_config import default_config

    return default_config()


def docker_credentials(config: Path | None = None) -> Credentials:
    """Those of Docker's ``config.json`` (default: this user's), read when they are needed."""
    from containerd_hybrid.registry.docker_config import DockerCredentials

    return DockerCredentials(config)
