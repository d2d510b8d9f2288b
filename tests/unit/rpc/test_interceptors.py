"""What is put around handlers: context from headers, statuses from failures, counts, deadlines."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import StringValue
from tests.unit.rpc import echo

from containerd_hybrid.errors import (
    DeadlineExceededError,
    HybridError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)
from containerd_hybrid.rpc.api import CallContext, Kind, Service
from containerd_hybrid.rpc.describe import service_from
from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services
from containerd_hybrid.rpc.interceptors.errors import translate


def wrapped(handlers: echo.Echo, metrics: CallMetrics | None = None) -> Service:
    service = service_from(echo.descriptor(), handlers)
    return wrap_services([service], standard_interceptors(metrics or CallMetrics()))[0]


async def call(service: Service, method: str, text: str, **context: Any) -> Any:
    handler: Any = service.methods[method].handler
    made = CallContext(method=f"/{service.name}/{method}", **context)
    if service.methods[method].kind is Kind.SERVER_STREAM:
        return [message async for message in handler(StringValue(value=text), made)]
    return await handler(StringValue(value=text), made)


@pytest.mark.parametrize("header", ["containerd-namespace", "containerd-namespace-ttrpc"])
async def test_namespace_and_lease_come_from_headers(header: str) -> None:
    handlers = echo.Echo()
    await call(wrapped(handlers), "Once", "hi", metadata={header: "k8s.io", "containerd-lease": "l1"})
    assert handlers.calls[0].scope.namespace == "k8s.io"
    assert handlers.calls[0].scope.lease == "l1"


async def test_no_namespace_is_an_error_only_where_one_is_needed() -> None:
    handlers = echo.Echo()
    await call(wrapped(handlers), "Once", "hi")
    with pytest.raises(HybridError, match="namespace is required") as caught:
        _ = handlers.calls[0].scope
    assert caught.value.code == "FAILED_PRECONDITION"


@pytest.mark.parametrize("name", ["../etc", "a" * 77, "a..b", "white space"])
@pytest.mark.parametrize("method", ["Once", "CountDown"])
async def test_a_namespace_that_is_no_identifier_never_reaches_a_handler(name: str, method: str) -> None:
    handlers = echo.Echo()
    service = wrapped(handlers)
    with pytest.raises(InvalidArgumentError, match="namespace validation"):
        await call(service, method, "1", metadata={"containerd-namespace": name})
    assert not handlers.calls


async def test_our_errors_pass_and_bugs_do_not_tell_their_text(caplog: pytest.LogCaptureFixture) -> None:
    service = wrapped(echo.Echo())
    with pytest.raises(NotFoundError, match="as you wish"):
        await call(service, "Once", "fail:NOT_FOUND")
    with pytest.raises(InternalError) as caught:
        await call(service, "Once", "bug")
    assert "hunter2" not in caught.value.message
    assert "RuntimeError" in caught.value.message
    assert any(record.exc_info and "hunter2" in str(record.exc_info[1]) for record in caplog.records)


def sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError(f"it is {name}")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            "RESOURCE_EXHAUSTED",
            "/x: no space left on device",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "RESOURCE_EXHAUSTED", "too many open files"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/y"),
            "UNKNOWN",
            "/y: no such file or directory",
        ),
        (sqlite_error("SQLITE_FULL"), "RESOURCE_EXHAUSTED", "metadata store: it is SQLITE_FULL"),
        (sqlite_error("SQLITE_BUSY"), "UNAVAILABLE", "metadata store: it is SQLITE_BUSY"),
        (sqlite_error("SQLITE_CORRUPT"), "DATA_LOSS", "metadata store: it is SQLITE_CORRUPT"),
        (sqlite_error("SQLITE_IOERR_WRITE"), "DATA_LOSS", "metadata store: it is SQLITE_IOERR_WRITE"),
        (sqlite3.IntegrityError("oops"), "INTERNAL", "metadata store: oops"),
        (
            DecodeError("truncated"),
            "INVALID_ARGUMENT",
            "m: a message in the request cannot be decoded: truncated",
        ),
        (TimeoutError(), "DEADLINE_EXCEEDED", "m: an operation took too long"),
        (MemoryError(), "RESOURCE_EXHAUSTED", "m: out of memory"),
        (KeyError("x"), "INTERNAL", "m: unexpected KeyError, a bug: the daemon's log has the details"),
    ],
)
def test_what_the_system_says_gets_a_code(error: Exception, code: str, message: str) -> None:
    translated = translate(error, "m")
    assert (translated.code, translated.message) == (code, message)


async def test_the_deadline_ends_a_handler() -> None:
    handlers = echo.Echo()
    now = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceededError):
        await call(wrapped(handlers), "Once", "hang", deadline=now + 0.02)
    assert handlers.cancelled == ["once"]


async def test_a_cancelled_call_cancels_its_handler() -> None:
    handlers = echo.Echo()
    task = asyncio.create_task(call(wrapped(handlers), "Once", "hang"))
    while not handlers.running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handlers.cancelled == ["once"]


async def test_calls_are_counted_by_method_and_code() -> None:
    metrics = CallMetrics()
    service = wrapped(echo.Echo(), metrics)
    await call(service, "Once", "a")
    await call(service, "Once", "b")
    with pytest.raises(NotFoundError):
        await call(service, "Once", "fail:NOT_FOUND")
    stats = {entry.method: entry for entry in metrics.snapshot()}
    assert stats["Once"].started == 3
    assert stats["Once"].handled == {"OK": 2, "NOT_FOUND": 1}
    assert stats["Each"].started == 0, "methods never called are there with zeroes"


async def test_messages_are_counted_each_way() -> None:
    metrics = CallMetrics()
    service = wrapped(echo.Echo(), metrics)
    await call(service, "Once", "a")
    with pytest.raises(NotFoundError):
        await call(service, "Once", "fail:NOT_FOUND")
    await call(service, "CountDown", "4")

    async def requests() -> AsyncIterator[StringValue]:
        for text in ("x", "y", "z"):
            yield StringValue(value=text)

    joined: Any = service.methods["JoinAll"].handler
    assert (await joined(requests(), CallContext(method="JoinAll"))).value == "x,y,z"
    each: Any = service.methods["Each"].handler
    assert len([answer async for answer in each(requests(), CallContext(method="Each"))]) == 3
    assert {entry.method: (entry.received, entry.sent) for entry in metrics.snapshot()} == {
        "Once": (2, 1),  # a failure is no message
        "CountDown": (1, 4),
        "JoinAll": (3, 1),
        "Each": (3, 3),
    }


@pytest.mark.parametrize("histogram", [True, False])
async def test_durations_are_counted_in_buckets_when_asked_for(histogram: bool) -> None:
    metrics = CallMetrics(histogram=histogram)
    service = wrapped(echo.Echo(), metrics)
    await call(service, "Once", "a")
    (once,) = [entry for entry in metrics.snapshot() if entry.method == "Once"]
    assert sum(once.latencies) == histogram
    assert once.seconds > 0


async def test_the_log_has_the_call_and_not_its_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await call(wrapped(echo.Echo()), "Once", "a secret", peer="pid:7", metadata={"containerd-namespace": "n"})
    (record,) = [r for r in caplog.records if r.message == "call"]
    assert (record.code, record.namespace, record.peer) == ("OK", "n", "pid:7")  # type: ignore[attr-defined]
    assert "a secret" not in str(vars(record))


async def test_the_inner_generator_is_closed_with_the_outer_one() -> None:
    closed = []

    class Watched(echo.Echo):
        async def count_down(self, request: StringValue, call: CallContext) -> Any:
            try:
                while True:
                    yield StringValue(value="again")
            finally:
                closed.append(True)

    service = wrapped(Watched())
    handler: Any = service.methods["CountDown"].handler
    stream = handler(StringValue(), replace(CallContext(method="m")))
    await anext(stream)
    await stream.aclose()
    assert closed == [True]
