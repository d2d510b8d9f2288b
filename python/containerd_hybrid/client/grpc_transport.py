"""Calls over gRPC to a daemon's socket: ours, or any containerd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from containerd_hybrid.errors import (
    HybridError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnavailableError,
    error_for_code,
)

M = TypeVar("M", bound=Message)

_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    # A daemon that was started anew is found at once, not when an ever longer pause is over.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
# Host names of Unix sockets make some servers refuse the call; containerd's client sends this too.
_UNIX_OPTIONS = [*_OPTIONS, ("grpc.default_authority", "localhost")]


_TCP = "tcp://"
# A daemon that was there a moment ago is being started anew, or gRPC has not looked for it again yet.
_RECONNECT_SECONDS = 1.0
_RETRY_SECONDS = 0.1
# What grpc.aio says when a write failed before the status arrived, which it then does not tell any more.
_LOST_STATUS = "Internal error from Core"
# ... and when the connection ends under an answer that has begun.
_BROKEN = "Stream removed"
_BidiCall: TypeAlias = grpc.aio.StreamStreamCall[Any, Any]


class GrpcTransport:
    """See :class:`containerd_hybrid.client.api.Transport`. Made inside a running event loop."""

    def __init__(self, address: str, tls: tuple[bytes, bytes, bytes] | None = None) -> None:
        """``address`` is the path of a Unix socket, with ``unix://`` before it or not, or ``tcp://host:port``.

        ``tls`` has authority, certificate and key as PEM, which TCP cannot do without.

        Raises:
            InvalidArgumentError: TCP without TLS, or TLS without TCP.
        """
        self._address = address.removeprefix("unix://")
        self._was_connected = False
        self._over_tls = tls is not None
        if self._over_tls != address.startswith(_TCP):
            raise InvalidArgumentError(
                f"{address} cannot be used: an address that begins with {_TCP} needs an authority, a "
                "certificate and a key, and no other takes them"
            )
        if tls is None:
            self._channel = grpc.aio.insecure_channel(f"unix:{self._address}", options=_UNIX_OPTIONS)
        else:
            authority, certificate, key = tls
            credentials = grpc.ssl_channel_credentials(authority, key, certificate)
            target = f"dns:{address.removeprefix(_TCP)}"
            self._channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)

    async def unary(
        self,
        service: str,
        method: str,
        request: Message,
        response: type[M],
        *,
        metadata: Mapping[str, str],
        timeout: float | None = None,
    ) -> M:
        call = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        give_up = asyncio.get_running_loop().time() + _RECONNECT_SECONDS
        while True:
            try:
                answer: M = await call(request, metadata=tuple(metadata.items()), timeout=timeout)
            except grpc.aio.AioRpcError as error:
                if not self._was_connected or not _was_not_sent(error):
                    self._fail(error)
                if asyncio.get_running_loop().time() > give_up:
                    self._fail(error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._was_connected = True
                return answer

    async def server_stream(
        self, service: str, method: str, request: Message, response: type[M], *, metadata: Mapping[str, str]
    ) -> AsyncIterator[M]:
        call = self._channel.unary_stream(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )(request, metadata=tuple(metadata.items()))
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            self._fail(error)
        finally:
            call.cancel()

    async def bidi_stream(
        self,
        service: str,
        method: str,
        requests: AsyncIterator[Message],
        response: type[M],
        *,
        metadata: Mapping[str, str],
    ) -> AsyncIterator[M]:
        # Requests are written by a task of ours: the library's own consumer of an iterator is not
        # ended with the call, and leaves the iterator running.
        begin: Any = self._channel.stream_stream(
            f"/{service}/{method}",
            request_serializer=_serialize,
            response_deserializer=response.FromString,
        )
        call: _BidiCall = begin(metadata=tuple(metadata.items()))
        writer = asyncio.ensure_future(_write(call, requests))
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            self._fail(error)
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.wait({writer})

    async def close(self) -> None:
        await self._channel.close(None)

    def _fail(self, error: grpc.aio.AioRpcError) -> NoReturn:
        details = error.details() or ""
        mapped: HybridError = error_for_code(error.code().name, details)
        if details == _LOST_STATUS:
            mapped = UnavailableError("the daemon ended the call while it was written to")
        elif _was_not_sent(error):
            mapped = self._no_connection(details)
        elif error.code() is grpc.StatusCode.UNKNOWN and details.startswith(_BROKEN):
            mapped = UnavailableError(f"the connection to the daemon at {self._address} broke: {details}")
        raise mapped from None

    def _no_connection(self, details: str) -> HybridError:
        if "Permission denied" in details:
            return PermissionDeniedError(
                f"{self._address} may not be used by this user: be root, or of the socket's group"
            )
        if self._over_tls:
            return UnavailableError(
                f"no daemon answers at {self._address}, or one side does not trust the other: see the "
                f"address, the authority, and whose certificate this is ({details})"
            )
        return UnavailableError(
            f"no daemon answers at {self._address}: start one (containerd-hybrid) or name another socket"
        )


def _was_not_sent(error: grpc.aio.AioRpcError) -> bool:
    """No connection came about, so the daemon knows nothing of the call."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and "connect" in (error.details() or "")


async def _write(call: _BidiCall, requests: AsyncIterator[Message]) -> None:
    try:
        async for request in requests:
            await call.write(request)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the call has ended; its reader tells how
    except Exception:
        call.cancel()
        raise


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
