"""An answer waits until the events that its call caused are written, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.proto.services.version.v1.version_pb2 import VersionResponse
from containerd_hybrid.rpc.api import CallContext, Kind, Method
from containerd_hybrid.rpc.interceptors.recorded import RecordedInterceptor

CALL = CallContext("/s/M")


class Log:
    """Has what was published written when the test says so."""

    def __init__(self) -> None:
        self.last = 0
        self.waited = 0
        self.written = asyncio.Event()

    async def settled(self) -> None:
        self.waited += 1
        await self.written.wait()


def wrapped(log: Log, kind: Kind, handler: Any) -> Any:
    method = Method("M", VersionResponse, VersionResponse, kind, handler)
    return RecordedInterceptor(log).wrap("s", method).handler


async def test_an_answer_waits_for_what_was_published() -> None:
    log = Log()

    async def publishes(request: VersionResponse, call: CallContext) -> VersionResponse:
        log.last += 1
        return request

    answer = asyncio.ensure_future(wrapped(log, Kind.UNARY, publishes)(VersionResponse(version="1"), CALL))
    while not log.waited:
        await asyncio.sleep(0)
    assert not answer.done()
    log.written.set()
    assert (await answer).version == "1"


async def test_a_call_that_published_nothing_does_not_wait_and_one_that_failed_neither() -> None:
    log = Log()

    async def quiet(request: VersionResponse, call: CallContext) -> VersionResponse:
        return request

    async def fails(request: VersionResponse, call: CallContext) -> VersionResponse:
        log.last += 1
        raise NotFoundError("no such thing")

    await wrapped(log, Kind.UNARY, quiet)(VersionResponse(), CALL)
    with pytest.raises(NotFoundError):
        await wrapped(log, Kind.UNARY, fails)(VersionResponse(), CALL)
    assert log.waited == 0


async def test_each_answer_of_a_stream_waits_for_what_was_published_before_it() -> None:
    log = Log()
    log.written.set()

    async def answers(requests: object, call: CallContext) -> AsyncIterator[VersionResponse]:
        yield VersionResponse(version="nothing yet")
        log.last += 1
        yield VersionResponse(version="published")
        yield VersionResponse(version="nothing more")

    handler = wrapped(log, Kind.BIDI_STREAM, answers)
    waits = [(one.version, log.waited) async for one in handler(None, CALL)]
    assert waits == [("nothing yet", 0), ("published", 1), ("nothing more", 1)]


async def test_what_only_tells_is_left_as_it_is() -> None:
    async def tells(request: object, call: CallContext) -> AsyncIterator[VersionResponse]:
        yield VersionResponse()

    assert wrapped(Log(), Kind.SERVER_STREAM, tells) is tells
