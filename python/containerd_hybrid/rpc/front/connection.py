"""One connection: its calls as tasks, its output once a turn of the loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import Message

from containerd_hybrid._native import FrontConnection
from containerd_hybrid.errors import CODES, HybridError, ResourceExhaustedError
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.rpc.endpoints import STOPPING
from containerd_hybrid.rpc.front.inbox import Inbox, decompress
from containerd_hybrid.rpc.front.routes import Route

if TYPE_CHECKING:
    from containerd_hybrid.rpc.front.adaptor import FrontAdaptor

logger = logging.getLogger(__name__)

# The kinds of events; they and what follows each are told in _native.pyi.
_CALL, _UNKNOWN, _MESSAGE, _HALF_CLOSED, _RESET, _WRITABLE, _CLOSED = range(7)

_CODES = {name: number for number, name in enumerate(CODES)}
_CANCELLED, _INTERNAL = _CODES["CANCELLED"], _CODES["INTERNAL"]
_UNAVAILABLE, _UNIMPLEMENTED = _CODES["UNAVAILABLE"], _CODES["UNIMPLEMENTED"]
_WRITTEN_AT_ONCE = 256 << 10


class Connection(asyncio.BufferedProtocol):
    """Serves the calls of one peer."""

    __slots__ = (
        "_buffer",
        "_calls",
        "_flushing",
        "_front",
        "_held",
        "_inboxes",
        "_loop",
        "_paused",
        "_peer",
        "_routes",
        "_server",
        "_transport",
        "closed",
        "undone",
    )

    def __init__(self, server: FrontAdaptor, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._routes = server.table.routes
        self._front = FrontConnection(server.table.native, server.max_receive)
        self._buffer = server.buffer
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._calls: dict[int, tuple[asyncio.Task[None], Route]] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._held: dict[int, asyncio.Future[None]] = {}
        self._flushing = False
        self._paused = False
        self.undone: set[asyncio.Task[None]] = set()
        self.closed: asyncio.Future[None] = loop.create_future()

    # What the server uses

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Handlers that have not ended."""
        return [*(task for task, _ in self._calls.values()), *self.undone]

    def end_waiting(self) -> None:
        """Cancel the calls that only wait; their callers are told that the daemon stops."""
        for task, route in list(self._calls.values()):
            if route.waits:
                task.cancel()

    def drain(self) -> None:
        """Take no new calls, and close when there are none left."""
        self._front.drain()
        self._flush_soon()

    def abort(self) -> None:
        """Close now, whatever is not sent."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_WRITTEN_AT_ONCE)
        self._peer = _peer_name(self._transport)
        _keep_alive(self._transport)
        self._server.connections.add(self)
        if self._server.stopping:
            self._front.drain()
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        # One for all connections: what was read into it is used up before the next one reads.
        return self._server.view

    def buffer_updated(self, nbytes: int) -> None:
        events = self._front.feed(self._buffer, nbytes, self._loop.time())
        for event in events:
            self._handle(event)
        self._flush_soon()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._cancel_all()
        self._server.connections.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)

    # Events

    def _handle(self, event: tuple[Any, ...]) -> None:
        kind = event[0]
        if kind == _CALL:
            self._begin(*event[1:])
        elif kind == _MESSAGE:
            inbox = self._inboxes.get(event[1])
            if inbox is not None:
                inbox.put(event[2], event[3])
        elif kind == _HALF_CLOSED:
            inbox = self._inboxes.get(event[1])
            if inbox is not None:
                inbox.end()
        elif kind == _RESET:
            self._cancel(event[1])
        elif kind == _WRITABLE:
            held = self._held.pop(event[1], None)
            if held is not None and not held.done():
                held.set_result(None)
        elif kind == _UNKNOWN:
            self._front.finish(event[1], _UNIMPLEMENTED, self._server.table.unknown(event[2]))
        elif kind == _CLOSED:
            logger.debug("connection refused", extra={"peer": self._peer, "reason": event[1]})
            self._cancel_all()

    def _begin(
        self,
        stream: int,
        number: int,
        metadata: dict[str, str],
        timeout: float | None,
        payload: bytes | None,
        compressed: bool,
    ) -> None:
        route = self._routes[number]
        deadline = None if timeout is None else self._loop.time() + timeout
        call = CallContext(route.path, metadata, deadline, self._peer)
        request: Inbox | tuple[bytes, bool]
        if payload is None:
            request = self._inboxes[stream] = Inbox(
                lambda data, packed: self._decode(route, data, packed),
                lambda length: self._consumed(stream, length),
            )
        else:
            request = payload, compressed
        serve: Coroutine[Any, Any, None] = (
            self._serve_many(stream, route, request, call)
            if route.answers_many
            else self._serve_once(stream, route, request, call)
        )
        self._calls[stream] = self._loop.create_task(serve), route

    def _cancel(self, stream: int) -> None:
        """The peer has no more use for the call."""
        found = self._calls.pop(stream, None)
        if found is None:
            self._front.forget()
            return
        task = found[0]
        self._inboxes.pop(stream, None)
        self.undone.add(task)
        task.add_done_callback(self._forget)
        task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self.undone.discard(task)
        self._front.forget()

    def _cancel_all(self) -> None:
        for stream in list(self._calls):
            self._cancel(stream)

    # Calls

    async def _serve_once(
        self, stream: int, route: Route, request: Inbox | tuple[bytes, bool], call: CallContext
    ) -> None:
        try:
            asked = request if isinstance(request, Inbox) else self._decode(route, *request)
            message = self._encode(await route.handler(asked, call))
        except BaseException as error:
            self._failed(stream, route, call, error)
        else:
            self._front.respond(
                stream, message, _fields(call.response.initial), _fields(call.response.trailing)
            )
        self._ended(stream)

    async def _serve_many(
        self, stream: int, route: Route, request: Inbox | tuple[bytes, bool], call: CallContext
    ) -> None:
        try:
            asked = request if isinstance(request, Inbox) else self._decode(route, *request)
            async with aclosing(route.handler(asked, call)) as responses:
                async for response in responses:
                    message = self._encode(response)
                    full = self._front.send(stream, message, _fields(call.response.initial))
                    self._flush_soon()
                    if full:
                        await self._room(stream)
        except BaseException as error:
            self._failed(stream, route, call, error)
        else:
            initial, trailing = _fields(call.response.initial), _fields(call.response.trailing)
            self._front.finish(stream, 0, "", initial, trailing)
        self._ended(stream)

    def _failed(self, stream: int, route: Route, call: CallContext, error: BaseException) -> None:
        """Answer with the status of what a handler raised; a caller that has gone is not there to hear."""
        if isinstance(error, HybridError):
            code, message = _CODES[error.code], error.message
        elif isinstance(error, asyncio.CancelledError):
            code, message = _CANCELLED, "the call was cancelled"
            if self._server.stopping:
                code, message = _UNAVAILABLE, STOPPING
        elif isinstance(error, Exception):
            # The interceptors let no such thing out; without them, it is not for the caller to read.
            logger.error("handler failed", exc_info=error, extra={"method": route.path})
            code, message = _INTERNAL, f"{route.path} failed"
        else:
            raise error
        self._front.finish(stream, code, message, None, _fields(call.response.trailing))

    def _ended(self, stream: int) -> None:
        self._calls.pop(stream, None)
        self._inboxes.pop(stream, None)
        self._held.pop(stream, None)
        if self._calls:
            self._flush_soon()
        else:
            self._flush()

    def _decode(self, route: Route, payload: bytes, compressed: bool) -> Message:
        if compressed:
            payload = decompress(payload, self._server.max_receive)
        return route.decode(payload)

    def _encode(self, message: Message) -> bytes:
        data = message.SerializeToString()
        limit = self._server.max_send
        if len(data) > limit:
            raise ResourceExhaustedError(
                f"grpc: trying to send message larger than max ({len(data)} vs. {limit})"
            )
        return data

    async def _room(self, stream: int) -> None:
        """Wait until the peer has read what was sent on this stream."""
        held = self._held[stream] = self._loop.create_future()
        try:
            await held
        finally:
            self._held.pop(stream, None)

    def _consumed(self, stream: int, length: int) -> None:
        self._front.consumed(stream, length)
        self._flush_soon()

    # Output

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        front = self._front
        while not self._paused:
            data, events = front.output(_WRITTEN_AT_ONCE)
            for event in events:
                self._handle(event)
            if not data:
                break
            transport.write(data)
        if front.closed or (self._server.stopping and front.idle):
            transport.close()


def _fields(metadata: dict[str, str]) -> list[tuple[str, str]] | None:
    return list(metadata.items()) if metadata else None


def _peer_name(transport: asyncio.Transport) -> str:
    """Who is at the other end, for the log."""
    raw = transport.get_extra_info("socket")
    if raw is None:
        return ""
    if raw.family == socket.AF_UNIX:
        credentials = raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return f"unix:pid:{struct.unpack('3i', credentials)[0]}"
    host, port = transport.get_extra_info("peername")[:2]
    return f"{host}:{port}"


def _keep_alive(transport: asyncio.Transport) -> None:
    """Let the kernel find out, in hours, that a peer of another machine is no more (Go's servers ping)."""
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.family != socket.AF_UNIX:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
