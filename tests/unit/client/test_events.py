"""Events as values, whatever their payload."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage

from containerd_hybrid.client.events import event_from_wire, in_namespace
from containerd_hybrid.proto.events import task_pb2
from containerd_hybrid.proto.types import event_pb2


def envelope(type_url: str, value: bytes) -> event_pb2.Envelope:
    message = event_pb2.Envelope(namespace="ns", topic="/x", event=AnyMessage(type_url=type_url, value=value))
    message.timestamp.FromNanoseconds(1_700_000_000_123_456_789)
    return message


def test_a_known_payload_has_fields_even_empty_ones() -> None:
    payload = task_pb2.TaskExit(container_id="c", exit_status=7)
    for prefix in ("", "type.googleapis.com/"):
        event = event_from_wire(envelope(f"{prefix}containerd.events.TaskExit", payload.SerializeToString()))
        assert (event.timestamp, event.namespace, event.topic) == (1_700_000_000_123_456_789, "ns", "/x")
        assert event.type == "containerd.events.TaskExit"
        assert (event.fields["container_id"], event.fields["exit_status"], event.fields["pid"]) == ("c", 7, 0)


def test_an_unknown_or_damaged_payload_has_none() -> None:
    assert event_from_wire(envelope("example.com/Unknown", b"x")).fields == {}
    assert event_from_wire(envelope("containerd.events.TaskExit", b"\xff\xff")).fields == {}


def test_filters_are_narrowed_to_the_namespace() -> None:
    assert in_namespace("ns", []) == ['namespace=="ns"']
    assert in_namespace("ns", ["topic==a", "topic==b"]) == [
        'topic==a,namespace=="ns"',
        'topic==b,namespace=="ns"',
    ]
