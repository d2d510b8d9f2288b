"""The library's face: one object a namespace."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.client.api import Transport
from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.containers import AsyncContainers
from containerd_hybrid.client.images import AsyncImages
from containerd_hybrid.mounts.api import Mounter
from containerd_hybrid.proto.services.version.v1 import version_pb2

_VERSION = version_pb2.DESCRIPTOR.services_by_name["Version"]


class AsyncClient:
    """Images and containers of one namespace, over any transport.

    Made by :func:`containerd_hybrid.connect` (a daemon) or :func:`containerd_hybrid.open` (no daemon);
    used as ``async with``.
    """

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

    async def close(self) -> None:
        """Close the transport. Containers run on, except those of a runtime without a daemon."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
