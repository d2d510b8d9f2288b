"""Lists that are serialized without messages say what the messages would say."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from google.protobuf.message import Message

from containerd_hybrid._native import WirePlan
from containerd_hybrid.containers.api import Container
from containerd_hybrid.content.api import ContentInfo
from containerd_hybrid.images.api import Image
from containerd_hybrid.model import Descriptor, Digest
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.services.containers.v1 import containers_pb2
from containerd_hybrid.proto.services.content.v1 import content_pb2
from containerd_hybrid.proto.services.images.v1 import images_pb2
from containerd_hybrid.rpc.services import containers, content, images

DIGEST = Digest.parse("sha256:" + "ab" * 32)
LABELS = {"": "empty key", "key": "v" * 300, "ünï": "çödé", "none": ""}

CASES: list[tuple[WirePlan, Callable[[Any], Message], type[Message], list[Any]]] = [
    (
        containers.WIRE_PLAN,
        containers.to_wire,
        containers_pb2.ListContainersResponse,
        [
            Container("least"),
            Container(
                "most",
                image="example.com/a:1",
                runtime_name="io.containerd.runc.v2",
                runtime_options=AnyValue("options", b"\0\xff"),
                spec=AnyValue("spec", b"x" * 5000),
                snapshotter="overlayfs",
                snapshot_key="key",
                sandbox="pod",
                labels=LABELS,
                extensions={"one": AnyValue("t", b"1"), "two": AnyValue("", b"")},
                created_at=1_700_000_000_123_456_789,
                updated_at=2_000_000_000,
            ),
            Container("mapping", labels=MappingProxyType(LABELS), created_at=-1),
        ],
    ),
    (
        images.WIRE_PLAN,
        images.to_wire,
        images_pb2.ListImagesResponse,
        [
            Image("least", Descriptor("", DIGEST, 0)),
            Image("most", Descriptor("type", DIGEST, 1 << 40, annotations=LABELS), LABELS, 1, 999_999_999),
        ],
    ),
    (
        content.WIRE_PLAN,
        content.to_wire,
        content_pb2.ListContentResponse,
        [ContentInfo(DIGEST, 0, 0, 0), ContentInfo(DIGEST, 127, 1, 1 << 60, LABELS)],
    ),
]


@pytest.mark.parametrize(
    ("plan", "to_wire", "kind", "values"), CASES, ids=["containers", "images", "content"]
)
def test_a_list_is_that_of_its_messages(
    plan: WirePlan, to_wire: Callable[[Any], Message], kind: type[Message], values: list[Any]
) -> None:
    (field,) = kind.DESCRIPTOR.fields
    messages = kind(**{field.name: [to_wire(value) for value in values]})
    assert kind.FromString(plan.list(field.number, values)) == messages
    assert plan.list(field.number, []) == b""


def test_what_is_no_plan() -> None:
    with pytest.raises(ValueError, match="no kind of field: integer"):
        WirePlan([(1, "a", "integer", None)])
    with pytest.raises(ValueError, match="no kind of field"):
        WirePlan([(1, "a", "message", None)])
    with pytest.raises(AttributeError):
        WirePlan([(1, "missing", "text", None)]).list(1, [object()])
