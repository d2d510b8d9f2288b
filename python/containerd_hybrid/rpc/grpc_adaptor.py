"""Serves method tables over gRPC with grpc.aio, when configured; ``front`` is the default.

Nothing else on the serving side knows grpc.

Handlers see messages and a :class:`CallContext`; here bytes become messages, errors a status, and
the end of a caller the cancellation of its handler's task. Status texts for what is not there are
those of Go's server, which clients know.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, TypeAlias, cast

from google.protobuf.message import DecodeError, Message

from containerd_hybrid.errors import HybridError, InternalError, UnavailableError
from containerd_hybrid.rpc import sockets
from containerd_hybrid.rpc.api import CallContext, Kind, Method, Service
from containerd_hybrid.rpc.endpoints import STOPPING, WAITING, TcpEndpoint, UnixEndpoint, unknown_path

# What grpc's core writes to stderr on its own is not in our log's form, and says nothing new.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
import grpc

logger = logging.getLogger(__name__)

_ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behavior: TypeAlias = Callable[[Any, _ServicerContext], Awaitable[Any]]

_CODES = {code.name: code for code in grpc.StatusCode}


class GrpcAdaptor:
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
        self._calls = _Calls()
        self._router = _Router(services, self._calls)
        self._options = _options(max_receive, max_send)
        self._server: grpc.aio.Server | None = None
        self._socket: tuple[int, int] | None = None

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            FailedPreconditionError: another daemon listens on the socket.
            UnavailableError: the address cannot be listened on.
        """
        try:
            if isinstance(self._endpoint, UnixEndpoint):
                await self._serve_unix(self._endpoint)
            else:
                server = self._new_server()
                _add_tcp_port(server, self._endpoint)
                await server.start()
        except RuntimeError as error:  # all that grpc has to say about a port it cannot have
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
        if isinstance(self._endpoint, UnixEndpoint):
            await asyncio.to_thread(sockets.remove, self._endpoint.path, self._socket)
        await self._calls.end_waiting()
        await self._server.stop(timeout)
        # The server answered the callers that were left, but does not wait for their handlers.
        await self._calls.end_all()
        self._server = None

    async def close(self) -> None:
        """Stop now."""
        await self.drain(0)

    async def _serve_unix(self, endpoint: UnixEndpoint) -> None:
        temporary = await asyncio.to_thread(sockets.prepare, endpoint.path, endpoint.owner)
        server = self._new_server()
        server.add_insecure_port(f"unix:{temporary}")
        await server.start()
        self._socket = await asyncio.to_thread(sockets.publish, temporary, endpoint.path, endpoint.owner)

    def _new_server(self) -> grpc.aio.Server:
        self._server = grpc.aio.server(options=self._options)
        self._server.add_generic_rpc_handlers((self._router,))
        return self._server


def _add_tcp_port(server: grpc.aio.Server, endpoint: TcpEndpoint) -> None:
    if not endpoint.certificate:
        server.add_insecure_port(endpoint.address)
        return
    credentials = grpc.ssl_server_credentials(
        [(endpoint.key, endpoint.certificate)],
        root_certificates=endpoint.ca or None,
        require_client_auth=bool(endpoint.ca),
    )
    server.add_secure_port(endpoint.address, credentials)


