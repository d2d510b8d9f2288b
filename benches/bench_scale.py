"""Many of everything: 10,000 containers, 2,000 images, 50,000 blobs; and many who wait.

``BENCH_SCALE=0.1`` makes a tenth of it. Both sides are filled by the same calls.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from benches.bench_runtime import pss
from benches.conftest import Side, Versus
from containerd_hybrid.proto.services.containers.v1 import containers_pb2 as containers
from containerd_hybrid.proto.services.content.v1 import content_pb2 as content
from containerd_hybrid.proto.services.events.v1 import events_pb2 as events
from containerd_hybrid.proto.services.images.v1 import images_pb2 as images
from containerd_hybrid.proto.services.leases.v1 import leases_pb2 as leases
from containerd_hybrid.proto.services.namespaces.v1 import namespaces_pb2 as namespaces
from containerd_hybrid.proto.services.tasks.v1 import tasks_pb2 as tasks
from containerd_hybrid.testing.images import BUSYBOX_IMAGE
from containerd_hybrid.testing.load import Load

_SCALE = float(os.environ.get("BENCH_SCALE", "1"))
CONTAINERS, IMAGES, BLOBS = (max(20, int(count * _SCALE)) for count in (10_000, 2_000, 50_000))
WAITS, SUBSCRIPTIONS = 1_000, 100

_NAMESPACE = "many"
_SERVICES = "/containerd.services"
_VERSION = f"{_SERVICES}.version.v1.Version/Version"
# About the size of a runtime specification of a small container.
_SPEC = Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b'{"a": 1}' * 500)


def send(side: Side, method: str, requests: Iterable[Message], at_once: int = 1, **metadata: str) -> int:
    metadata.setdefault("namespace", _NAMESPACE)
    load = Load(side.ctr.address, f"{_SERVICES}.{method}", **metadata)
    try:
        return load.send((request.SerializeToString() for request in requests), at_once)
    finally:
        load.close()


def blob(number: int) -> bytes:
    return b"blob %d" % number


def digest(number: int) -> str:
    return f"sha256:{hashlib.sha256(blob(number)).hexdigest()}"


def write(number: int, **labels: str) -> content.WriteContentRequest:
    data = blob(number)
    return content.WriteContentRequest(
        action=content.COMMIT,
        ref=f"blob-{number}",
        total=len(data),
        expected=digest(number),
        data=data,
        labels={f"containerd.io/gc.{name}": value for name, value in labels.items()},
    )


def container(number: int) -> containers.CreateContainerRequest:
    return containers.CreateContainerRequest(
        container=containers.Container(
            id=f"c{number}",
            image="example.com/many/image:0",
            labels={"app": f"app{number % 100}", "number": str(number)},
            runtime=containers.Container.Runtime(name="io.containerd.runc.v2"),
            spec=_SPEC,
            snapshotter="overlayfs",
            snapshot_key="",
        )
    )


def image(number: int) -> images.CreateImageRequest:
    created = images.CreateImageRequest()
    created.image.name = f"example.com/many/image:{number}"
    created.image.labels["app"] = f"app{number % 100}"
    target = created.image.target
    target.media_type = "application/vnd.oci.image.manifest.v1+json"
    target.digest = digest(number)
    target.size = len(blob(number))
    return created


@pytest.fixture(scope="module")
def filled(sides: tuple[Side, Side]) -> None:
    """Half of the blobs are kept by a label, the other half by a lease."""
    for side in sides:
        begin = time.perf_counter()
        created = namespaces.CreateNamespaceRequest(namespace=namespaces.Namespace(name=_NAMESPACE))
        send(side, "namespaces.v1.Namespaces/Create", [created])
        send(side, "leases.v1.Leases/Create", [leases.CreateRequest(id="half")])
        half = BLOBS // 2
        send(side, "content.v1.Content/Write", (write(n, root="now") for n in range(half)), 16)
        # The lease is large by the end, and each side adds to it as it can.
        send(side, "content.v1.Content/Write", (write(n) for n in range(half, BLOBS)), 16, lease="half")
        send(side, "images.v1.Images/Create", map(image, range(IMAGES)), 16)
        send(side, "containers.v1.Containers/Create", map(container, range(CONTAINERS)), 16)
        print(f"{side.name}: filled in {time.perf_counter() - begin:.0f} s")


def some(count: int, of: int) -> list[int]:
    """Numbers all over the place."""
    return [number * 7919 % of for number in range(count)]


ASKED: dict[str, tuple[str, list[Message], int]] = {
    f"list {CONTAINERS} containers": (
        "containers.v1.Containers/List",
        [containers.ListContainersRequest()],
        1,
    ),
    f"list {CONTAINERS} containers as a stream": (
        "containers.v1.Containers/ListStream",
        [containers.ListContainersRequest()],
        1,
    ),
    f"list 1 % of {CONTAINERS} containers": (
        "containers.v1.Containers/List",
        [containers.ListContainersRequest(filters=['labels."app"==app7'])],
        1,
    ),
    f"list one of {CONTAINERS} containers": (
        "containers.v1.Containers/List",
        [containers.ListContainersRequest(filters=["id==c7"])],
        1,
    ),
    f"500 × get, {CONTAINERS} containers": (
        "containers.v1.Containers/Get",
        [containers.GetContainerRequest(id=f"c{number}") for number in some(500, CONTAINERS)],
        8,
    ),
    f"list {IMAGES} images": ("images.v1.Images/List", [images.ListImagesRequest()], 1),
    f"list one of {IMAGES} images": (
        "images.v1.Images/List",
        [images.ListImagesRequest(filters=["name==example.com/many/image:7"])],
        1,
    ),
    f"500 × get, {IMAGES} images": (
        "images.v1.Images/Get",
        [images.GetImageRequest(name=f"example.com/many/image:{number}") for number in some(500, IMAGES)],
        8,
    ),
    f"list {BLOBS} blobs": ("content.v1.Content/List", [content.ListContentRequest()], 1),
    f"list one of {BLOBS} blobs": (
        "content.v1.Content/List",
        [content.ListContentRequest(filters=[f"digest=={digest(7)}"])],
        1,
    ),
    f"500 × info, {BLOBS} blobs": (
        "content.v1.Content/Info",
        [content.InfoRequest(digest=digest(number)) for number in some(500, BLOBS)],
        8,
    ),
    f"500 × read, {BLOBS} blobs": (
        "content.v1.Content/Read",
        [content.ReadContentRequest(digest=digest(number)) for number in some(500, BLOBS)],
        8,
    ),
}


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("name", ASKED)
def test_many(versus: Versus, name: str) -> None:
    method, requests, at_once = ASKED[name]
    versus.time(name, lambda side: send(side, method, requests, at_once))


@pytest.mark.usefixtures("filled")
def test_many_collected(versus: Versus) -> None:
    """Half of the blobs goes with its lease."""
    seconds = {}
    for side in (versus.theirs, versus.ours):
        begin = time.perf_counter()
        send(side, "leases.v1.Leases/Delete", [leases.DeleteRequest(id="half", sync=True)])
        seconds[side.name] = time.perf_counter() - begin
    versus.benchmark.pedantic(lambda: None)
    versus.note(f"gc of half of {BLOBS} blobs", "s", seconds["ours"], seconds["containerd"])


def test_many_that_wait(versus: Versus) -> None:
    """What 1,000 open Wait calls and 100 subscriptions cost, and what they do to other calls."""

    def rate(side: Side) -> float:
        load = Load(side.ctr.address, _VERSION)
        load.calls(500, 8)
        begin = time.perf_counter()
        load.calls(3000, 8)
        load.close()
        return 3000 / (time.perf_counter() - begin)

    def measured(side: Side) -> tuple[float, float]:
        namespace = side.ctr.namespace
        side.ctr("run", "-d", BUSYBOX_IMAGE, "stays", "sleep", "100000")
        before, alone = pss(side.pid), rate(side)
        with ExitStack() as opened:
            wait = Load(side.ctr.address, f"{_SERVICES}.tasks.v1.Tasks/Wait", namespace=namespace)
            subscribe = Load(side.ctr.address, f"{_SERVICES}.events.v1.Events/Subscribe", namespace=namespace)
            opened.callback(wait.close)
            opened.callback(subscribe.close)
            for _ in range(WAITS):
                wait.open(tasks.WaitRequest(container_id="stays").SerializeToString())
            for _ in range(SUBSCRIPTIONS):
                subscribe.open(events.SubscribeRequest().SerializeToString())
            # Calls go in their order: when this one has been answered, those before it have begun.
            send(side, "namespaces.v1.Namespaces/List", [namespaces.ListNamespacesRequest()])
            time.sleep(1)
            crowded = rate(side)
            more = pss(side.pid) - before
            assert (wait.answered(), subscribe.answered()) == (0, 0), "they do not wait"
        side.ctr("task", "delete", "--force", "stays")
        side.ctr("container", "delete", "stays")
        return more, crowded / alone

    ours = versus.benchmark.pedantic(measured, args=(versus.ours,), rounds=1)
    theirs = measured(versus.theirs)
    versus.note(f"{WAITS} waits, {SUBSCRIPTIONS} subscriptions", "MiB more", ours[0], theirs[0])
    versus.note("calls beside them", "of the rate alone", ours[1], theirs[1])
