"""The stores answer as an installed containerd does: the same calls to both, answer by answer.

Compared are status codes, whole answers but for times, and the messages of what is not found or exists
already. Other messages differ between containerd's own releases.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, field_mask_pb2, message_factory
from google.protobuf.message import Message

from containerd_hybrid.errors import HybridError
from containerd_hybrid.metadata.api import CollectedNode, CollectionReport
from containerd_hybrid.metadata.containers import MetadataContainerStore
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.images import MetadataImageStore
from containerd_hybrid.metadata.leases import MetadataLeaseManager
from containerd_hybrid.metadata.namespaces import MetadataNamespaceStore
from containerd_hybrid.proto.services.containers.v1 import containers_pb2 as containers
from containerd_hybrid.proto.services.images.v1 import images_pb2 as images
from containerd_hybrid.proto.services.leases.v1 import leases_pb2 as leases
from containerd_hybrid.proto.services.namespaces.v1 import namespaces_pb2 as namespaces
from containerd_hybrid.proto.types.descriptor_pb2 import Descriptor
from containerd_hybrid.rpc.describe import service_from
from containerd_hybrid.rpc.inprocess import InProcessTransport
from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services
from containerd_hybrid.rpc.services.containers import ContainersService
from containerd_hybrid.rpc.services.images import ImagesService
from containerd_hybrid.rpc.services.leases import LeasesService
from containerd_hybrid.rpc.services.namespaces import NamespacesService
from containerd_hybrid.testing.containerd import StockContainerd

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd needs root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="containerd is not installed"),
]

Call = tuple[str, str, Message]
Answer = tuple[str, Any]

NAMESPACE = "like"
ONE, TWO = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SERVICES = {
    "Namespaces": namespaces,
    "Images": images,
    "Containers": containers,
    "Leases": leases,
}
COMPARED_MESSAGES = {"NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "UNIMPLEMENTED"}


class NoEvents:
    def publish(self, namespace: str, event: object) -> None: ...
    def forward(self, envelope: object) -> None: ...


class NoCollector:
    def trigger(self) -> None: ...

    async def collect(self, *, dry_run: bool = False) -> CollectionReport:
        return CollectionReport((), 0.0)

    async def why(self, namespace: str, type: str, key: str) -> list[CollectedNode]:
        return []


@pytest.fixture
def stock(short_folder: Path) -> Iterator[StockContainerd]:
    folder = short_folder / "c"
    folder.mkdir()
    with StockContainerd(folder) as daemon:
        yield daemon


@pytest.fixture
async def ours(tmp_path: Path) -> AsyncIterator[InProcessTransport]:
    async with SqliteDatabase(tmp_path / "meta.db") as database:
        events: Any = NoEvents()
        handlers: list[Any] = [
            NamespacesService(MetadataNamespaceStore(database, events)),
            ImagesService(MetadataImageStore(database, events), NoCollector()),
            ContainersService(MetadataContainerStore(database, events), NoCollector()),
            LeasesService(MetadataLeaseManager(database), NoCollector()),
        ]
        services = [service_from(handler.descriptor, handler) for handler in handlers]
        yield InProcessTransport(wrap_services(services, standard_interceptors(CallMetrics())))


def plain(message: Message) -> dict[str, Any]:
    """A message as values that can be compared; times are alike."""
    result: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is None:
            result[field.name] = list(value) if field.is_repeated else value
        elif field.message_type.GetOptions().map_entry:
            result[field.name] = {k: plain(v) if isinstance(v, Message) else v for k, v in value.items()}
        elif field.is_repeated:
            result[field.name] = [plain(one) for one in value]
        elif field.message_type.name == "Timestamp":
            result[field.name] = "a time"
        else:
            result[field.name] = plain(value)
    return result


def answer(code: str, message: str) -> Answer:
    return code, message if code in COMPARED_MESSAGES else ""


async def ask_containerd(channel: grpc.aio.Channel, call: Call) -> Answer:
    service, name, request = call
    descriptor = SERVICES[service].DESCRIPTOR.services_by_name[service]
    response = message_factory.GetMessageClass(descriptor.methods_by_name[name].output_type)
    method = channel.unary_unary(
        f"/{descriptor.full_name}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    try:
        return "OK", plain(await method(request, metadata=(("containerd-namespace", NAMESPACE),)))
    except grpc.aio.AioRpcError as error:
        return answer(error.code().name, error.details() or "")


async def ask_us(transport: InProcessTransport, call: Call) -> Answer:
    service, name, request = call
    descriptor = SERVICES[service].DESCRIPTOR.services_by_name[service]
    response = message_factory.GetMessageClass(descriptor.methods_by_name[name].output_type)
    metadata = {"containerd-namespace": NAMESPACE}
    try:
        return "OK", plain(
            await transport.unary(descriptor.full_name, name, request, response, metadata=metadata)
        )
    except HybridError as error:
        return answer(error.code, error.message)


def mask(*paths: str) -> field_mask_pb2.FieldMask:
    return field_mask_pb2.FieldMask(paths=paths)


def namespace_calls() -> Iterator[Call]:
    def create(name: str, **labels: str) -> Call:
        wanted = namespaces.Namespace(name=name, labels=labels)
        return "Namespaces", "Create", namespaces.CreateNamespaceRequest(namespace=wanted)

    def update(name: str, labels: dict[str, str], *paths: str) -> Call:
        wanted = namespaces.Namespace(name=name, labels=labels)
        request = namespaces.UpdateNamespaceRequest(namespace=wanted, update_mask=mask(*paths))
        return "Namespaces", "Update", request

    yield "Namespaces", "Get", namespaces.GetNamespaceRequest(name="nowhere")
    yield "Namespaces", "Delete", namespaces.DeleteNamespaceRequest(name="nowhere")
    yield create(NAMESPACE, a="1")
    yield create(NAMESPACE)
    for name in ("", "a b", "-x", "x" * 77, "a..b", "é", "x.y-z_0"):
        yield create(name)
    yield create("big", k="v" * 4096)
    yield update(NAMESPACE, {"a": "1"}, "labels")
    yield "Namespaces", "List", namespaces.ListNamespacesRequest()


def image_calls() -> Iterator[Call]:
    def descriptor(**changes: Any) -> Descriptor:
        return Descriptor(**{"media_type": "application/x", "digest": ONE, "size": 10, **changes})

    def create(name: str, target: Descriptor, **labels: str) -> Call:
        image = images.Image(name=name, target=target, labels=labels)
        return "Images", "Create", images.CreateImageRequest(image=image)

    def look(*filters: str) -> Call:
        return "Images", "List", images.ListImagesRequest(filters=filters)

    yield "Images", "Get", images.GetImageRequest(name="x")
    yield look()
    yield create("x", descriptor(annotations={"n": "1"}), l="1", empty="")
    yield create("x", descriptor())
    yield create("y", descriptor(digest=TWO), l="2", **{"more.dots": "3"})
    for wrong in ({"size": 0}, {"size": -1}, {"media_type": ""}, {"digest": ""}, {"digest": "sha256:abc"}):
        yield create("z", descriptor(**wrong))
    yield create("", descriptor())
    yield create("z", descriptor(), k="v" * 4096)
    for text in (
        *("name==x", "labels.l", "labels.l==2", 'labels."more.dots"==3', "labels.more.dots"),
        *(f"target.digest=={TWO}", "target.digest~=^sha256:a", "target.mediatype", "annotations.n==1"),
        *("name~=/.*/,labels.l==1", "name==x,", "nope==1", "name!=x", "labels.ns/key", "name~=(", "target"),
    ):
        yield look(text)
    yield look("name==x", "name==y")
    given = images.Image(name="x", target=descriptor(digest=TWO, annotations={"q": "2"}), labels={"new": "n"})
    for paths in (
        *(("labels.l",), ("labels",), ("target",), ("annotations",), ("annotations.q",), ("bogus",)),
        *(("labels.new", "labels.l"), ("name",), ("target.digest",), ()),
    ):
        yield "Images", "Update", images.UpdateImageRequest(image=given, update_mask=mask(*paths))
        yield "Images", "Get", images.GetImageRequest(name="x")
    missing = images.Image(name="none", target=descriptor())
    yield "Images", "Update", images.UpdateImageRequest(image=missing)
    yield "Images", "Delete", images.DeleteImageRequest(name="none")


def lease_calls() -> Iterator[Call]:
    yield "Leases", "Create", leases.CreateRequest(id="l", labels={"a": "b", "empty": ""})
    yield "Leases", "Create", leases.CreateRequest(id="l")
    yield "Leases", "Create", leases.CreateRequest(id="we ird/../id", labels={"k": "v" * 5000})
    for filters in ((), ("id==l",), ("labels.a==b",), ("id~=l",), ("bad==",), ("labels.a",)):
        yield "Leases", "List", leases.ListRequest(filters=filters)
    for kind, key in (
        *(("content", ONE), ("content", "x"), ("content", "sha256:xyz"), ("content/x", ONE)),
        *(("snapshots/overlayfs", "k"), ("snapshots", "k"), ("snapshots/a/b", "k")),
        *(("ingests", "r"), ("ingests/x", "r"), ("bogus", "x"), ("", "x")),
    ):
        resource = leases.Resource(type=kind, id=key)
        yield "Leases", "AddResource", leases.AddResourceRequest(id="l", resource=resource)
        yield "Leases", "DeleteResource", leases.DeleteResourceRequest(id="l", resource=resource)
        yield "Leases", "AddResource", leases.AddResourceRequest(id="l", resource=resource)
        yield "Leases", "ListResources", leases.ListResourcesRequest(id="l")
    yield "Leases", "ListResources", leases.ListResourcesRequest(id="none")
    yield "Leases", "Delete", leases.DeleteRequest(id="none")


def container_calls() -> Iterator[Call]:
    def typed(name: str) -> any_pb2.Any:
        return any_pb2.Any(type_url=name, value=b"{}")

    def container(**changes: Any) -> containers.Container:
        return containers.Container(
            **{
                "id": "c",
                "image": "img",
                "runtime": containers.Container.Runtime(name="runtime", options=typed("options")),
                "spec": typed("spec"),
                "snapshotter": "overlayfs",
                "snapshot_key": "k",
                "labels": {"l": "1", "empty": ""},
                "extensions": {"x": typed("extension")},
                **changes,
            }
        )

    def create(**changes: Any) -> Call:
        request = containers.CreateContainerRequest(container=container(**changes))
        return "Containers", "Create", request

    def update(paths: Sequence[str] = (), **changes: Any) -> Call:
        request = containers.UpdateContainerRequest(container=container(**changes), update_mask=mask(*paths))
        return "Containers", "Update", request

    yield create(id="first")  # what containerd says before the first container is another message
    yield "Containers", "Get", containers.GetContainerRequest(id="c")
    yield "Containers", "Delete", containers.DeleteContainerRequest(id="c")
    yield update()
    yield create()
    yield create()
    for wrong in (
        *({"id": ""}, {"id": "a b"}, {"id": "x" * 77}, {"snapshotter": ""}),
        *({"runtime": None}, {"spec": None}, {"extensions": {"": typed("x")}}, {"labels": {"k": "v" * 4096}}),
    ):
        yield create(**{"id": "d", **wrong})
    bare = containers.Container.Runtime(name="runtime")
    yield create(
        id="least", image="", runtime=bare, snapshotter="", snapshot_key="", labels={}, extensions={}
    )
    yield "Containers", "Get", containers.GetContainerRequest(id="least")
    for text in ("id==c", "runtime.name==runtime", "image", "labels.l==1", "runtime", "image!=img"):
        yield "Containers", "List", containers.ListContainersRequest(filters=[text])
    given = {
        "image": "new",
        "labels": {"n": "2"},
        "snapshot_key": "new",
        "spec": typed("other"),
        "extensions": {"y": typed("other")},
    }
    for paths in (
        *(("labels.l",), ("labels",), ("image",), ("snapshotkey",), ("spec",), ("extensions.y",)),
        *(("runtime",), ("snapshot_key",), ("bogus",)),
    ):
        yield update(paths, **given)
        yield "Containers", "Get", containers.GetContainerRequest(id="c")
    # The answer lacks the extensions that stayed; the record has them.
    yield (
        "Containers",
        "Update",
        containers.UpdateContainerRequest(container=container(extensions={"x": typed("1"), "y": typed("2")})),
    )
    yield "Containers", "Get", containers.GetContainerRequest(id="c")
    yield update(snapshotter="native")
    yield update(runtime=containers.Container.Runtime(name="other"))
    yield update(("spec",), spec=None)
    yield "Namespaces", "Delete", namespaces.DeleteNamespaceRequest(name=NAMESPACE)
    for name in ("first", "c", "least", "c"):
        yield "Containers", "Delete", containers.DeleteContainerRequest(id=name)
    yield "Namespaces", "Delete", namespaces.DeleteNamespaceRequest(name=NAMESPACE)
    for name in ("x", "y", "y"):
        yield "Images", "Delete", images.DeleteImageRequest(name=name)
    yield "Namespaces", "Delete", namespaces.DeleteNamespaceRequest(name=NAMESPACE)
    yield "Namespaces", "List", namespaces.ListNamespacesRequest()


async def test_every_answer_is_containerds(stock: StockContainerd, ours: InProcessTransport) -> None:
    different = []
    async with grpc.aio.insecure_channel(f"unix://{stock.address}") as channel:
        for script in (namespace_calls, image_calls, lease_calls, container_calls):
            for call in script():
                theirs, mine = await ask_containerd(channel, call), await ask_us(ours, call)
                if theirs != mine:
                    different.append(f"{call[0]}.{call[1]} {plain(call[2])}\n  {theirs}\n  {mine}")
    assert not different, "\n".join(different)
