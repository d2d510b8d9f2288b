"""What happens in a namespace, as the daemon tells it to whoever listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

# Named so that the pool of message types has what events are made of.
from containerd_hybrid.proto.events import (
    container_pb2,
    content_pb2,
    image_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshot_pb2,
    task_pb2,
)
from containerd_hybrid.proto.types import event_pb2

_FILES = (container_pb2, content_pb2, image_pb2, namespace_pb2, sandbox_pb2, snapshot_pb2, task_pb2)


@dataclass(frozen=True, slots=True)
class Event:
    """One event: ``timestamp`` in Unix nanoseconds, ``topic`` such as ``/tasks/exit``.

    ``type`` is the full name of the payload's message (containerd.events) and ``fields`` what is in
    it, by the names in the API; they are empty for a type that this library does not know. ``sequence``
    is the event's number in the daemon's log, 0 for one that did not come from there.
    """

    timestamp: int
    namespace: str
    topic: str
    type: str
    fields: Mapping[str, Any]
    sequence: int = 0


def event_from_wire(envelope: event_pb2.Envelope, sequence: int = 0) -> Event:
    return Event(
        envelope.timestamp.ToNanoseconds(),
        envelope.namespace,
        envelope.topic,
        envelope.event.type_url.rpartition("/")[2],
        _fields(envelope.event),
        sequence,
    )


def in_namespace(namespace: str, filters: Sequence[str]) -> list[str]:
    """The filters, each narrowed to a namespace: daemons tell of all of them."""
    here = f'namespace=="{namespace}"'
    return [f"{given},{here}" for given in filters] or [here]


def _fields(payload: AnyMessage) -> dict[str, Any]:
    name = payload.type_url.rpartition("/")[2]
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
        message = message_factory.GetMessageClass(descriptor).FromString(payload.value)
    except (KeyError, DecodeError):
        return {}
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
