"""Calls over gRPC to a daemon's socket: ours, or any containerd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from containerd_hybrid.errors import HybridError, UnavailableError, error_for_code

M = TypeVar("M", bound=Message)

_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    # Host names of Unix sockets make some servers refuse the call; containerd's client sends this too.
    ("grpc.default_authority", "localhost"),
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcTransport:
    """See :class:`containerd_hybrid.client.api.Transport`. Made inside a running event loop."""

    def __init__(self, address: str) -> None:
        """``address`` is the path of a Unix socket."""
        self._address = address
        self._channel = grpc.aio.insecure_channel(f"unix:{address}", options=_OPTIONS)

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
        try:
            answer: M = await call(request, metadata=tuple(metadata.items()), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            self._fail(error)
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
        call = self._channel.stream_stream(
            f"/{service}/{method}",
            request_serializer=_serialize,
            response_deserializer=response.FromString,
        )(requests, metadata=tuple(metadata.items()))
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            self._fail(error)
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channel.close(None)

    def _fail(self, error: grpc.aio.AioRpcError) -> NoReturn:
        details = error.details() or ""
        mapped: HybridError = error_for_code(error.code().name, details)
        if isinstance(mapped, UnavailableError) and "connect" in details:
            mapped = UnavailableError(
                f"no daemon answers at {self._address}: start one (containerd-hybrid) or name another socket"
            )
        raise mapped from None


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
