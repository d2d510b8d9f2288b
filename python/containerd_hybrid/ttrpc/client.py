"""The calling side of ttrpc: unary calls and streams that share one connection.

Stream ids are odd and must reach the server in increasing order, so an id is taken and its request
written without a suspension in between. ttrpc cannot tell a server that a call was given up: its
response is dropped when it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from google.protobuf.message import DecodeError

from containerd_hybrid.errors import (
    DeadlineExceededError,
    HybridError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
    code_name,
    error_for_code,
)
from containerd_hybrid.proto.ttrpc import ttrpc_pb2 as pb
from containerd_hybrid.ttrpc.connection import Connection, Inbox, check_length
from containerd_hybrid.ttrpc.frame import MAX_DATA_LENGTH, Decoded, Flag, MessageType, OversizedFrame

_LAST_STREAM_ID = (1 << 32) - 1


async def connect(address: str, *, timeout: float | None = 5.0) -> Client:
    """Connect to a server's socket: a path, or ``unix://`` and a path; ``@name`` is an abstract one.

    Raises:
        InvalidArgumentError: not such an address.
        UnavailableError: nobody listens there, or not within ``timeout`` seconds.
    """
    path = socket_path(address)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_unix_connection(_ClientConnection, path)
    except TimeoutError:
        raise UnavailableError(f"ttrpc {address}: no answer in {timeout} s") from None
    except OSError as error:
        raise UnavailableError(f"ttrpc {address}: {(error.strerror or str(error)).lower()}") from error
    return Client(connection)


def socket_path(address: str) -> str:
    """The path to give to the socket layer, which wants a NUL where people write ``@``."""
    path = address.removeprefix("unix://")
    if not path or "://" in path:
        raise InvalidArgumentError(f"invalid ttrpc address {address!r}: expected unix://PATH or a path")
    return "\0" + path[1:] if path.startswith("@") else path


class Client:
    """One connection; satisfies ``ttrpc.api.TtrpcClient``."""

    def __init__(self, connection: _ClientConnection) -> None:
        self._connection = connection

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """Call a unary method; see :class:`containerd_hybrid.ttrpc.api.TtrpcClient`."""
        connection = self._connection
        await connection.drained()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        request = _request(service, method, payload, timeout, metadata)
        stream_id = connection.begin(request, 0, _UnaryReceiver(answer))
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise DeadlineExceededError(f"ttrpc {service}/{method}: no answer in {timeout} s") from None
        finally:
            connection.forget(stream_id)

    async def open_stream(
        self,
        service: str,
        method: str,
        payload: bytes | None = None,
        *,
        client_stream: bool = False,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ClientStream:
        """Begin a streaming call. Close the stream when it is of no more use.

        Without ``client_stream`` the ``payload`` is the only message of ours. ``timeout`` is told to
        the server, which enforces it.

        Raises:
            UnavailableError: the connection is gone.
        """
        await self._connection.drained()
        request = _request(service, method, payload or b"", timeout, metadata)
        inbox = Inbox(self._connection)
        flags = Flag.REMOTE_OPEN if client_stream else Flag.REMOTE_CLOSED
        stream_id = self._connection.begin(request, flags, _StreamReceiver(inbox))
        return ClientStream(self._connection, stream_id, inbox, open=client_stream)

    async def wait_closed(self) -> None:
        """Return when the connection has ended."""
        await self._connection.wait_closed()

    async def close(self) -> None:
        """End the connection; calls in progress get UnavailableError."""
        await self._connection.shut("closed")


class ClientStream:
    """A streaming call in progress. Iterate over it for the server's messages."""

    def __init__(self, connection: _ClientConnection, stream_id: int, inbox: Inbox, *, open: bool) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._inbox = inbox
        self._open = open

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the server does not read.

        Raises:
            InvalidArgumentError: the stream takes no (more) messages of ours.
            UnavailableError: the connection is gone.
        """
        if not self._open:
            raise InvalidArgumentError("ttrpc: the stream is closed for sending")
        self._connection.send(self._stream_id, MessageType.DATA, 0, message)
        await self._connection.drained()

    async def close_send(self) -> None:
        """Tell the server that we send no more."""
        if self._open:
            self._open = False
            flags = Flag.REMOTE_CLOSED | Flag.NO_DATA
            self._connection.send(self._stream_id, MessageType.DATA, flags, b"")

    async def receive(self) -> bytes | None:
        """The server's next message, None after the last; raises its error as a HybridError."""
        return await self._inbox.get()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[bytes]:
        while (message := await self.receive()) is not None:
            yield message

    async def close(self) -> None:
        """Forget the stream. What the server still sends on it is dropped."""
        with contextlib.suppress(UnavailableError):
            await self.close_send()
        self._connection.forget(self._stream_id)
        self._inbox.end()
        self._inbox.discard()


