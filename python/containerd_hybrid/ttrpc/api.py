"""ttrpc: gRPC's little sister that shims speak (github.com/containerd/ttrpc, PROTOCOL.md)."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias


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


class Connector(Protocol):
    """Makes connections; ``ttrpc.client.connect`` is one."""

    async def __call__(self, address: str, *, timeout: float | None = 5.0) -> TtrpcClient:
        """Connect to ``unix://PATH``, a path, or ``@name`` (abstract).

        Raises:
            InvalidArgumentError: not such an address.
            UnavailableError: nobody listens there, or not within ``timeout`` seconds.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServerCall:
    """What came with a call: ``deadline`` is an event loop time or None, metadata keys are lower case."""

    service: str
    method: str
    metadata: Mapping[str, str]
    deadline: float | None
    peer: str


Once: TypeAlias = Callable[[AsyncIterator[bytes], ServerCall], Awaitable[bytes]]
Many: TypeAlias = Callable[[AsyncIterator[bytes], ServerCall], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class ServerMethod:
    """A handler over the bytes of messages: exactly one of ``once`` and ``many`` is set.

    A handler gets its requests as an iterator whatever the kind; with ``client_stream`` false the
    iterator has one element.
    """

    client_stream: bool = False
    once: Once | None = None
    many: Many | None = None


class TtrpcServer(Protocol):
    """Serves handlers on any number of sockets."""

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections on a bound Unix socket, which the server then owns."""
        ...

    async def drain(self, timeout: float) -> None:
        """Take no new connections and calls; let running calls end, for ``timeout`` seconds at most."""
        ...

    async def close(self) -> None:
        """End everything now."""
        ...