def _options(max_receive: int, max_send: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_receive),
        ("grpc.max_send_message_length", max_send),
        ("grpc.so_reuseport", 0),
        # Go clients ping as they like; by default the core hangs up on those that ping often.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class _Calls:
    """The calls in progress, so that a drain can tell those that wait from those that work."""

    def __init__(self) -> None:
        self._methods: dict[asyncio.Task[Any], str] = {}
        self._draining = False

    async def end_waiting(self) -> None:
        """End them and let their statuses be sent, which a server that stops may not wait for."""
        self._draining = True
        await _end([task for task, method in self._methods.items() if method in WAITING])

    async def end_all(self) -> None:
        """Cancel what is left and wait until it is undone."""
        await _end(list(self._methods))

    async def run(self, method: str, work: Awaitable[Any]) -> Any:
        """Await ``work``, which fails with UnavailableError when a drain ends it."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._methods[task] = method
        task.add_done_callback(self._methods.pop)
        try:
            return await work
        except asyncio.CancelledError:
            if not self._draining or method not in WAITING:
                raise
            task.uncancel()
            raise UnavailableError(STOPPING) from None


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


class _Router(grpc.GenericRpcHandler):  # type: ignore[type-arg] # not generic at run time
    """Finds the handler of a call by its path."""

    def __init__(self, services: Iterable[Service], calls: _Calls) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._services: set[str] = set()
        for service in services:
            self._services.add(service.name)
            for method in service.methods.values():
                path = f"/{service.name}/{method.name}"
                self._handlers[path] = _rpc_handler(path, method, calls)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any]:
        path: str = handler_call_details.method
        return self._handlers.get(path) or self._unknown(path)

    def _unknown(self, path: str) -> grpc.RpcMethodHandler[Any, Any]:
        message = unknown_path(path, self._services)

        async def refuse(_request: Any, context: _ServicerContext) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _rpc_handler(path: str, method: Method, calls: _Calls) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler over bytes: that a message cannot be decoded is then for us to say."""
    adapt = {
        Kind.UNARY: (grpc.unary_unary_rpc_method_handler, _once),
        Kind.SERVER_STREAM: (grpc.unary_stream_rpc_method_handler, _many),
        Kind.CLIENT_STREAM: (grpc.stream_unary_rpc_method_handler, _once),
        Kind.BIDI_STREAM: (grpc.stream_stream_rpc_method_handler, _many),
    }
    make, behavior = adapt[method.kind]
    return make(behavior(path, method, calls))


def _once(path: str, method: Method, calls: _Calls) -> Behavior:
    handler = cast(Any, method.handler)
    decode = _decoder(method)

    async def behavior(request: Any, context: _ServicerContext) -> Any:
        call = _context(path, context)
        try:
            response = await calls.run(path, handler(decode(request), call))
        except HybridError as error:
            return await _abort(context, call, error)
        await _send_initial(context, call)
        _set_trailing(context, call)
        return response.SerializeToString()

    return behavior


def _many(path: str, method: Method, calls: _Calls) -> Behavior:
    handler = cast(Any, method.handler)
    decode = _decoder(method)

    async def behavior(request: Any, context: _ServicerContext) -> None:
        call = _context(path, context)
        try:
            await calls.run(path, _write_all(handler(decode(request), call), context, call))
        except HybridError as error:
            await _abort(context, call, error)
        _set_trailing(context, call)

    return behavior


async def _write_all(
    responses: AsyncGenerator[Message, None], context: _ServicerContext, call: CallContext
) -> None:
    started = False
    async with aclosing(responses) as messages:
        async for message in messages:
            if not started:
                started = True
                await _send_initial(context, call)
            await context.write(message.SerializeToString())
    if not started:
        await _send_initial(context, call)


async def _send_initial(context: _ServicerContext, call: CallContext) -> None:
    if call.response.initial:
        await context.send_initial_metadata(tuple(call.response.initial.items()))


def _set_trailing(context: _ServicerContext, call: CallContext) -> None:
    if call.response.trailing:
        context.set_trailing_metadata(tuple(call.response.trailing.items()))


async def _abort(context: _ServicerContext, call: CallContext, error: HybridError) -> Any:
    await context.abort(_CODES[error.code], error.message, tuple(call.response.trailing.items()))


def _context(path: str, context: _ServicerContext) -> CallContext:
    metadata: dict[str, str] = {}
    for key, value in cast(Iterable[tuple[str, Any]], context.invocation_metadata()):
        if isinstance(value, str):  # those of *-bin are bytes
            metadata.setdefault(key, value)
    remaining = cast("float | None", context.time_remaining())
    deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
    return CallContext(method=path, metadata=metadata, deadline=deadline, peer=context.peer())


def _decoder(method: Method) -> Callable[[Any], Any]:
    kind = method.request

    def decode(payload: bytes) -> Message:
        try:
            return kind.FromString(payload)
        except DecodeError as error:
            raise InternalError(f"grpc: error unmarshalling request: {error}") from None

    async def decode_all(payloads: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for payload in payloads:
            yield decode(payload)

    return decode_all if method.kind in {Kind.CLIENT_STREAM, Kind.BIDI_STREAM} else decode
