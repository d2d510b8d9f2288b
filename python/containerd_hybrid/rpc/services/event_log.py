"""containerd_hybrid.v1.EventLog: what happened, for who was not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.events.api import CaughtUp, EventLog, From, LogStatus, Recorded
from containerd_hybrid.proto.hybrid import events_pb2 as pb
from containerd_hybrid.proto.types import event_pb2
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.wire import any_to_wire, timestamp


class EventLogService:
    """Reads the log; nothing but the exchange writes it."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["EventLog"]

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def status(self, request: pb.EventLogStatusRequest, call: CallContext) -> pb.EventLogStatus:
        return _status(await self._log.status())

    async def replay(self, request: pb.ReplayRequest, call: CallContext) -> AsyncIterator[pb.ReplayResponse]:
        replayed = self._log.replay(_start(request), tuple(request.filters), follow=request.follow)
        yield pb.ReplayResponse(log=_status(await self._log.status()))
        async for item in replayed:
            yield _response(item)


def _start(request: pb.ReplayRequest) -> From:
    since = 0
    if request.HasField("since"):
        since = request.since.ToNanoseconds()
        if since <= 0:
            raise InvalidArgumentError("since must be a time after 1970")
    return From(request.after, since, request.id)


def _response(item: Recorded | CaughtUp) -> pb.ReplayResponse:
    if isinstance(item, CaughtUp):
        return pb.ReplayResponse(caught_up=item.sequence)
    envelope = event_pb2.Envelope(
        timestamp=timestamp(item.envelope.timestamp),
        namespace=item.envelope.namespace,
        topic=item.envelope.topic,
        event=any_to_wire(item.envelope.event),
    )
    return pb.ReplayResponse(event=pb.RecordedEvent(sequence=item.sequence, envelope=envelope))


def _status(status: LogStatus) -> pb.EventLogStatus:
    return pb.EventLogStatus(
        id=status.id,
        first=status.first,
        last=status.last,
        bytes=status.bytes,
        max_bytes=status.max_bytes,
        max_age_seconds=int(status.max_age),
        oldest=timestamp(status.oldest),
    )
