"""The library's face: one object a namespace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self

from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.client.api import Transport
from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.containers import AsyncContainers
from containerd_hybrid.client.daemon import AsyncDaemon
from containerd_hybrid.client.events import Event, event_from_wire, in_namespace
from containerd_hybrid.client.garbage import AsyncGarbage
from containerd_hybrid.client.images import AsyncImages
from containerd_hybrid.client.replay import replayed
from containerd_hybrid.events.api import LogStatus
from containerd_hybrid.mounts.api import Mounter
from containerd_hybrid.proto.hybrid import events_pb2 as hybrid_events_pb2
from containerd_hybrid.proto.services.events.v1 import events_pb2
from containerd_hybrid.proto.services.version.v1 import version_pb2
from containerd_hybrid.proto.types import event_pb2

_EVENTS = events_pb2.DESCRIPTOR.services_by_name["Events"]
_EVENT_LOG = hybrid_events_pb2.DESCRIPTOR.services_by_name["EventLog"]
_VERSION = version_pb2.DESCRIPTOR.services_by_name["Version"]


class AsyncClient:
    """Images and containers of one namespace, over any transport.

    Made by :func:`containerd_hybrid.connect` (a daemon) or :func:`containerd_hybrid.open` (no daemon);
    used as ``async with``.
    """

    namespace: str
    images: AsyncImages
    containers: AsyncContainers
    garbage: AsyncGarbage
    daemon: AsyncDaemon

    def __init__(self, transport: Transport, mounter: Mounter, namespace: str = "default") -> None:
        self._transport = transport
        self._calls = Calls(transport, namespace)
        self.namespace = namespace
        self.images = AsyncImages(self._calls)
        self.containers = AsyncContainers(self._calls, self.images, mounter)
        self.garbage = AsyncGarbage(self._calls)
        self.daemon = AsyncDaemon(self._calls)

    async def version(self) -> str:
        """The version the daemon tells its clients."""
        answer = await self._calls.unary(_VERSION, "Version", Empty(), version_pb2.VersionResponse)
        return answer.version

    async def events(self, filters: Sequence[str] = ()) -> AsyncIterator[Event]:
        """What happens in this namespace from now on, without end.

        Only that for which one of the ``filters`` holds, such as ``topic~="^/tasks/"``, if there are any.
        """
        request = events_pb2.SubscribeRequest(filters=in_namespace(self.namespace, filters))
        async with self._calls.streaming(_EVENTS, "Subscribe", request, event_pb2.Envelope) as messages:
            async for envelope in messages:
                yield event_from_wire(envelope)

    async def replay(
        self,
        filters: Sequence[str] = (),
        *,
        after: int = 0,
        since: float | None = None,
        follow: bool = True,
        log: str = "",
    ) -> AsyncIterator[Event]:
        """What happened in this namespace, from the daemon's log, and then (``follow``) what happens.

        It begins behind the event whose ``sequence`` is ``after``, or with what was recorded at ``since``
        (Unix seconds), or without either with the oldest event that is kept. A daemon that is started anew
        is waited for, and what happened meanwhile is told. ``log`` is the id from :meth:`event_log`, for
        who keeps numbers for longer than a daemon may keep its log. Only a daemon of ours has one.

        Raises:
            OutOfRangeError: events that were asked for are no longer kept.
            DataLossError: events could not be written when they happened.
            NotFoundError: the daemon has another log than ``log``, or than before its restart.
            UnavailableError: the daemon stays away.
            UnimplementedError: the daemon is another one, or keeps no log.
        """
        start = hybrid_events_pb2.ReplayRequest(after=after, id=log)
        if since is not None:
            start.since.FromNanoseconds(int(since * 1e9))
        start.filters.extend(in_namespace(self.namespace, filters))
        start.follow = follow
        async with aclosing(replayed(self._calls, start)) as events:
            async for event in events:
                yield event

    async def event_log(self) -> LogStatus:
        """What the daemon's log of events keeps.

        Raises:
            UnimplementedError: the daemon is not ours, or keeps no log.
        """
        status = await self._calls.unary(
            _EVENT_LOG,
            "Status",
            hybrid_events_pb2.EventLogStatusRequest(),
            hybrid_events_pb2.EventLogStatus,
        )
        return LogStatus(
            status.id,
            status.first,
            status.last,
            status.bytes,
            status.max_bytes,
            float(status.max_age_seconds),
            status.oldest.ToNanoseconds(),
        )

    async def close(self) -> None:
        """Close the transport. Containers run on, except those of a runtime without a daemon."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
