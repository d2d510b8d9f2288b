"""Calls over a real socket: statuses become our errors, and what was begun is ended."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from containerd_hybrid.client.calls import Calls, to_the_end
from containerd_hybrid.client.grpc_transport import GrpcTransport
from containerd_hybrid.client.streams import open_stream
from containerd_hybrid.errors import (
    CODES,
    CallCancelledError,
    DeadlineExceededError,
    HybridError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnimplementedError,
)

SERVICE = "test.Echo"
HEADERS = {"containerd-namespace": "ns"}


class Server:
    """One service of plain handlers."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.ended = asyncio.Event()
        self.received: list[str] = []

    async def unary(self, request: StringValue, context: Any) -> StringValue:
        self.metadata = dict(context.invocation_metadata())
        if request.value.startswith("fail "):
            await context.abort(getattr(grpc.StatusCode, request.value[5:]), "told why")
        if request.value == "wait":
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
        return StringValue(value=request.value.upper())

    async def down(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        try:
            for number in range(10_000):
                if request.value == "fail" and number == 3:
                    await context.abort(grpc.StatusCode.NOT_FOUND, "no more")
                yield StringValue(value=str(number))
        finally:
            self.ended.set()

    async def both(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        try:
            async for request in requests:
                self.received.append(request.value)
                yield StringValue(value=request.value.upper())
        finally:
            self.ended.set()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Server, GrpcTransport]]:
    handlers = Server()
    kinds = {
        "Unary": (grpc.unary_unary_rpc_method_handler, handlers.unary),
        "Down": (grpc.unary_stream_rpc_method_handler, handlers.down),
        "Both": (grpc.stream_stream_rpc_method_handler, handlers.both),
    }
    methods = {
        name: make(
            handler,
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )
        for name, (make, handler) in kinds.items()
    }
    running = grpc.aio.server()
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    address = str(tmp_path / "s.sock")
    running.add_insecure_port(f"unix:{address}")
    await running.start()
    transport = GrpcTransport(f"unix://{address}")
    yield handlers, transport
    await transport.close()
    await running.stop(None)


async def call(transport: GrpcTransport, text: str, timeout: float | None = None) -> str:
    answer = await transport.unary(
        SERVICE, "Unary", StringValue(value=text), StringValue, metadata=HEADERS, timeout=timeout
    )
    return answer.value


async def test_a_call_takes_its_headers_along(server: tuple[Server, GrpcTransport]) -> None:
    handlers, transport = server
    assert await call(transport, "abc") == "ABC"
    assert handlers.metadata["containerd-namespace"] == "ns"


@pytest.mark.parametrize("code", [code for code in CODES if code != "OK"])
async def test_every_status_has_its_error(server: tuple[Server, GrpcTransport], code: str) -> None:
    with pytest.raises(HybridError, match="told why") as caught:
        await call(server[1], f"fail {code}")
    assert caught.value.code == code
    assert caught.value.__cause__ is None


async def test_deadlines_and_cancellation_reach_the_server(server: tuple[Server, GrpcTransport]) -> None:
    handlers, transport = server
    for seconds in (0.2, 2.0, 20.0):
        with pytest.raises(DeadlineExceededError):
            await call(transport, "wait", timeout=seconds)
        if handlers.metadata:
            break  # or else it was not long enough to arrive
    await handlers.ended.wait()
    handlers.ended.clear()
    handlers.metadata = {}
    waiting = asyncio.ensure_future(call(transport, "wait"))
    while not handlers.metadata:
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await handlers.ended.wait()


async def test_a_stream_that_is_left_ends_at_the_server(server: tuple[Server, GrpcTransport]) -> None:
    handlers, transport = server
    messages = transport.server_stream(SERVICE, "Down", StringValue(), StringValue, metadata=HEADERS)
    async with aclosing(messages) as stream:  # type: ignore[type-var]
        async for message in stream:
            if message.value == "5":
                break
    await handlers.ended.wait()


async def test_a_stream_that_fails_gives_what_came_before(server: tuple[Server, GrpcTransport]) -> None:
    messages = server[1].server_stream(
        SERVICE, "Down", StringValue(value="fail"), StringValue, metadata=HEADERS
    )
    seen = []
    with pytest.raises(NotFoundError, match="no more"):  # noqa: PT012
        async for message in messages:
            seen.append(message.value)
    assert seen == ["0", "1", "2"]


