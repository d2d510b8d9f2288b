"""The sandbox services over a real store and a recording controller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from containerd_hybrid.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from containerd_hybrid.events.api import Event, SandboxCreate, SandboxExit, SandboxStart
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.sandboxes import MetadataSandboxStore
from containerd_hybrid.model import Platform, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.services.sandbox.v1 import sandbox_pb2 as pb
from containerd_hybrid.proto.types import sandbox_pb2
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.rpc.services.sandboxes import SandboxControllerService, SandboxStoreService
from containerd_hybrid.sandbox.api import CreateSandbox, Sandbox, SandboxEnd, SandboxInstance, SandboxStatus
from containerd_hybrid.tasks.api import Metric

CALL = CallContext("/x/y", namespace="ns")
SECOND = 10**9
SANDBOX = sandbox_pb2.Sandbox(
    sandbox_id="s",
    runtime=sandbox_pb2.Sandbox.Runtime(name="r", options=AnyMessage(type_url="o", value=b"1")),
    spec=AnyMessage(type_url="spec", value=b"{}"),
    labels={"a": "b"},
    extensions={"e": AnyMessage(type_url="x", value=b"2")},
    sandboxer="fake",
)


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []

    def publish(self, namespace: str, event: Event) -> None:
        self.events.append((namespace, event))


class FakeController:
    """Keeps what it was asked and answers with constants."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def create(self, scope: Scope, sandbox: Sandbox, request: CreateSandbox) -> None:
        self.calls.append(("create", scope, sandbox, request))

    async def start(self, scope: Scope, id: str) -> SandboxInstance:
        return SandboxInstance(id, 7, SECOND, "unix:///a", 3)

    async def platform(self, scope: Scope, id: str) -> Platform:
        return Platform("linux", "arm64", "v8")

    async def stop(self, scope: Scope, id: str, timeout: int = 0) -> None:
        self.calls.append(("stop", id, timeout))

    async def wait(self, scope: Scope, id: str) -> SandboxEnd:
        return SandboxEnd(5, 2 * SECOND)

    async def status(self, scope: Scope, id: str, *, verbose: bool = False) -> SandboxStatus:
        return SandboxStatus(id, 7, "READY", {"v": str(verbose)}, SECOND)

    async def shutdown(self, scope: Scope, id: str) -> None:
        self.calls.append(("shutdown", id))

    async def metrics(self, scope: Scope, id: str) -> Metric:
        return Metric(SECOND, id, AnyValue("m", b"d"))

    async def update(self, scope: Scope, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        self.calls.append(("update", sandbox.id, fieldpaths))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SandboxStoreService]:
    async with SqliteDatabase(tmp_path / "meta.db", no_sync=True) as database:
        yield SandboxStoreService(MetadataSandboxStore(database))


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
def events() -> Recorder:
    return Recorder()


@pytest.fixture
def service(controller: FakeController, events: Recorder) -> SandboxControllerService:
    return SandboxControllerService({"fake": controller}, events)  # type: ignore[arg-type]


def without_times(sandbox: sandbox_pb2.Sandbox) -> sandbox_pb2.Sandbox:
    assert sandbox.created_at.seconds > 0
    kept = sandbox_pb2.Sandbox()
    kept.CopyFrom(sandbox)
    kept.ClearField("created_at")
    kept.ClearField("updated_at")
    return kept


async def test_records(store: SandboxStoreService) -> None:
    created = await store.create(pb.StoreCreateRequest(sandbox=SANDBOX), CALL)
    assert without_times(created.sandbox) == SANDBOX
    assert (await store.get(pb.StoreGetRequest(sandbox_id="s"), CALL)).sandbox == created.sandbox
    with pytest.raises(AlreadyExistsError):
        await store.create(pb.StoreCreateRequest(sandbox=SANDBOX), CALL)
    changed = sandbox_pb2.Sandbox(sandbox_id="s", labels={"a": "c"})
    updated = await store.update(pb.StoreUpdateRequest(sandbox=changed, fields=["labels.a"]), CALL)
    assert updated.sandbox.labels == {"a": "c"}
    assert updated.sandbox.runtime.name == "r"
    listed = await store.list(pb.StoreListRequest(filters=["labels.a==c"]), CALL)
    assert [sandbox.sandbox_id for sandbox in listed.list] == ["s"]
    assert not (await store.list(pb.StoreListRequest(filters=["id==t"]), CALL)).list
    await store.delete(pb.StoreDeleteRequest(sandbox_id="s"), CALL)
    with pytest.raises(NotFoundError):
        await store.get(pb.StoreGetRequest(sandbox_id="s"), CALL)


