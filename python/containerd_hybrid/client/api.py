"""The way from the library to the services: over a socket, or straight into the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class Transport(Protocol):
    """Calls methods by full service name. Errors are those of ``containerd_hybrid.errors``."""

    async def unary(
        self,
        service: str,
        method: str,
        request: Message,
        response: type[M],
        *,
        metadata: Mapping[str, str],
        timeout: float | None = None,
    ) -> M: ...

    def server_stream(
        self, service: str, method: str, request: Message, response: type[M], *, metadata: Mapping[str, str]
    ) -> AsyncIterator[M]: ...

    def bidi_stream(
        self,
        service: str,
        method: str,
        requests: AsyncIterator[Message],
        response: type[M],
        *,
        metadata: Mapping[str, str],
    ) -> AsyncIterator[M]: ...

    async def close(self) -> None: ...