async def test_both_directions(server: tuple[Server, GrpcTransport]) -> None:
    async def requests() -> AsyncIterator[StringValue]:
        for word in ("a", "b"):
            yield StringValue(value=word)

    messages = server[1].bidi_stream(SERVICE, "Both", requests(), StringValue, metadata=HEADERS)
    assert [message.value async for message in messages] == ["A", "B"]


async def test_the_senders_iterator_ends_with_the_call(server: tuple[Server, GrpcTransport]) -> None:
    ended = asyncio.Event()

    async def requests() -> AsyncIterator[StringValue]:
        try:
            yield StringValue(value="a")
            await asyncio.Event().wait()
        finally:
            ended.set()

    messages = server[1].bidi_stream(SERVICE, "Both", requests(), StringValue, metadata=HEADERS)
    async with aclosing(messages) as stream:  # type: ignore[type-var]
        assert (await anext(stream)).value == "A"
    await ended.wait()
    await server[0].ended.wait()


async def test_what_the_server_does_not_know(server: tuple[Server, GrpcTransport]) -> None:
    transport = server[1]
    with pytest.raises(UnimplementedError):
        await transport.unary("test.Other", "X", StringValue(), StringValue, metadata={})
    # However often: the refusal must not get lost between the two directions.
    for _ in range(30):
        with pytest.raises(UnimplementedError, match=r"no transfer service"):
            async with open_stream(Calls(transport, "ns")):
                pass


async def test_a_closed_transport_cancels_what_is_under_way(server: tuple[Server, GrpcTransport]) -> None:
    transport = server[1]
    waiting = asyncio.ensure_future(call(transport, "wait"))
    while not server[0].metadata:
        await asyncio.sleep(0.01)
    await transport.close()
    with pytest.raises((CallCancelledError, asyncio.CancelledError, UnavailableError)):
        await waiting


async def test_nobody_listens(tmp_path: Path) -> None:
    address = tmp_path / "none.sock"
    transport = GrpcTransport(str(address))
    with pytest.raises(UnavailableError, match=rf"no daemon answers at {address}: start one"):
        await call(transport, "x")
    # A socket that a daemon left when it was killed.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(address))
    with pytest.raises(UnavailableError, match=rf"no daemon answers at {address}"):
        await call(GrpcTransport(str(address)), "x")
    await transport.close()


@pytest.fixture
def foreign_folder() -> Iterator[Path]:
    """One that every user may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def test_a_socket_that_may_not_be_used(foreign_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    address = foreign_folder / "s.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        address.chmod(0o600)
        os.seteuid(65534)
        try:
            transport = GrpcTransport(str(address))
            with pytest.raises(PermissionDeniedError, match=rf"{address} may not be used by this user"):
                await call(transport, "x")
            await transport.close()
        finally:
            os.seteuid(0)


# --- calls that are not left half-way


async def test_a_cancelled_call_is_waited_for_and_undone() -> None:
    steps: list[str] = []
    release = asyncio.Event()

    async def make() -> str:
        await release.wait()
        steps.append("made")
        return "thing"

    async def undo() -> None:
        steps.append("undone")

    making = asyncio.ensure_future(to_the_end(make(), undo))
    await asyncio.sleep(0)
    making.cancel()
    await asyncio.sleep(0)
    assert not making.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert steps == ["made", "undone"]


async def test_what_failed_is_not_undone() -> None:
    release = asyncio.Event()

    async def fail() -> None:
        await release.wait()
        raise NotFoundError("nothing")

    async def undo() -> None:
        raise AssertionError

    making = asyncio.ensure_future(to_the_end(fail(), undo))
    await asyncio.sleep(0)
    making.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await making
    with pytest.raises(NotFoundError, match="nothing"):
        await to_the_end(fail(), undo)


async def test_an_undoing_that_fails_is_a_note_on_the_cancellation() -> None:
    release = asyncio.Event()

    async def make() -> None:
        await release.wait()

    async def undo() -> None:
        raise UnavailableError("gone")

    making = asyncio.ensure_future(to_the_end(make(), undo))
    await asyncio.sleep(0)
    making.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await making
    assert caught.value.__notes__ == ["it could not be cleaned up either: gone"]
