"""Our payload classes are containerd's messages, field by field."""

from __future__ import annotations

import dataclasses

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from containerd_hybrid.errors import InternalError, InvalidArgumentError
from containerd_hybrid.events import api
from containerd_hybrid.events.encode import decode, encode, parse
from containerd_hybrid.model import Mount
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.events import task_pb2

SAMPLES = [
    api.NamespaceCreate("n", {"a": "b", "c": ""}),
    api.NamespaceUpdate("n"),
    api.NamespaceDelete("n"),
    api.ImageCreate("docker.io/library/x:1", {"k": "v"}),
    api.ImageUpdate("x"),
    api.ImageDelete("x"),
    api.ContentCreate("sha256:00", 1 << 40),
    api.ContentDelete("sha256:00"),
    api.SnapshotPrepare("k", "p", "overlayfs"),
    api.SnapshotCommit("k", "n", "overlayfs"),
    api.SnapshotRemove("k", "overlayfs"),
    api.ContainerCreate("c", "i", api.ContainerCreateRuntime("io.containerd.runc.v2", AnyValue("t", b"\0v"))),
    api.ContainerCreate("c", "", api.ContainerCreateRuntime("")),
    api.ContainerCreate("c", "i"),
    api.ContainerUpdate("c", "i", {"l": "1"}, "snap"),
    api.ContainerDelete("c"),
    api.TaskCreate(
        "c",
        "/b",
        (Mount("overlay", "overlay", ("lowerdir=/a", "ro"), "sub"), Mount("bind", "/s")),
        api.TaskIO("in", "out", "err", True),
        "cp",
        7,
    ),
    api.TaskCreate("c", "/b", (), api.TaskIO()),
    api.TaskDelete("c", 7, 137, 1_700_000_000_123_456_789, "e"),
    api.TaskDelete("c", 7, 0, 0),
    api.TaskExit("c", "c", 7, 255, 1),
    api.SandboxCreate("s"),
    api.SandboxStart("s"),
    api.SandboxExit("s", 3, 1_700_000_000_000_000_001),
]


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_survives_the_wire(event: api.Event) -> None:
    assert decode(encode(event)) == event


def test_every_event_class_has_a_sample_and_its_topic_names_what_it_does() -> None:
    classes = {cls for cls in vars(api).values() if isinstance(cls, type) and issubclass(cls, api.Event)}
    assert {type(sample) for sample in SAMPLES} == classes - {api.Event}
    for cls in classes - {api.Event}:
        assert cls.topic.startswith("/")
        assert cls.__name__.lower().endswith(cls.topic.rpartition("/")[2])


@pytest.mark.parametrize(
    ("event", "type_url"),
    [
        (api.TaskExit("c", "c", 1, 0, 1), "containerd.events.TaskExit"),
        (api.ContainerCreate("c", "i"), "containerd.events.ContainerCreate"),
        (api.ContentDelete("d"), "containerd.events.ContentDelete"),
        (api.ImageCreate("x"), "containerd.services.images.v1.ImageCreate"),
    ],
)
def test_type_urls_are_bare_names(event: api.Event, type_url: str) -> None:
    assert encode(event).type_url == type_url


def test_times_are_timestamps() -> None:
    encoded = encode(api.TaskExit("c", "e", 5, 137, 1_700_000_000_000_000_001))
    message = task_pb2.TaskExit.FromString(encoded.value)
    assert message == task_pb2.TaskExit(
        container_id="c",
        id="e",
        pid=5,
        exit_status=137,
        exited_at=Timestamp(seconds=1_700_000_000, nanos=1),
    )


def test_no_time_is_an_unset_field_and_gos_zero_time_is_no_time() -> None:
    unset = task_pb2.TaskExit.FromString(encode(api.TaskExit("c", "c", 5, 0, 0)).value)
    assert not unset.HasField("exited_at")
    year_one = task_pb2.TaskExit(container_id="c", exited_at=Timestamp(seconds=-62135596800))
    decoded = decode(AnyValue("containerd.events.TaskExit", year_one.SerializeToString()))
    assert decoded == api.TaskExit("c", "", 0, 0, 0)


def test_a_url_with_a_host_is_read_too() -> None:
    value = encode(api.ContainerDelete("c"))
    assert decode(AnyValue(f"type.googleapis.com/{value.type_url}", value.value)) == api.ContainerDelete("c")


def test_types_without_a_class_are_not_decoded_but_can_be_parsed() -> None:
    value = AnyValue("containerd.events.TaskOOM", task_pb2.TaskOOM(container_id="c").SerializeToString())
    assert decode(value) is None
    assert parse(value) == task_pb2.TaskOOM(container_id="c")
    assert parse(AnyValue("example.com/Unknown", b"")) is None


def test_broken_bytes_are_refused_by_name() -> None:
    with pytest.raises(InvalidArgumentError, match=r"containerd\.events\.TaskExit"):
        decode(AnyValue("containerd.events.TaskExit", b"\xff"))


def test_a_class_without_a_message_is_a_bug() -> None:
    @dataclasses.dataclass(frozen=True)
    class Stranger:
        topic = "/stranger/create"

    with pytest.raises(InternalError, match="Stranger"):
        encode(Stranger())  # type: ignore[arg-type]
