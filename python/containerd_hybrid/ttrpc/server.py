"""The serving side of ttrpc: bytes in, bytes out; what a method means is its handler's business.

Each call is a task of its own. When its connection ends, the task is cancelled. Deadlines are handed
to the handler and not enforced here, because the layer above has an interceptor for them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from containerd_hybrid.errors import (
    CODES,
    HybridError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from containerd_hybrid.proto.ttrpc import ttrpc_pb2 as pb
from containerd_hybrid.ttrpc.api import ServerCall, ServerMethod
from containerd_hybrid.ttrpc.connection import Connection, Inbox, check_length
from containerd_hybrid.ttrpc.frame import (
    MAX_DATA_LENGTH,
    Decoded,
    Flag,
    Frame,
    MessageType,
    OversizedFrame,
)

logger = logging.getLogger(__name__)


_FLUSH = 1.0


class Server:
    """Serves ``services`` (by full name, then method name) on any number of sockets.

    With ``same_user_only``, a peer that runs as another user or group is turned away, as containerd
    does on its ttrpc socket.
    """

    def __init__(
        self, services: Mapping[str, Mapping[str, ServerMethod]], *, same_user_only: bool = True
    ) -> None:
        self._services = services
        self._same_user_only = same_user_only
        self._listeners: list[asyncio.Server] = []
        self._connections: set[_ServerConnection] = set()

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections on a bound Unix socket, which the server then owns."""
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_unix_server(self._connection, sock=listener))

    async def drain(self, timeout: float) -> None:
        """Take no new connections and calls; let running calls end, for ``timeout`` seconds at most."""
        self._stop_listening()
        for connection in self._connections:
            connection.refuse_new_calls()
        calls = [task for connection in self._connections for task in connection.tasks]
        if calls:
            await asyncio.wait(calls, timeout=timeout)
        await self.close()

    async def close(self) -> None:
        """End everything now."""
        self._stop_listening()
        connections = list(self._connections)
        for connection in connections:
            connection.close("the server is stopping")
        for connection in connections:
            await connection.shut("the server is stopping", flush=_FLUSH)
            await asyncio.gather(*connection.tasks, return_exceptions=True)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _connection(self) -> _ServerConnection:
        return _ServerConnection(self._services, self._connections, same_user_only=self._same_user_only)


