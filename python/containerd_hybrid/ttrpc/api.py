"""ttrpc: gRPC's little sister that shims speak (github.com/containerd/ttrpc, PROTOCOL.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class TtrpcClient(Protocol):
    """One connection to a ttrpc server; calls share it."""

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """The response message's bytes.

        Raises:
            HybridError: the class for the status code the server answered.
            UnavailableError: the connection is gone or the message could not be sent.
            DeadlineExceededError: ``timeout`` seconds passed.
        """
        ...

    async def wait_closed(self) -> None:
        """Return when the peer closed the connection or it broke."""
        ...

    async def close(self) -> None: ...