class _UnaryReceiver:
    """Completes a future with the one response of a call."""

    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer

    def response(self, payload: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result(payload)

    def data(self, payload: bytes, flags: int) -> bool:
        self.failed(InternalError("ttrpc: the server answered a unary call with stream data"))
        return True

    def failed(self, error: HybridError) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)


class _StreamReceiver:
    """Puts what arrives on a stream into its inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def response(self, payload: bytes) -> None:
        self._inbox.put(payload)
        self._inbox.end()

    def data(self, payload: bytes, flags: int) -> bool:
        if not flags & Flag.NO_DATA:
            self._inbox.put(payload)
        if flags & Flag.REMOTE_CLOSED:
            self._inbox.end()
            return True
        return False

    def failed(self, error: HybridError) -> None:
        self._inbox.fail(error)


class _ClientConnection(Connection):
    def __init__(self) -> None:
        super().__init__()
        self._receivers: dict[int, _UnaryReceiver | _StreamReceiver] = {}
        self._next_id = 1

    def begin(self, request: pb.Request, flags: int, receiver: _UnaryReceiver | _StreamReceiver) -> int:
        """Send a request on a fresh stream and have ``receiver`` told what comes back."""
        data = request.SerializeToString()
        check_length(data)
        stream_id = self._next_id
        if stream_id > _LAST_STREAM_ID:
            raise UnavailableError("ttrpc: the connection has no stream ids left: connect anew")
        self.send(stream_id, MessageType.REQUEST, flags, data)
        self._next_id += 2
        self._receivers[stream_id] = receiver
        return stream_id

    def forget(self, stream_id: int) -> None:
        self._receivers.pop(stream_id, None)

    def frame_received(self, frame: Decoded) -> None:
        receiver = self._receivers.get(frame.stream_id)
        if receiver is None:
            return  # the answer to a call that was given up
        if isinstance(frame, OversizedFrame):
            self.forget(frame.stream_id)
            receiver.failed(
                error_for_code(
                    "RESOURCE_EXHAUSTED",
                    f"message length {frame.length} exceed maximum message size of {MAX_DATA_LENGTH}",
                )
            )
        elif frame.type == MessageType.RESPONSE:
            self.forget(frame.stream_id)
            _respond(frame.data, receiver.response, receiver.failed)
        elif frame.type == MessageType.DATA and receiver.data(frame.data, frame.flags):
            self.forget(frame.stream_id)

    def connection_ended(self, reason: str) -> None:
        receivers, self._receivers = self._receivers, {}
        for receiver in receivers.values():
            receiver.failed(UnavailableError(f"ttrpc: {reason}"))


def _respond(data: bytes, ok: Callable[[bytes], None], failed: Callable[[HybridError], None]) -> None:
    try:
        response = pb.Response.FromString(data)
    except DecodeError as error:
        failed(InternalError(f"ttrpc: malformed response: {error}"))
        return
    if response.status.code:
        failed(error_for_code(code_name(response.status.code), response.status.message))
    else:
        ok(response.payload)


def _request(
    service: str, method: str, payload: bytes, timeout: float | None, metadata: Mapping[str, str] | None
) -> pb.Request:
    return pb.Request(
        service=service,
        method=method,
        payload=payload,
        # Zero means none, so a timeout that has passed already becomes the shortest one.
        timeout_nano=0 if timeout is None else max(1, int(timeout * 1e9)),
        metadata=[pb.KeyValue(key=key, value=value) for key, value in (metadata or {}).items()],
    )
