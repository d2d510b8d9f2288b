"""Calls in the same process behave as over a socket, without the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from tests.unit.rpc import echo

from containerd_hybrid.client.api import Transport
from containerd_hybrid.errors import (
    DeadlineExceededError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
)
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.rpc.describe import service_from
from containerd_hybrid.rpc.inprocess import InProcessTransport
from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services


def transport_of(handlers: echo.Echo) -> Transport:
    services = [service_from(echo.descriptor(), handlers)]
    return InProcessTransport(wrap_services(services, standard_interceptors(CallMetrics())))


async def once(transport: Transport, text: str, **options: Any) -> str:
    options.setdefault("metadata", {})
    return (await transport.unary(echo.NAME, "Once", StringValue(value=text), StringValue, **options)).value


def count_down(transport: Transport, text: str) -> AsyncIterator[StringValue]:
    return transport.server_stream(echo.NAME, "CountDown", StringValue(value=text), StringValue, metadata={})


def each(transport: Transport, texts: AsyncIterator[StringValue]) -> AsyncIterator[StringValue]:
    return transport.bidi_stream(echo.NAME, "Each", texts, StringValue, metadata={})


async def read_all(stream: AsyncIterator[StringValue], into: list[str]) -> None:
    async for message in stream:
        into.append(message.value)


async def messages(*texts: str) -> AsyncIterator[StringValue]:
    for text in texts:
        yield StringValue(value=text)


async def test_unary_with_metadata() -> None:
    handlers = echo.Echo()
    assert await once(transport_of(handlers), "hi", metadata={"Containerd-Namespace": "moby"}) == "hi"
    assert handlers.calls[0].scope.namespace == "moby"


async def test_errors_are_the_objects_that_were_raised() -> None:
    transport = transport_of(echo.Echo())
    with pytest.raises(NotFoundError, match="as you wish"):
        await once(transport, "fail:NOT_FOUND")
    received: list[str] = []
    with pytest.raises(NotFoundError):
        await read_all(count_down(transport, "2:fail:NOT_FOUND"), received)
    assert received == ["2", "1"]


async def test_timeout() -> None:
    handlers = echo.Echo()
    with pytest.raises(DeadlineExceededError):
        await once(transport_of(handlers), "hang", timeout=0.02)
    assert handlers.cancelled == ["once"]


async def test_unknown_names() -> None:
    transport = transport_of(echo.Echo())
    with pytest.raises(UnimplementedError, match=r"unknown service no\.Such"):
        await transport.unary("no.Such", "Once", StringValue(), StringValue, metadata={})
    with pytest.raises(UnimplementedError, match="unknown method Twice"):
        await transport.unary(echo.NAME, "Twice", StringValue(), StringValue, metadata={})
    with pytest.raises(UnimplementedError, match="unknown method Each"):
        await transport.unary(echo.NAME, "Each", StringValue(), StringValue, metadata={})


async def test_neither_side_sees_the_other_change_a_message() -> None:
    class Keeper(echo.Echo):
        kept: StringValue

        async def once(self, request: StringValue, call: CallContext) -> StringValue:
            self.kept = request
            request.value = "changed by the handler"
            return request

    handlers = Keeper()
    request = StringValue(value="mine")
    answer = await transport_of(handlers).unary(echo.NAME, "Once", request, StringValue, metadata={})
    assert request.value == "mine"
    answer.value = "changed by the caller"
    assert handlers.kept.value == "changed by the handler"


async def test_a_bidirectional_stream_answers_message_by_message() -> None:
    transport = transport_of(echo.Echo())
    to_send: asyncio.Queue[str | None] = asyncio.Queue()

    async def outgoing() -> AsyncIterator[StringValue]:
        while (text := await to_send.get()) is not None:
            yield StringValue(value=text)

    async with aclosing(each(transport, outgoing())) as answers:  # type: ignore[type-var]
        for text in ("a", "b"):
            await to_send.put(text)
            assert (await anext(answers)).value == text
        await to_send.put(None)
        assert [answer async for answer in answers] == []


async def test_requests_flow_without_a_reader_but_only_so_many() -> None:
    handlers = echo.Echo()
    transport = transport_of(handlers)
    sent = 0

    async def endless() -> AsyncIterator[StringValue]:
        nonlocal sent
        while True:
            sent += 1
            yield StringValue(value=str(sent))

    async with aclosing(each(transport, endless())) as answers:  # type: ignore[type-var]
        assert (await anext(answers)).value == "1"
        for _ in range(1000):
            await asyncio.sleep(0)
        assert 1 < sent < 100


async def test_leaving_a_stream_cancels_its_handler_and_its_source() -> None:
    handlers = echo.Echo()
    transport = transport_of(handlers)
    closed = []

    async def source() -> AsyncIterator[StringValue]:
        try:
            yield StringValue(value="a")
            yield StringValue(value="hang")
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async with aclosing(each(transport, source())) as answers:  # type: ignore[type-var]
        await anext(answers)
        while not handlers.running:
            await asyncio.sleep(0)
    assert handlers.cancelled == ["each"]
    assert handlers.running == 0
    assert closed == [True]


async def test_a_failure_of_the_callers_own_source_comes_back_to_it() -> None:
    async def broken() -> AsyncIterator[StringValue]:
        yield StringValue(value="a")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await read_all(each(transport_of(echo.Echo()), broken()), [])


async def test_cancelling_the_reader_cancels_the_handler() -> None:
    handlers = echo.Echo()
    transport = transport_of(handlers)
    task = asyncio.create_task(read_all(count_down(transport, "1:hang"), []))
    while not handlers.running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handlers.cancelled == ["count_down"]


async def test_closing_ends_open_streams_and_refuses_calls() -> None:
    handlers = echo.Echo()
    transport = transport_of(handlers)
    stream = count_down(transport, "1:hang")
    await anext(stream)
    await transport.close()
    with pytest.raises(UnavailableError):
        await anext(stream)
    with pytest.raises(UnavailableError, match="closed"):
        await once(transport, "hi")
    assert handlers.running == 0


async def test_a_long_stream_arrives_whole_and_in_order() -> None:
    received = [int(m.value) async for m in count_down(transport_of(echo.Echo()), "1000")]
    assert received == list(range(1000, 0, -1))


async def test_the_empty_source_ends_the_stream() -> None:
    assert [m async for m in each(transport_of(echo.Echo()), messages())] == []
