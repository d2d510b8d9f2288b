"""Introspection: what plug-ins there are, and what one of them says when it is asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.app.api import Plugin, PluginStatus, PluginType, SkipPlugin
from containerd_hybrid.app.deprecations import Deprecations, warn_of_host
from containerd_hybrid.errors import FailedPreconditionError, NotFoundError, UnimplementedError
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.model.deprecations import Deprecation
from containerd_hybrid.proto.services.introspection.v1 import introspection_pb2 as pb
from containerd_hybrid.proto.types import introspection_pb2 as types_pb
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.rpc.services.introspection import IntrospectionService

CALL = CallContext("/containerd.services.introspection.v1.Introspection/PluginInfo")
QUESTION = AnyMessage(type_url=types_pb.RuntimeRequest.DESCRIPTOR.full_name, value=b"\n\x01r")


class Talkative:
    async def plugin_info(self, options: AnyValue) -> AnyValue:
        return AnyValue("answer.to/" + options.type_url, options.value[::-1])


class Catalog:
    def __init__(self, *statuses: PluginStatus) -> None:
        self._statuses = statuses

    def statuses(self) -> tuple[PluginStatus, ...]:
        return self._statuses


def plugin(id: str) -> Plugin:
    return Plugin(PluginType.RUNTIME, id, lambda _: None)


@pytest.fixture
def service(tmp_path: Path) -> IntrospectionService:
    catalog = Catalog(
        PluginStatus(plugin("task"), instance=Talkative()),
        PluginStatus(plugin("quiet"), instance=object()),
        PluginStatus(plugin("broken"), SkipPlugin("no such device")),
    )
    return IntrospectionService(catalog, tmp_path / "service" / "uuid", Deprecations())


def request(id: str, options: AnyMessage | None = None) -> pb.PluginInfoRequest:
    return pb.PluginInfoRequest(type="io.containerd.runtime.v2", id=id, options=options)


async def test_a_plugin_answers_its_question(service: IntrospectionService) -> None:
    response = await service.plugin_info(request("task", QUESTION), CALL)
    assert response.plugin.id == "task"
    assert response.extra.type_url == "answer.to/containerd.types.RuntimeRequest"
    assert response.extra.value == b"r\x01\n"


@pytest.mark.parametrize("id", ["task", "quiet", "broken"])
async def test_without_a_question_every_plugin_is_described(service: IntrospectionService, id: str) -> None:
    response = await service.plugin_info(request(id), CALL)
    assert response.plugin.id == id
    assert not response.HasField("extra")


async def test_a_plugin_without_answers(service: IntrospectionService) -> None:
    with pytest.raises(UnimplementedError, match=r"runtime\.v2\.quiet does not provide extra information"):
        await service.plugin_info(request("quiet", QUESTION), CALL)


async def test_a_plugin_that_is_not_there(service: IntrospectionService) -> None:
    with pytest.raises(FailedPreconditionError, match=r"broken not successfully loaded \(no such device"):
        await service.plugin_info(request("broken", QUESTION), CALL)


async def test_an_unknown_plugin(service: IntrospectionService) -> None:
    with pytest.raises(NotFoundError, match=r"plugin io\.containerd\.runtime\.v2\.nothing not found"):
        await service.plugin_info(request("nothing", QUESTION), CALL)


async def test_a_question_of_an_unknown_type(service: IntrospectionService) -> None:
    with pytest.raises(NotFoundError, match=r"type with url x\.Y"):
        await service.plugin_info(request("task", AnyMessage(type_url="x.Y")), CALL)


async def test_the_server_keeps_its_identity(service: IntrospectionService, tmp_path: Path) -> None:
    first = await service.server(Empty(), CALL)
    assert first.uuid == (await service.server(Empty(), CALL)).uuid
    assert first.uuid == (tmp_path / "service" / "uuid").read_text()


async def test_the_server_tells_of_deprecated_use(tmp_path: Path) -> None:
    deprecations = Deprecations()
    service = IntrospectionService(Catalog(), tmp_path / "uuid", deprecations)
    assert not (await service.server(Empty(), CALL)).deprecations
    deprecations.warn(Deprecation.RUNC_OPTIONS_TASK_API_ADDRESS)
    before = time.time_ns()
    deprecations.warn(Deprecation.RUNC_OPTIONS_TASK_API_ADDRESS)
    (warning,) = (await service.server(Empty(), CALL)).deprecations
    assert warning.id == "io.containerd.deprecation/runc-options-task-api-address"
    assert "CreateTaskRequest" in warning.message
    assert warning.last_occurrence.ToNanoseconds() >= before


def test_a_host_with_version_1_cgroups_is_warned_of(tmp_path: Path) -> None:
    deprecations = Deprecations()
    (tmp_path / "cgroup.controllers").touch()
    warn_of_host(deprecations, tmp_path / "cgroup.controllers")
    assert deprecations.seen() == {}
    warn_of_host(deprecations, tmp_path / "nothing")
    assert set(deprecations.seen()) == {Deprecation.CGROUP_V1}


@pytest.mark.parametrize("deprecation", Deprecation)
def test_every_deprecation_has_an_id_and_advice(deprecation: Deprecation) -> None:
    assert deprecation.startswith("io.containerd.deprecation/")
    assert deprecation.advice
