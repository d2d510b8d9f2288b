"""What event filters can name: ``namespace``, ``topic`` and ``event.<field>`` of an envelope.

The rules for payload fields are those that containerd generates for its event messages
(``api/events/*_fieldpath.pb.go``): text is present when it is not empty, a truth value always is, and
``labels`` takes the rest of the path as one key; numbers, times and lists cannot be named. Payloads
of other types have no fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.events.api import Envelope
from containerd_hybrid.events.encode import EVENT_FILES, parse
from containerd_hybrid.model.any import AnyValue


class EnvelopeFields:
    """The fields of one envelope; the payload is decoded at most once, and only if a filter asks."""

    __slots__ = ("_decoded", "_envelope", "_payload")

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._payload: Message | None = None
        self._decoded = False

    def __call__(self, path: tuple[str, ...]) -> str | None:
        """The field's text, None when the event does not have it."""
        if not path:
            return None
        match path[0]:
            case "namespace":
                return self._envelope.namespace or None
            case "topic":
                return self._envelope.topic or None
            case "event":
                if not self._decoded:
                    self._decoded = True
                    self._payload = _payload(self._envelope.event)
                return _field(self._payload, path[1:])
            case _:
                return None


def _payload(value: AnyValue) -> Message | None:
    try:
        return parse(value)
    except InvalidArgumentError:
        # A publisher's broken payload is not the subscriber's fault: it has no fields to match.
        return None


def _field(message: Message | None, path: Sequence[str]) -> str | None:
    if message is None or not path or message.DESCRIPTOR.file.name not in EVENT_FILES:
        return None
    descriptor = message.DESCRIPTOR.fields_by_name.get(path[0])
    if descriptor is None:
        return None
    content = getattr(message, descriptor.name)
    if descriptor.name == "labels":
        labels: dict[str, str] = dict(content)
        return labels.get(".".join(path[1:]))
    if descriptor.is_repeated:
        return None
    if descriptor.message_type is not None:
        return _nested(content, path[1:]) if message.HasField(descriptor.name) else None
    return _scalar(descriptor.type, content)


def _nested(part: Message, path: Sequence[str]) -> str | None:
    if isinstance(part, AnyMessage):
        part_value = _payload(AnyValue(part.type_url, part.value))
        return _field(part_value, path)
    return _field(part, path)


def _scalar(type: int, content: Any) -> str | None:
    if type == FieldDescriptor.TYPE_STRING:
        return str(content) or None
    if type == FieldDescriptor.TYPE_BOOL:
        return "true" if content else "false"
    return None
