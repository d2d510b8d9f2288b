"""containerd.services.events.v1.Events, and its twin for shims, …events.ttrpc.v1.Events"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.events.api import Envelope, EventExchange
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.services.events.v1 import events_pb2 as pb
from containerd_hybrid.proto.services.ttrpc.events.v1 import events_pb2 as ttrpc_pb
from containerd_hybrid.proto.types import event_pb2
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.wire import any_to_wire, timestamp


class EventsService:
    """Publish, forward and subscribe."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Events"]

    def __init__(self, exchange: EventExchange) -> None:
        self._exchange = exchange

    async def publish(self, request: pb.PublishRequest, call: CallContext) -> Empty:
        event = AnyValue(request.event.type_url, request.event.value)
        self._exchange.forward(Envelope(time.time_ns(), call.scope.namespace, request.topic, event))
        return Empty()

    async def forward(self, request: pb.ForwardRequest, call: CallContext) -> Empty:
        self._exchange.forward(_from_wire(request.envelope))
        return Empty()

    async def subscribe(
        self, request: pb.SubscribeRequest, call: CallContext
    ) -> AsyncIterator[event_pb2.Envelope]:
        async with self._exchange.subscribe(tuple(request.filters)) as events:
            async for envelope in events:
                yield _to_wire(envelope)


class TtrpcEventsService:
    """What shims call to tell the daemon what happened."""

    descriptor: ClassVar[ServiceDescriptor] = ttrpc_pb.DESCRIPTOR.services_by_name["Events"]

    def __init__(self, exchange: EventExchange) -> None:
        self._exchange = exchange

    async def forward(self, request: ttrpc_pb.ForwardRequest, call: CallContext) -> Empty:
        self._exchange.forward(_from_wire(request.envelope))
        return Empty()


def _from_wire(message: event_pb2.Envelope) -> Envelope:
    event = AnyValue(message.event.type_url, message.event.value)
    return Envelope(message.timestamp.ToNanoseconds(), message.namespace, message.topic, event)


def _to_wire(envelope: Envelope) -> event_pb2.Envelope:
    return event_pb2.Envelope(
        timestamp=timestamp(envelope.timestamp),
        namespace=envelope.namespace,
        topic=envelope.topic,
        event=any_to_wire(envelope.event),
    )
