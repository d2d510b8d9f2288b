"""What every call of the library carries: the namespace, and a lease while one is held."""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from containerd_hybrid.client.api import Transport
from containerd_hybrid.errors import HybridError, NotFoundError
from containerd_hybrid.leases.api import EXPIRE_LABEL
from containerd_hybrid.proto.services.leases.v1 import leases_pb2

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def fresh_name(length: int) -> str:
    """``2 * length`` hex digits that nobody else has. (`secrets` would load much of OpenSSL for them.)"""
    return os.urandom(length).hex()


_LEASES = leases_pb2.DESCRIPTOR.services_by_name["Leases"]


@dataclass(frozen=True, slots=True)
class Calls:
    """A transport with the headers of a namespace and, inside :meth:`leased`, of a lease."""

    transport: Transport
    namespace: str
    lease: str | None = None

    @property
    def _metadata(self) -> dict[str, str]:
        headers = {"containerd-namespace": self.namespace}
        if self.lease is not None:
            headers["containerd-lease"] = self.lease
        return headers

    async def unary(
        self,
        service: ServiceDescriptor,
        method: str,
        request: Message,
        response: type[M],
        *,
        timeout: float | None = None,
    ) -> M:
        """One message there, one back. ``timeout`` is in seconds."""
        return await self.transport.unary(
            service.full_name, method, request, response, metadata=self._metadata, timeout=timeout
        )

    def server_stream(
        self, service: ServiceDescriptor, method: str, request: Message, response: type[M]
    ) -> AsyncIterator[M]:
        return self.transport.server_stream(
            service.full_name, method, request, response, metadata=self._metadata
        )

    @asynccontextmanager
    async def streaming(
        self, service: ServiceDescriptor, method: str, request: Message, response: type[M]
    ) -> AsyncIterator[AsyncIterator[M]]:
        """The messages of :meth:`server_stream`; the call ends with the block, whoever leaves it how."""
        messages = self.server_stream(service, method, request, response)
        try:
            yield messages
        finally:
            if isinstance(messages, AsyncGenerator):
                await messages.aclose()

    def bidi_stream(
        self, service: ServiceDescriptor, method: str, requests: AsyncIterator[Message], response: type[M]
    ) -> AsyncIterator[M]:
        return self.transport.bidi_stream(
            service.full_name, method, requests, response, metadata=self._metadata
        )

    @asynccontextmanager
    async def leased(self, hours: float = 24) -> AsyncIterator[Calls]:
        """Calls whose creations the collector leaves alone until the block ends (or the hours are over)."""
        expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
        lease = f"client-{fresh_name(8)}"
        create = leases_pb2.CreateRequest(
            id=lease, labels={EXPIRE_LABEL: expiry.strftime("%Y-%m-%dT%H:%M:%SZ")}
        )
        try:
            # Inside, because who is cancelled while it waits may have a lease all the same.
            await self.unary(_LEASES, "Create", create, leases_pb2.CreateResponse)
            yield replace(self, lease=lease)
        finally:
            with suppress(NotFoundError):
                await to_the_end(self.unary(_LEASES, "Delete", leases_pb2.DeleteRequest(id=lease), Empty))


async def to_the_end(step: Coroutine[Any, Any, T], undo: Callable[[], Awaitable[object]] | None = None) -> T:
    """Wait for a call to end even when cancelled, and ``undo`` what it made in that case.

    The cancellation comes out when that is done.
    """
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as error:
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None and undo is not None:
            await undone(error, undo())
        raise


async def undone(error: BaseException, clean_up: Awaitable[object]) -> None:
    """Clean up after an error. A failure of that must not hide the error that made it necessary."""
    try:
        await clean_up
    except HybridError as further:
        error.add_note(f"it could not be cleaned up either: {further}")
