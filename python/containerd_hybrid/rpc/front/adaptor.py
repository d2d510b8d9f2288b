"""Serves method tables over gRPC on one endpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from containerd_hybrid.errors import InvalidArgumentError, UnavailableError
from containerd_hybrid.rpc import sockets
from containerd_hybrid.rpc.api import Service
from containerd_hybrid.rpc.endpoints import TcpEndpoint, UnixEndpoint
from containerd_hybrid.rpc.front.connection import Connection
from containerd_hybrid.rpc.front.routes import RouteTable
from containerd_hybrid.rpc.front.tls import server_context

logger = logging.getLogger(__name__)

_BUFFER = 256 << 10
_BACKLOG = 512
# What a peer that does not read is given to take its last answers.
_FLUSH = 1.0


class FrontAdaptor:
    """The services, already inside their interceptors, on one endpoint. Message sizes are in bytes."""

    def __init__(
        self,
        services: Iterable[Service],
        endpoint: UnixEndpoint | TcpEndpoint,
        *,
        max_receive: int = 16 << 20,
        max_send: int = 16 << 20,
    ) -> None:
        self._endpoint = endpoint
        self._server: asyncio.Server | None = None
        self._socket: tuple[int, int] | None = None
        self.table = RouteTable(services)
        self.max_receive = max_receive
        self.max_send = max_send
        self.buffer = bytearray(_BUFFER)
        # What asyncio's TLS is given: it reads into slices, and one of a bytearray would be a copy.
        self.view = memoryview(self.buffer)
        self.connections: set[Connection] = set()
        self.stopping = False

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            FailedPreconditionError: another daemon listens on the socket.
            InvalidConfigError: a certificate cannot be used.
            UnavailableError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(self, loop)

        if isinstance(self._endpoint, UnixEndpoint):
            path, owner = self._endpoint.path, self._endpoint.owner
            listener = await asyncio.to_thread(sockets.bind, path, owner)
            self._socket = await asyncio.to_thread(sockets.identity, path)
            self._server = await loop.create_unix_server(connection, sock=listener, backlog=_BACKLOG)
        else:
            tls = await asyncio.to_thread(server_context, self._endpoint)
            host, port = _host_and_port(self._endpoint.address)
            try:
                self._server = await loop.create_server(connection, host, port, ssl=tls, backlog=_BACKLOG)
            except OSError as error:
                raise UnavailableError(f"cannot listen on {self.address}: {error}") from None
        logger.info("serving", extra={"address": self.address})

    @property
    def address(self) -> str:
        """The socket's path, or ``host:port``."""
        return str(self._endpoint)

    async def drain(self, timeout: float) -> None:
        """Accept nothing new, end calls that only wait, and let the others finish.

        What is not finished after ``timeout`` seconds is cancelled.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        if isinstance(self._endpoint, UnixEndpoint):
            await asyncio.to_thread(sockets.remove, self._endpoint.path, self._socket)
        self.stopping = True
        server.close()
        for connection in list(self.connections):
            connection.end_waiting()
            connection.drain()
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=timeout)
        await self._end()

    async def close(self) -> None:
        """Stop now."""
        await self.drain(0)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for connection in self.connections for task in connection.tasks]

    async def _end(self) -> None:
        """Cancel what is left, wait until it is undone, and see its callers told."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if closed := [connection.closed for connection in self.connections]:
            await asyncio.wait(closed, timeout=_FLUSH)
        remaining = list(self.connections)
        for connection in remaining:
            connection.abort()
        if remaining:
            await asyncio.wait([connection.closed for connection in remaining])


def _host_and_port(address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        raise InvalidArgumentError(f"address {address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)
