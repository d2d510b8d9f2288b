"""Reflection as clients use it: everything that is served can be listed and described."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.proto.grpc.health.v1 import health_pb2
from containerd_hybrid.proto.grpc.reflection.v1 import reflection_pb2 as pb
from containerd_hybrid.proto.services.mounts.v1 import mounts_pb2
from containerd_hybrid.rpc.api import CallContext, Service
from containerd_hybrid.rpc.services.reflection import reflecting

MOUNTS = "containerd.services.mounts.v1.Mounts"
HEALTH = "grpc.health.v1.Health"
V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
Ask = pb.ServerReflectionRequest


SERVICES = reflecting([Service(MOUNTS, {}), Service(HEALTH, {})])


async def answers(
    *questions: pb.ServerReflectionRequest, service: str = V1
) -> list[pb.ServerReflectionResponse]:
    async def requests() -> AsyncIterator[pb.ServerReflectionRequest]:
        for question in questions:
            yield question

    (method,) = next(one for one in SERVICES if one.name == service).methods.values()
    handler: Any = method.handler
    return [answer async for answer in handler(requests(), CallContext(service))]


def files(answer: pb.ServerReflectionResponse) -> list[descriptor_pb2.FileDescriptorProto]:
    found = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(file) for file in found]


def pool_of(answers: Sequence[pb.ServerReflectionResponse]) -> descriptor_pool.DescriptorPool:
    """What a client has after these answers; fails when an import is missing."""
    pool = descriptor_pool.DescriptorPool()
    waiting = {file.name: file for answer in answers for file in files(answer)}

    def add(name: str) -> None:
        file = waiting.pop(name, None)
        if file is not None:
            for dependency in file.dependency:
                add(dependency)
            pool.Add(file)

    for name in list(waiting):
        add(name)
    return pool


@pytest.mark.parametrize("service", [V1, V1ALPHA])
async def test_services_are_listed(service: str) -> None:
    (answer,) = await answers(Ask(host="h", list_services="*"), service=service)
    assert [one.name for one in answer.list_services_response.service] == [MOUNTS, HEALTH, V1, V1ALPHA]
    assert answer.valid_host == "h"
    assert answer.original_request == Ask(host="h", list_services="*")


@pytest.mark.parametrize("name", [MOUNTS, HEALTH, V1, V1ALPHA])
async def test_every_service_is_described_with_its_imports(name: str) -> None:
    described = pool_of(await answers(Ask(file_containing_symbol=name))).FindServiceByName(name)
    assert described.full_name == name
    for method in described.methods:
        assert method.input_type.full_name
        assert method.output_type.full_name


@pytest.mark.parametrize(
    "symbol",
    [
        "containerd.services.mounts.v1.Mounts.Activate",
        "containerd.services.mounts.v1.ActivateRequest",
        ".containerd.services.mounts.v1.ActivateRequest",
        "containerd.services.mounts.v1.ActivateRequest.name",
        "containerd.services.mounts.v1.ActivateRequest.LabelsEntry",
    ],
)
async def test_symbols_of_every_kind(symbol: str) -> None:
    (answer,) = await answers(Ask(file_containing_symbol=symbol))
    assert files(answer)[0].name == mounts_pb2.DESCRIPTOR.name


async def test_a_file_by_its_name() -> None:
    (answer,) = await answers(Ask(file_by_filename=health_pb2.DESCRIPTOR.name))
    assert files(answer)[0].package == "grpc.health.v1"


async def test_imports_are_sent_once() -> None:
    first, again, other = await answers(
        Ask(file_containing_symbol=MOUNTS),
        Ask(file_containing_symbol=MOUNTS),
        Ask(file_containing_symbol="containerd.services.images.v1.Images"),
    )
    assert len(files(first)) > 1
    assert [file.name for file in files(again)] == [mounts_pb2.DESCRIPTOR.name]
    assert not {file.name for file in files(other)} & {file.name for file in files(first)}


@pytest.mark.parametrize(
    "question",
    [
        Ask(file_containing_symbol="no.such.Thing"),
        Ask(file_containing_symbol=f"{MOUNTS}.NoSuchMethod"),
        Ask(file_by_filename="no/such.proto"),
        Ask(all_extension_numbers_of_type="no.such.Message"),
        Ask(file_containing_extension=pb.ExtensionRequest(containing_type="a.B", extension_number=1)),
    ],
)
async def test_what_is_not_there_does_not_end_the_stream(question: pb.ServerReflectionRequest) -> None:
    missing, listed = await answers(question, Ask(list_services=""))
    assert missing.error_response.error_code == 5
    assert missing.error_response.error_message.endswith("not found")
    assert listed.list_services_response.service


async def test_extensions() -> None:
    numbers, none = await answers(
        Ask(all_extension_numbers_of_type="google.protobuf.MethodOptions"),
        Ask(all_extension_numbers_of_type="containerd.services.mounts.v1.ActivateRequest"),
    )
    assert numbers.all_extension_numbers_response.base_type_name == "google.protobuf.MethodOptions"
    assert list(none.all_extension_numbers_response.extension_number) == []
    assert not none.HasField("error_response")


async def test_a_question_without_a_question_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        await answers(Ask(host="h"))
