"""Basic authorisation (RFC 7617): user and password with each request."""

from __future__ import annotations

import base64

from containerd_hybrid.errors import UnauthenticatedError
from containerd_hybrid.registry.api import Credential
from containerd_hybrid.registry.auth.steps import Flow, Grant


def basic(host: str, credential: Credential | None) -> Flow:
    """
    Raises:
        UnauthenticatedError: there are no user and password for the host.
    """
    yield from ()
    if credential is None or not credential.username or not credential.secret:
        raise UnauthenticatedError(f"{host} wants a user and a password: log in to it")
    return Grant(basic_header(credential))


def basic_header(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.secret}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