class _ServerConnection(Connection):
    def __init__(
        self,
        services: Mapping[str, Mapping[str, ServerMethod]],
        connections: set[_ServerConnection],
        *,
        same_user_only: bool,
    ) -> None:
        super().__init__()
        self._services = services
        self._connections = connections
        self._same_user_only = same_user_only
        self._last_id = 0
        self._inboxes: dict[int, Inbox] = {}
        self._refusing = False
        self._peer_name = ""
        self.tasks: set[asyncio.Task[None]] = set()

    def refuse_new_calls(self) -> None:
        """Answer requests from now on with UNAVAILABLE."""
        self._refusing = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.add(self)
        peer = self.peer()
        self._peer_name = str(peer or "")
        if self._same_user_only and (peer is None or not peer.is_same_user):
            logger.warning("ttrpc peer refused: another user", extra={"peer": self._peer_name})
            self.close("the peer runs as another user")

    def connection_ended(self, reason: str) -> None:
        self._connections.discard(self)
        for task in self.tasks:
            task.cancel()

    def frame_received(self, frame: Decoded) -> None:
        try:
            if isinstance(frame, OversizedFrame):
                raise ResourceExhaustedError(
                    f"message length {frame.length} exceed maximum message size of {MAX_DATA_LENGTH}"
                )
            if frame.stream_id % 2 != 1:
                raise InvalidArgumentError("StreamID must be odd for client initiated streams")
            if frame.type == MessageType.DATA:
                self._data_received(frame)
            elif frame.type == MessageType.REQUEST:
                self._request_received(frame)
        except HybridError as error:
            self._send_response(frame.stream_id, error=error)

    def _data_received(self, frame: Frame) -> None:
        inbox = self._inboxes.get(frame.stream_id)
        if inbox is None:
            raise InvalidArgumentError("StreamID is no longer active")
        if not frame.flags & Flag.NO_DATA:
            inbox.put(frame.data)
        if frame.flags & Flag.REMOTE_CLOSED:
            inbox.end()

    def _request_received(self, frame: Frame) -> None:
        if frame.stream_id <= self._last_id:
            raise InvalidArgumentError("StreamID cannot be re-used and must increment")
        self._last_id = frame.stream_id
        if self._refusing:
            raise UnavailableError("the daemon is stopping")
        try:
            request = pb.Request.FromString(frame.data)
        except DecodeError as error:
            raise InvalidArgumentError(f"unmarshal request error: {error}") from None
        method = self._find(request)
        if method.client_stream:
            requests = _messages(self._open_inbox(frame, request))
        else:
            requests = _one(request.payload)
        task = asyncio.create_task(self._serve(frame.stream_id, method, requests, self._call(request)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _open_inbox(self, frame: Frame, request: pb.Request) -> Inbox:
        inbox = self._inboxes[frame.stream_id] = Inbox(self)
        if request.payload:
            inbox.put(request.payload)  # a client may put its first message into the request
        if frame.flags & Flag.REMOTE_CLOSED:
            inbox.end()
        return inbox

    def _find(self, request: pb.Request) -> ServerMethod:
        service = self._services.get(request.service)
        if service is None:
            raise UnimplementedError(f"service {request.service}")
        method = service.get(request.method)
        if method is None:
            raise UnimplementedError(f"method {request.method}")
        return method

    def _call(self, request: pb.Request) -> ServerCall:
        metadata: dict[str, str] = {}
        for pair in request.metadata:
            metadata.setdefault(pair.key.lower(), pair.value)
        deadline = None
        if request.timeout_nano > 0:
            deadline = asyncio.get_running_loop().time() + request.timeout_nano / 1e9
        return ServerCall(request.service, request.method, metadata, deadline, self._peer_name)

    async def _serve(
        self, stream_id: int, method: ServerMethod, requests: AsyncIterator[bytes], call: ServerCall
    ) -> None:
        try:
            if method.once is not None:
                self._send_response(stream_id, payload=await method.once(requests, call))
            elif method.many is not None:
                await self._send_stream(stream_id, method.many(requests, call))
        except HybridError as error:
            self._send_response(stream_id, error=error)
        except Exception:
            logger.exception("ttrpc handler failed", extra={"method": f"{call.service}/{call.method}"})
            self._send_response(stream_id, error=InternalError(f"{call.service}/{call.method} failed"))
        finally:
            inbox = self._inboxes.pop(stream_id, None)
            if inbox is not None:
                inbox.end()
                inbox.discard()
        await self.drained()

    async def _send_stream(self, stream_id: int, messages: AsyncGenerator[bytes, None]) -> None:
        async with aclosing(messages):
            async for message in messages:
                self.send(stream_id, MessageType.DATA, 0, message)
                await self.drained()
        self.send(stream_id, MessageType.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA, b"")

    def _send_response(
        self, stream_id: int, *, payload: bytes = b"", error: HybridError | None = None
    ) -> None:
        response = pb.Response(payload=payload)
        if error is not None:
            response.status.CopyFrom(_status(error))
        data = response.SerializeToString()
        try:
            check_length(data)
        except ResourceExhaustedError as oversized:
            data = pb.Response(status=_status(oversized)).SerializeToString()
        try:
            self.send(stream_id, MessageType.RESPONSE, 0, data)
        except UnavailableError:
            return  # the caller has gone


async def _messages(inbox: Inbox) -> AsyncIterator[bytes]:
    while (message := await inbox.get()) is not None:
        yield message


async def _one(message: bytes) -> AsyncIterator[bytes]:
    yield message


def _status(error: HybridError) -> status_pb2.Status:
    return status_pb2.Status(code=CODES.index(error.code), message=error.message)
