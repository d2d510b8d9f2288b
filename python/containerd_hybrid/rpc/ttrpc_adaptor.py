"""Serves method tables over ttrpc, on the socket that shims publish their events to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, cast

from google.protobuf.message import DecodeError, Message

from containerd_hybrid.errors import InternalError
from containerd_hybrid.rpc import sockets
from containerd_hybrid.rpc.api import CallContext, Kind, Method, Service
from containerd_hybrid.ttrpc.api import ServerCall, ServerMethod, TtrpcServer

logger = logging.getLogger(__name__)


class TtrpcAdaptor:
    """A ttrpc server (made with :func:`server_methods`) on a Unix socket of mode 0660."""

    def __init__(self, server: TtrpcServer, address: str, owner: sockets.SocketOwner) -> None:
        self._server = server
        self._address = address
        self._owner = owner
        self._socket: tuple[int, int] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            FailedPreconditionError: another daemon listens on the socket.
        """
        listener = await asyncio.to_thread(sockets.bind, self._address, self._owner)
        self._socket = await asyncio.to_thread(sockets.identity, self._address)
        await self._server.listen(listener)
        logger.info("serving", extra={"address": self._address})

    async def drain(self, timeout: float) -> None:
        """Let running calls end, for ``timeout`` seconds at most, and stop."""
        await asyncio.to_thread(sockets.remove, self._address, self._socket)
        await self._server.drain(timeout)

    async def close(self) -> None:
        """Stop now."""
        await asyncio.to_thread(sockets.remove, self._address, self._socket)
        await self._server.close()


def server_methods(services: Iterable[Service]) -> dict[str, Mapping[str, ServerMethod]]:
    """The services, already inside their interceptors, as a ttrpc server takes them."""
    return {
        service.name: {name: _server_method(method) for name, method in service.methods.items()}
        for service in services
    }


def _server_method(method: Method) -> ServerMethod:
    handler = cast(Any, method.handler)
    streams_in = method.kind in {Kind.CLIENT_STREAM, Kind.BIDI_STREAM}

    async def request(payloads: AsyncIterator[bytes]) -> Any:
        if streams_in:
            return _decoded(payloads, method.request)
        return _decode(await anext(payloads), method.request)

    async def once(payloads: AsyncIterator[bytes], call: ServerCall) -> bytes:
        response = await handler(await request(payloads), _context(call))
        return cast(bytes, response.SerializeToString())

    async def many(payloads: AsyncIterator[bytes], call: ServerCall) -> AsyncGenerator[bytes, None]:
        async with aclosing(handler(await request(payloads), _context(call))) as responses:
            async for response in responses:
                yield response.SerializeToString()

    if method.kind in {Kind.UNARY, Kind.CLIENT_STREAM}:
        return ServerMethod(streams_in, once=once)
    return ServerMethod(streams_in, many=many)


async def _decoded(payloads: AsyncIterator[bytes], kind: type[Message]) -> AsyncIterator[Message]:
    async for payload in payloads:
        yield _decode(payload, kind)


def _decode(payload: bytes, kind: type[Message]) -> Message:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InternalError(f"ttrpc: error unmarshalling payload: {error}") from None


def _context(call: ServerCall) -> CallContext:
    return CallContext(
        method=f"/{call.service}/{call.method}",
        metadata=call.metadata,
        deadline=call.deadline,
        peer=call.peer,
    )
