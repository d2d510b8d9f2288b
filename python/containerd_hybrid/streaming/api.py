"""Streams that a client opens beside a call and that call finds by name (…services.streaming.v1)."""

from __future__ import annotations

from typing import Protocol

from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue


class Stream(Protocol):
    """Typed messages in both directions, with the back-pressure of the transport."""

    async def send(self, message: AnyValue) -> None:
        """
        Raises:
            UnavailableError: the other side is gone.
        """
        ...

    async def receive(self) -> AnyValue | None:
        """The next message, None at the end."""
        ...

    def close(self) -> None: ...


class StreamManager(Protocol):
    """Open streams by namespace and name."""

    def register(self, scope: Scope, name: str, stream: Stream) -> None:
        """AlreadyExistsError for a name that is in use."""
        ...

    def unregister(self, scope: Scope, name: str) -> None: ...

    def get(self, scope: Scope, name: str) -> Stream:
        """NotFoundError for an unknown name."""
        ...
