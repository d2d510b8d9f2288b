"""A transport whose failures say which proxy plug-in and which address they are of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

from google.protobuf.message import Message

from containerd_hybrid.client.api import Transport
from containerd_hybrid.errors import UnavailableError

M = TypeVar("M", bound=Message)


class NamedTransport:
    """A :class:`~containerd_hybrid.client.api.Transport` over another."""

    def __init__(self, name: str, address: str, transport: Transport) -> None:
        self._name = name
        self._address = address
        self._transport = transport

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
        try:
            return await self._transport.unary(
                service, method, request, response, metadata=metadata, timeout=timeout
            )
        except UnavailableError as error:
            raise self._named(error) from error

    async def server_stream(
        self, service: str, method: str, request: Message, response: type[M], *, metadata: Mapping[str, str]
    ) -> AsyncIterator[M]:
        try:
            async for message in self._transport.server_stream(
                service, method, request, response, metadata=metadata
            ):
                yield message
        except UnavailableError as error:
            raise self._named(error) from error

    async def bidi_stream(
        self,
        service: str,
        method: str,
        requests: AsyncIterator[Message],
        response: type[M],
        *,
        metadata: Mapping[str, str],
    ) -> AsyncIterator[M]:
        try:
            async for message in self._transport.bidi_stream(
                service, method, requests, response, metadata=metadata
            ):
                yield message
        except UnavailableError as error:
            raise self._named(error) from error

    async def close(self) -> None:
        await self._transport.close()

    def _named(self, error: UnavailableError) -> UnavailableError:
        return UnavailableError(f"proxy plugin {self._name} at {self._address}: {error.message}")
