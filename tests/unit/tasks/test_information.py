"""What a runtime says of itself, from its program to the message that introspection answers with."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.unit.tasks.kit import RUNTIME, World

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnimplementedError, UnknownError
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.types import introspection_pb2 as pb

REQUEST = "containerd.types.RuntimeRequest"
OPTIONS = AnyMessage(type_url="containerd.runc.v1.Options", value=b"\x3a\x02/r")
INFO = pb.RuntimeInfo(
    name=RUNTIME,
    version=pb.RuntimeVersion(version="1.2", revision="abc"),
    options=OPTIONS,
    features=AnyMessage(type_url="types.containerd.io/features", value=b"{}"),
    annotations={"a": "b"},
)


def answers(world: World, text: str) -> None:
    world.program.write_text(text)


@pytest.fixture
def told(world: World, tmp_path: Path) -> Path:
    """Let the shim program answer -info; the file in which it notes what it was given."""
    (tmp_path / "info").write_bytes(INFO.SerializeToString())
    answers(
        world,
        f'#!/bin/sh\n[ "$*" = -info ] || exit 9\ncat > {tmp_path}/given\nexec cat {tmp_path}/info\n',
    )
    return tmp_path / "given"


async def test_the_answer_is_what_the_program_says(world: World, told: Path) -> None:
    request = pb.RuntimeRequest(runtime_path=RUNTIME, options=OPTIONS)
    answer = await world.tasks.plugin_info(AnyValue(REQUEST, request.SerializeToString()))
    assert answer.type_url == "containerd.types.RuntimeInfo"
    assert pb.RuntimeInfo.FromString(answer.value) == INFO
    assert told.read_bytes() == OPTIONS.SerializeToString()


async def test_without_options_the_program_is_given_none(world: World, told: Path) -> None:
    info = await world.tasks.runtime_info(str(world.program))
    assert (info.name, info.version, info.revision) == (RUNTIME, "1.2", "abc")
    assert info.features == AnyValue("types.containerd.io/features", b"{}")
    assert told.read_bytes() == b""


async def test_another_question(world: World) -> None:
    with pytest.raises(UnimplementedError, match=r"unknown request type containerd\.types\.Mount"):
        await world.tasks.plugin_info(AnyValue("containerd.types.Mount", b""))


async def test_no_message(world: World) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot decode containerd\.types\.RuntimeRequest"):
        await world.tasks.plugin_info(AnyValue(REQUEST, b"\xff"))


async def test_a_runtime_that_is_not_installed(world: World) -> None:
    with pytest.raises(NotFoundError, match="binary not installed"):
        await world.tasks.runtime_info("io.containerd.nothing.v9")


async def test_a_program_that_cannot_say(world: World) -> None:
    answers(world, "#!/bin/sh\necho flag provided but not defined: -info >&2\nexit 2\n")
    with pytest.raises(UnknownError, match="flag provided but not defined: -info: exit status 2"):
        await world.tasks.runtime_info(RUNTIME)


async def test_a_program_that_prints_something_else(world: World) -> None:
    answers(world, "#!/bin/sh\nprintf '\\377\\377'\n")
    with pytest.raises(UnknownError, match="-info printed"):
        await world.tasks.runtime_info(RUNTIME)
