"""``GET /v1/metrics`` over TCP, for a Prometheus to scrape."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

from containerd_hybrid.errors import InvalidConfigError, error_for_os
from containerd_hybrid.metrics.api import Collector, Family
from containerd_hybrid.metrics.exposition import CONTENT_TYPE, exposition
from containerd_hybrid.metrics.http import HttpServer, Request, Response

logger = logging.getLogger(__name__)

PATH = "/v1/metrics"


class MetricsServer:
    """Serves what the collectors have, on ``address`` (``HOST:PORT``, no host for all of the machine's).

    It asks nobody who he is, as containerd's; what can be read are names of containers and figures.

    Raises:
        InvalidConfigError: ``address`` is none.
    """

    def __init__(self, address: str, collectors: Sequence[Collector]) -> None:
        self._address = address
        self._host, self._port = parse_address(address)
        self._collectors = collectors
        self._http = HttpServer({PATH: {"GET": self._metrics}})

    async def start(self) -> None:
        """Listen and serve, in the background.

        Raises:
            HybridError: the address is taken, or is not one of this machine.
        """
        try:
            for listener in await self._listeners():
                await self._http.serve(listener)
        except OSError as error:
            await self._http.close()
            raise error_for_os(error, f"listen for metrics on {self._address}") from error
        logger.info("serving metrics", extra={"address": self._address, "path": PATH})

    async def drain(self, timeout: float) -> None:
        """See :class:`HttpServer`."""
        await self._http.drain(timeout)

    async def close(self) -> None:
        """End it."""
        await self._http.close()

    async def _listeners(self) -> list[socket.socket]:
        found = await asyncio.get_running_loop().getaddrinfo(
            self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listeners: list[socket.socket] = []
        try:
            for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
                listeners.append(socket.create_server(address, family=family, backlog=64))
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        return listeners

    async def _metrics(self, _: Request) -> Response:
        found = await asyncio.gather(*(_collected(collector) for collector in self._collectors))
        families = [family for part in found for family in part]
        # In a thread, because thousands of tasks make megabytes.
        body = await asyncio.to_thread(lambda: exposition(families).encode())
        return Response(body, content_type=CONTENT_TYPE)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:1338``, ``[::1]:1338`` or ``:1338``.

    Raises:
        InvalidConfigError: it is none of these.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    is_port = port.isascii() and port.isdigit() and int(port) <= 65535
    if not colon or not is_port or (":" in host and not bracketed):
        raise InvalidConfigError(f"metrics address {address!r} must be HOST:PORT, such as 127.0.0.1:1338")
    return (host[1:-1] if bracketed else host), int(port)


async def _collected(collector: Collector) -> Sequence[Family]:
    """One collector that fails does not take the others' figures away."""
    try:
        return await collector.collect()
    except Exception:
        logger.exception("figures of %s are missing", type(collector).__name__)
        return ()
