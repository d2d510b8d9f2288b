"""The fields that filters can name are those of containerd's generated look-ups."""

from __future__ import annotations

import pytest

from containerd_hybrid.events import api
from containerd_hybrid.events.api import Envelope
from containerd_hybrid.events.encode import encode
from containerd_hybrid.events.fields import EnvelopeFields
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.events import task_pb2
from containerd_hybrid.proto.types.runc import options_pb2


def lookup(event: api.Event | AnyValue, path: str) -> str | None:
    payload = event if isinstance(event, AnyValue) else encode(event)
    return EnvelopeFields(Envelope(1, "ns", "/t/x", payload))(tuple(path.split(".")))


TASK = api.TaskCreate("c1", "/bundle", (), api.TaskIO("in", "", "err", False), "", 42)
NESTED = encode(api.ContainerDelete("inner"))


@pytest.mark.parametrize(
    ("event", "path", "value"),
    [
        (TASK, "namespace", "ns"),
        (TASK, "topic", "/t/x"),
        (TASK, "timestamp", None),
        (TASK, "event", None),
        (TASK, "event.container_id", "c1"),
        (TASK, "event.checkpoint", None),
        (TASK, "event.pid", None),
        (TASK, "event.rootfs", None),
        (TASK, "event.io", None),
        (TASK, "event.io.stdin", "in"),
        (TASK, "event.io.stdout", None),
        (TASK, "event.io.terminal", "false"),
        (TASK, "event.nope", None),
        (TASK, "event.container_id.more", "c1"),
        (api.TaskCreate("c", ""), "event.io.terminal", None),
        (api.TaskExit("c", "e", 1, 2, 3), "event.exit_status", None),
        (api.TaskExit("c", "e", 1, 2, 3), "event.exited_at", None),
        (api.ImageCreate("n", {"a.b": "1", "empty": ""}), "event.labels.a.b", "1"),
        (api.ImageCreate("n", {"a.b": "1", "empty": ""}), "event.labels.empty", ""),
        (api.ImageCreate("n"), "event.labels.a", None),
        (api.ImageCreate("n"), "event.name", "n"),
        (api.ContainerCreate("c", "i", api.ContainerCreateRuntime("r", NESTED)), "event.runtime.name", "r"),
        (
            api.ContainerCreate("c", "i", api.ContainerCreateRuntime("r", NESTED)),
            "event.runtime.options.id",
            "inner",
        ),
        (api.ContainerCreate("c", "i"), "event.runtime.name", None),
    ],
)
def test_fields(event: api.Event, path: str, value: str | None) -> None:
    assert lookup(event, path) == value


def test_an_empty_path_names_nothing() -> None:
    assert EnvelopeFields(Envelope(1, "ns", "/t", encode(TASK)))(()) is None


def test_events_of_shims_have_fields_though_we_have_no_class_for_them() -> None:
    value = AnyValue("containerd.events.TaskOOM", task_pb2.TaskOOM(container_id="c").SerializeToString())
    assert lookup(value, "event.container_id") == "c"


@pytest.mark.parametrize(
    "payload",
    [
        AnyValue("containerd.events.TaskOOM", b"\xff\xff"),
        AnyValue("no.such.Type", b""),
        AnyValue("", b""),
        # Known to the process, but no event: containerd's look-up has no such fields either.
        AnyValue("containerd.runc.v1.Options", options_pb2.Options(root="/x").SerializeToString()),
    ],
)
def test_other_payloads_have_no_fields(payload: AnyValue) -> None:
    assert lookup(payload, "event.container_id") is None
    assert lookup(payload, "event.root") is None
    assert lookup(payload, "topic") == "/t/x"
