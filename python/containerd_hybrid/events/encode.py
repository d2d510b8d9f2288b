"""Our payload classes to containerd's event messages and back, from the descriptors alone.

A payload class has the name of its message and the names of its fields; nothing else ties the two, so
a new event needs a dataclass in ``api.py`` and nothing here. Times are Unix nanoseconds on our side
and ``google.protobuf.Timestamp`` on the wire; 0 is an unset field. The type url is the message's bare
full name, as containerd's ``typeurl`` has it for protobuf messages: ``containerd.events.TaskExit``,
but ``containerd.services.images.v1.ImageCreate``, which lies in another protobuf package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, TypeAlias

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from containerd_hybrid.errors import InternalError, InvalidArgumentError
from containerd_hybrid.events import api
from containerd_hybrid.events.api import ContainerCreateRuntime, Event, TaskIO
from containerd_hybrid.model import Mount
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.events import (
    container_pb2,
    content_pb2,
    image_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshot_pb2,
    task_pb2,
)

_FILES = (container_pb2, content_pb2, image_pb2, namespace_pb2, sandbox_pb2, snapshot_pb2, task_pb2)

_FULL_NAMES: dict[str, str] = {
    name: descriptor.full_name
    for file in _FILES
    for name, descriptor in file.DESCRIPTOR.message_types_by_name.items()
}

EVENT_FILES = frozenset(file.DESCRIPTOR.name for file in _FILES)
"""The files whose messages are events or parts of events."""

# protobuf has a class of descriptors for each of its implementations.
_Field: TypeAlias = Any

_PARTS: dict[str, type] = {
    "containerd.events.ContainerCreate.Runtime": ContainerCreateRuntime,
    "containerd.events.TaskIO": TaskIO,
    "containerd.types.Mount": Mount,
}


def encode(event: Event) -> AnyValue:
    """The payload as it travels.

    Raises:
        InternalError: the class is not named after an event message.
    """
    name = _FULL_NAMES.get(type(event).__name__, "")
    message_class = message_class_of(name)
    if message_class is None:
        raise InternalError(f"{type(event).__name__} is not the name of an event message")
    message = message_class()
    _fill(message, event)
    return AnyValue(name, message.SerializeToString(deterministic=True))


def decode(value: AnyValue) -> Event | None:
    """The payload as one of our classes; None for a type that has no class.

    Raises:
        InvalidArgumentError: the bytes are not a message of that type.
    """
    name = value.type_url.rpartition("/")[2]
    payload_class = _event_classes().get(name)
    if payload_class is None:
        return None
    message = parse(value)
    if message is None:
        return None
    event = _read(message, payload_class)
    if not isinstance(event, Event):
        raise InternalError(f"{name} was read as {type(event).__name__}")
    return event


def parse(value: AnyValue) -> Message | None:
    """The message, if its type is one this process has; None otherwise.

    Raises:
        InvalidArgumentError: the bytes are not a message of that type.
    """
    name = value.type_url.rpartition("/")[2]
    message_class = message_class_of(name)
    if message_class is None:
        return None
    try:
        return message_class.FromString(value.value)
    except DecodeError as error:
        raise InvalidArgumentError(f"{value.type_url}: {error}") from error


@cache
def message_class_of(name: str) -> type[Message] | None:
    """The generated class of a message by its full name."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        return None
    return message_factory.GetMessageClass(descriptor)


@cache
def _event_classes() -> dict[str, type[Event]]:
    # Not by Event.__subclasses__(): a dataclass with slots leaves its unslotted twin in there.
    classes = (cls for cls in vars(api).values() if isinstance(cls, type) and issubclass(cls, Event))
    return {_FULL_NAMES[cls.__name__]: cls for cls in classes if cls is not Event}


def _fill(message: Message, value: Any) -> None:
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        descriptor = message.DESCRIPTOR.fields_by_name.get(field.name)
        if descriptor is None:
            raise InternalError(f"{message.DESCRIPTOR.full_name} has no field {field.name}")
        if content is None:
            continue
        if _is_map(descriptor):
            getattr(message, field.name).update(content)
        elif descriptor.is_repeated:
            _extend(getattr(message, field.name), descriptor, content)
        elif descriptor.message_type is None:
            setattr(message, field.name, content)
        else:
            _fill_message(getattr(message, field.name), content)


def _fill_message(part: Message, content: Any) -> None:
    if isinstance(part, Timestamp):
        if content:
            part.FromNanoseconds(content)
    elif isinstance(part, AnyMessage):
        part.type_url = content.type_url
        part.value = content.value
    else:
        # Without this an all-default part would be left out, and a reader could not tell it from none.
        part.SetInParent()
        _fill(part, content)


def _extend(target: Any, descriptor: _Field, items: Iterable[Any]) -> None:
    if descriptor.message_type is None:
        target.extend(items)
        return
    for item in items:
        _fill(target.add(), item)


def _read(message: Message, kind: type) -> Any:
    known = message.DESCRIPTOR.fields_by_name
    return kind(
        **{
            field.name: _read_field(message, known[field.name])
            for field in dataclasses.fields(kind)
            if field.name in known
        }
    )


def _read_field(message: Message, descriptor: _Field) -> Any:
    content = getattr(message, descriptor.name)
    if _is_map(descriptor):
        return dict(content)
    if descriptor.is_repeated:
        return tuple(_read_items(content, descriptor))
    if descriptor.message_type is None:
        return content
    if not message.HasField(descriptor.name):
        return 0 if descriptor.message_type.full_name == Timestamp.DESCRIPTOR.full_name else None
    return _read_message(content)


def _read_items(items: Iterable[Any], descriptor: _Field) -> Iterator[Any]:
    return iter(items) if descriptor.message_type is None else (_read_message(item) for item in items)


def _read_message(part: Message) -> Any:
    if isinstance(part, Timestamp):
        # Go's zero time is the year 1; our zero is 0.
        return max(part.ToNanoseconds(), 0)
    if isinstance(part, AnyMessage):
        return AnyValue(part.type_url, part.value)
    name = part.DESCRIPTOR.full_name
    if name not in _PARTS:
        raise InternalError(f"no class for {name}")
    return _read(part, _PARTS[name])


def _is_map(descriptor: _Field) -> bool:
    kind = descriptor.message_type
    return kind is not None and kind.GetOptions().map_entry
