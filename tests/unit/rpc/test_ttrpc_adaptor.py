"""The same tables over ttrpc: kinds, headers, statuses and the socket."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from tests.unit.rpc import echo

from containerd_hybrid.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
)
from containerd_hybrid.rpc.describe import service_from
from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services
from containerd_hybrid.rpc.sockets import SocketOwner
from containerd_hybrid.rpc.ttrpc_adaptor import TtrpcAdaptor, server_methods
from containerd_hybrid.ttrpc.client import Client, connect
from containerd_hybrid.ttrpc.server import Server


def adaptor_of(handlers: echo.Echo, path: Path) -> TtrpcAdaptor:
    services = wrap_services(
        [service_from(echo.descriptor(), handlers)], standard_interceptors(CallMetrics())
    )
    return TtrpcAdaptor(Server(server_methods(services)), str(path), SocketOwner(os.geteuid(), os.getegid()))


class Served:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.handlers = echo.Echo()
        self.adaptor = adaptor_of(self.handlers, path)
        self.client: Client

    async def once(self, text: str, timeout: float | None = None, **headers: str) -> str:
        metadata = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.client.call(echo.NAME, "Once", packed(text), timeout=timeout, metadata=metadata)
        return StringValue.FromString(answer).value


def packed(text: str) -> bytes:
    return StringValue(value=text).SerializeToString()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    fixture = Served(tmp_path / "s")
    await fixture.adaptor.start()
    fixture.client = await connect(str(fixture.path))
    yield fixture
    await fixture.client.close()
    await fixture.adaptor.close()


async def test_a_call_with_its_namespace(served: Served) -> None:
    assert await served.once("hi", containerd_namespace_ttrpc="k8s.io") == "hi"
    (call,) = served.handlers.calls
    assert call.namespace == "k8s.io"
    assert call.method == f"/{echo.NAME}/Once"
    assert call.peer == f"pid:{os.getpid()}"


async def test_statuses(served: Served) -> None:
    with pytest.raises(NotFoundError, match="as you wish"):
        await served.once("fail:NOT_FOUND")
    with pytest.raises(InternalError) as caught:
        await served.once("bug")
    assert "hunter2" not in caught.value.message
    with pytest.raises(InvalidArgumentError, match="namespace validation"):
        await served.once("hi", containerd_namespace_ttrpc="../x")
    with pytest.raises(UnimplementedError, match="method Twice"):
        await served.client.call(echo.NAME, "Twice", b"")
    with pytest.raises(InternalError, match="error unmarshalling payload"):
        await served.client.call(echo.NAME, "Once", b"\xff\xff")


async def test_the_deadline_is_enforced_by_the_server(served: Served) -> None:
    with pytest.raises(DeadlineExceededError):
        await served.once("hang", timeout=0.05)
    while served.handlers.cancelled != ["once"]:
        await asyncio.sleep(0.001)


async def test_streams_of_every_kind(served: Served) -> None:
    stream = await served.client.open_stream(echo.NAME, "CountDown", packed("2"))
    assert [StringValue.FromString(m).value async for m in stream] == ["2", "1"]
    stream = await served.client.open_stream(echo.NAME, "JoinAll", client_stream=True)
    for text in ("a", "b"):
        await stream.send(packed(text))
    await stream.close_send()
    assert StringValue.FromString(await stream.receive() or b"").value == "a,b"
    stream = await served.client.open_stream(echo.NAME, "Each", client_stream=True)
    await stream.send(packed("x"))
    assert StringValue.FromString(await stream.receive() or b"").value == "x"
    await stream.close()


async def test_the_socket(served: Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o660
    with pytest.raises(FailedPreconditionError, match="in use by another daemon"):
        await adaptor_of(echo.Echo(), served.path).start()
    await served.adaptor.drain(1)
    assert not served.path.exists()
    with pytest.raises(UnavailableError):
        await connect(str(served.path))