async def test_a_sandbox_is_told_of(
    service: SandboxControllerService, controller: FakeController, events: Recorder
) -> None:
    request = pb.ControllerCreateRequest(
        sandbox_id="s", sandboxer="fake", sandbox=SANDBOX, netns_path="/n", annotations={"k": "v"}
    )
    assert (await service.create(request, CALL)).sandbox_id == "s"
    _, scope, sandbox, given = controller.calls[0]
    assert scope == Scope("ns")
    assert (sandbox.runtime_name, sandbox.spec) == ("r", AnyValue("spec", b"{}"))
    assert (given.netns_path, given.annotations, given.options) == ("/n", {"k": "v"}, None)
    started = await service.start(pb.ControllerStartRequest(sandbox_id="s", sandboxer="fake"), CALL)
    assert (started.sandbox_id, started.pid, started.created_at.seconds) == ("s", 7, 1)
    ended = await service.wait(pb.ControllerWaitRequest(sandbox_id="s", sandboxer="fake"), CALL)
    assert (ended.exit_status, ended.exited_at.seconds) == (5, 2)
    assert events.events == [
        ("ns", SandboxCreate("s")),
        ("ns", SandboxStart("s")),
        ("ns", SandboxExit("s", 5, 2 * SECOND)),
    ]


async def test_a_sandbox_may_have_no_record(
    service: SandboxControllerService, controller: FakeController
) -> None:
    await service.create(pb.ControllerCreateRequest(sandbox_id="s", sandboxer="fake"), CALL)
    assert controller.calls[0][2] == Sandbox("s")


async def test_what_a_sandbox_says(service: SandboxControllerService, controller: FakeController) -> None:
    named: dict[str, Any] = {"sandbox_id": "s", "sandboxer": "fake"}
    status = await service.status(pb.ControllerStatusRequest(**named, verbose=True), CALL)
    assert (status.state, dict(status.info)) == ("READY", {"v": "True"})
    assert status.HasField("extra")
    assert not status.HasField("exited_at")
    platform = (await service.platform(pb.ControllerPlatformRequest(**named), CALL)).platform
    assert (platform.os, platform.architecture, platform.variant) == ("linux", "arm64", "v8")
    metric = (await service.metrics(pb.ControllerMetricsRequest(**named), CALL)).metrics
    assert (metric.id, metric.timestamp.seconds, metric.data.type_url) == ("s", 1, "m")
    await service.stop(pb.ControllerStopRequest(**named, timeout_secs=4), CALL)
    await service.shutdown(pb.ControllerShutdownRequest(**named), CALL)
    await service.update(pb.ControllerUpdateRequest(**named, sandbox=SANDBOX, fields=["labels"]), CALL)
    assert controller.calls == [("stop", "s", 4), ("shutdown", "s"), ("update", "s", ("labels",))]
    with pytest.raises(InvalidArgumentError, match="sandbox can not be nil"):
        await service.update(pb.ControllerUpdateRequest(**named), CALL)


async def test_a_controller_must_be_named(service: SandboxControllerService) -> None:
    with pytest.raises(InvalidArgumentError, match="sandbox controller name can not be empty"):
        await service.start(pb.ControllerStartRequest(sandbox_id="s"), CALL)
    with pytest.raises(NotFoundError, match="failed to get sandbox controller by other; there is fake"):
        await service.start(pb.ControllerStartRequest(sandbox_id="s", sandboxer="other"), CALL)
