"""The library's face: one object a namespace."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.client.api import Transport
from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.containers import AsyncContainers
from containerd_hybrid.client.events import Event, event_from_wire, in_namespace
from containerd_hybrid.client.images import AsyncImages
from containerd_hybrid.mounts.api import Mounter
from containerd_hybrid.proto.services.events.v1 import events_pb2
from containerd_hybrid.proto.services.version.v1 import version_pb2
from containerd_hybrid.proto.types import event_pb2

_EVENTS = events_pb2.DESCRIPTOR.services_by_name["Events"]
_VERSION = version_pb2.DESCRIPTOR.services_by_name["Version"]


class AsyncClient:
    """Images and containers of one namespace, over any transport.

    Made by :func:`containerd_hybrid.connect` (a daemon) or :func:`containerd_hybrid.open` (no daemon);
    used as ``async with``.
    """

    namespace: str
    images: AsyncImages
    containers: AsyncContainers

    def __init__(self, transport: Transport, mounter: Mounter, namespace: str = "default") -> None:
        self._transport = transport
        self._calls = Calls(transport, namespace)
        self.namespace = namespace
        self.images = AsyncImages(self._calls)
        self.containers = AsyncContainers(self._calls, self.images, mounter)

    async def version(self) -> str:
        """The version the daemon tells its clients."""
        answer = await self._calls.unary(_VERSION, "Version", Empty(), version_pb2.VersionResponse)
        return answer.version

    async def events(self, filters: Sequence[str] = ()) -> AsyncIterator[Event]:
        """What happens in this namespace from now on, without end.

        Only that for which one of the ``filters`` holds, such as ``topic~="^/tasks/"``, if there are any.
        """
        request = events_pb2.SubscribeRequest(filters=in_namespace(self.namespace, filters))
        messages = self._calls.server_stream(_EVENTS, "Subscribe", request, event_pb2.Envelope)
        try:
            async for envelope in messages:
                yield event_from_wire(envelope)
        finally:
            if isinstance(messages, AsyncGenerator):
                await messages.aclose()

    async def close(self) -> None:
        """Close the transport. Containers run on, except those of a runtime without a daemon."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
