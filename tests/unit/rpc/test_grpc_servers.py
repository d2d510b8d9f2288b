"""Both gRPC servers: every kind of call, statuses, limits, cancellation and drain, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from tests.unit.rpc import echo

from containerd_hybrid.errors import FailedPreconditionError, InvalidArgumentError
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.rpc.describe import service_from
from containerd_hybrid.rpc.endpoints import TcpEndpoint, UnixEndpoint
from containerd_hybrid.rpc.front.adaptor import FrontAdaptor
from containerd_hybrid.rpc.grpc_adaptor import GrpcAdaptor
from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services
from containerd_hybrid.rpc.sockets import SocketOwner
from containerd_hybrid.testing.waiting import until_async

US = SocketOwner(os.geteuid(), os.getegid())
Code = grpc.StatusCode


Adaptor: TypeAlias = FrontAdaptor | GrpcAdaptor
AdaptorClass: TypeAlias = type[FrontAdaptor] | type[GrpcAdaptor]


@pytest.fixture(params=[FrontAdaptor, GrpcAdaptor], ids=["front", "grpcio"])
def kind(request: pytest.FixtureRequest) -> AdaptorClass:
    chosen: AdaptorClass = request.param
    return chosen


def adaptor_of(kind: AdaptorClass, handlers: echo.Echo, path: Path, **options: Any) -> Adaptor:
    services = wrap_services(
        [service_from(echo.descriptor(), handlers)], standard_interceptors(CallMetrics())
    )
    return kind(services, UnixEndpoint(str(path), US), **options)


class Served:
    """A server and a plain grpc.aio channel to it."""

    def __init__(
        self, kind: AdaptorClass, path: Path, handlers: echo.Echo | None = None, **options: Any
    ) -> None:
        self.path = path
        self.handlers = handlers or echo.Echo()
        self.adaptor = adaptor_of(kind, self.handlers, path, **options)
        self.channel: grpc.aio.Channel

    async def start(self) -> None:
        await self.adaptor.start()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(f"unix:{self.path}", options=options)

    async def stop(self) -> None:
        await self.channel.close()
        await self.adaptor.close()

    def method(self, sides: str, name: str, service: str = echo.NAME) -> Callable[..., Any]:
        make: Any = getattr(self.channel, sides)
        made: Callable[..., Any] = make(
            f"/{service}/{name}",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        return made

    def once(self, text: str, **options: Any) -> Any:
        return self.method("unary_unary", "Once")(StringValue(value=text), **options)

    def count_down(self, text: str, **options: Any) -> Any:
        return self.method("unary_stream", "CountDown")(StringValue(value=text), **options)

    def each(self, *args: Any) -> Any:
        return self.method("stream_stream", "Each")(*args)


@pytest.fixture
async def served(kind: AdaptorClass, tmp_path: Path) -> AsyncIterator[Served]:
    fixture = Served(kind, tmp_path / "s")
    await fixture.start()
    yield fixture
    await fixture.stop()


async def messages(*texts: str) -> AsyncIterator[StringValue]:
    for text in texts:
        yield StringValue(value=text)


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    if hasattr(call, "read"):  # a stream has its status after its last message
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
    return await call.code(), await call.details()


# Calls


async def test_all_four_kinds(served: Served) -> None:
    assert (await served.once("hi")).value == "hi"
    assert [m.value async for m in served.count_down("3")] == ["3", "2", "1"]
    join = served.method("stream_unary", "JoinAll")
    assert (await join(messages("a", "", "c"))).value == "a,,c"
    assert [m.value async for m in served.each(messages("a", "b"))] == ["a", "b"]


async def test_a_bidirectional_stream_goes_message_by_message(served: Served) -> None:
    call = served.each()
    for text in ("a", "b"):
        await call.write(StringValue(value=text))
        assert (await call.read()).value == text
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == Code.OK


async def test_headers_peer_and_deadline_reach_the_handler(served: Served) -> None:
    headers = (("containerd-namespace", "newest"), ("containerd-namespace", "older"), ("x-bin", b"\x00"))
    await served.once("hi", metadata=headers, timeout=600)
    (call,) = served.handlers.calls
    assert call.namespace == "newest", "Go's clients put the newest value first, and containerd takes it"
    assert "x-bin" not in call.metadata
    assert call.deadline is not None
    assert 300 < call.deadline - asyncio.get_running_loop().time() < 601
    assert call.method == f"/{echo.NAME}/Once"


async def test_metadata_of_the_response(kind: AdaptorClass, tmp_path: Path) -> None:
    class Telling(echo.Echo):
        async def once(self, request: StringValue, call: CallContext) -> StringValue:
            call.response.initial["before"] = "1"
            call.response.trailing["after"] = "2"
            return await super().once(request, call)

        async def count_down(self, request: StringValue, call: CallContext) -> AsyncIterator[StringValue]:
            call.response.initial["before"] = "1"
            async for message in super().count_down(request, call):
                yield message
            call.response.trailing["after"] = "2"

    served = Served(kind, tmp_path / "s", Telling())
    await served.start()
    # Not a stream without messages: grpc.aio may see its status first, and then no initial metadata.
    for call in (served.once("hi"), served.once("fail:NOT_FOUND"), served.count_down("2")):
        code = (await status_of(call))[0]
        assert ("after", "2") in list(await call.trailing_metadata())
        if code == Code.OK:
            assert ("before", "1") in list(await call.initial_metadata())
    await served.stop()


# Statuses


async def test_errors_are_statuses_with_their_text(served: Served) -> None:
    assert await status_of(served.once("fail:NOT_FOUND")) == (Code.NOT_FOUND, "as you wish: NOT_FOUND")
    assert await status_of(served.count_down("2:fail:ABORTED")) == (Code.ABORTED, "as you wish: ABORTED")
    code, text = await status_of(served.once("bug"))
    assert code == Code.INTERNAL
    assert "hunter2" not in text


async def test_what_is_unknown_is_named_as_go_names_it(served: Served) -> None:
    unknown = served.method("unary_unary", "Get", "containerd.services.none.v1.None")
    assert await status_of(unknown(StringValue())) == (
        Code.UNIMPLEMENTED,
        "unknown service containerd.services.none.v1.None",
    )
    unknown = served.method("unary_stream", "Twice")
    assert await status_of(unknown(StringValue())) == (
        Code.UNIMPLEMENTED,
        f"unknown method Twice for service {echo.NAME}",
    )


@pytest.mark.parametrize("sides", ["unary_unary", "stream_stream"])
async def test_bytes_that_are_no_message(served: Served, sides: str) -> None:
    make: Any = getattr(served.channel, sides)
    name = "Once" if sides == "unary_unary" else "Each"

    async def one() -> AsyncIterator[bytes]:
        yield b"\xff\xff"

    call = make(f"/{echo.NAME}/{name}")(b"\xff\xff" if sides == "unary_unary" else one())
    code, text = await status_of(call)
    assert code == Code.INTERNAL
    assert text.startswith("grpc: error unmarshalling request")


# Sizes


async def test_messages_larger_than_the_default_of_grpc(served: Served) -> None:
    text = "x" * (8 << 20)
    assert (await served.once(text)).value == text


async def test_limits(kind: AdaptorClass, tmp_path: Path) -> None:
    served = Served(kind, tmp_path / "s", max_receive=1000, max_send=2000)
    await served.start()
    assert (await status_of(served.once("x" * 1001)))[0] == Code.RESOURCE_EXHAUSTED
    assert (await status_of(served.once("big:2001")))[0] == Code.RESOURCE_EXHAUSTED
    assert (await served.once("big:1500")).value == "x" * 1500
    await served.stop()


# Ends


async def test_a_caller_that_cancels_cancels_the_handler(served: Served) -> None:
    for start, text, name in ((served.once, "hang", "once"), (served.count_down, "0:hang", "count_down")):
        # One at a time: a call that is cancelled before its handler runs has no handler to cancel.
        call = start(text)
        await until_async(lambda: served.handlers.running)
        call.cancel()
        await until_async(lambda: not served.handlers.running)
        assert served.handlers.cancelled[-1:] == [name]


async def test_a_caller_that_dies_cancels_its_handlers(served: Served) -> None:
    other = grpc.aio.insecure_channel(f"unix:{served.path}", options=[("grpc.use_local_subchannel_pool", 1)])
    call = other.unary_unary(f"/{echo.NAME}/Once")(StringValue(value="hang").SerializeToString())
    await until_async(lambda: served.handlers.running)
    await other.close()
    await until_async(lambda: served.handlers.cancelled == ["once"])
    assert call.done()


async def test_the_deadline_of_the_caller(served: Served) -> None:
    for seconds in (0.05, 1, 10):
        assert (await status_of(served.once("hang", timeout=seconds)))[0] == Code.DEADLINE_EXCEEDED
        if served.handlers.calls:
            break  # or else its time was over before it came to the server
    await until_async(lambda: served.handlers.cancelled and not served.handlers.running)
    assert set(served.handlers.cancelled) == {"once"}


async def test_a_slow_reader_holds_the_handler_back(kind: AdaptorClass, tmp_path: Path) -> None:
    produced = 0

    class Endless(echo.Echo):
        async def count_down(self, request: StringValue, call: CallContext) -> AsyncIterator[StringValue]:
            nonlocal produced
            while True:
                produced += 1
                yield StringValue(value="x" * 65536)

    served = Served(kind, tmp_path / "s", Endless())
    await served.start()
    call = served.count_down("1")
    await call.read()
    # Without end the handler would come to any number: much more than all windows together.
    for _ in range(2000):
        await asyncio.sleep(0)
    assert produced < 2000
    call.cancel()
    await served.stop()


# Drain


async def test_drain_lets_work_finish_and_ends_what_only_waits(
    kind: AdaptorClass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = frozenset({f"/{echo.NAME}/CountDown"})
    monkeypatch.setattr("containerd_hybrid.rpc.grpc_adaptor.WAITING", waiting)
    monkeypatch.setattr("containerd_hybrid.rpc.front.routes.WAITING", waiting)
    release = asyncio.Event()

    class Working(echo.Echo):
        async def once(self, request: StringValue, call: CallContext) -> StringValue:
            self.running += 1
            await release.wait()
            return request

    served = Served(kind, tmp_path / "s", Working())
    await served.start()
    working, watching = served.once("done"), served.count_down("1:hang")
    assert (await watching.read()).value == "1"
    await until_async(lambda: served.handlers.running == 2)
    draining = asyncio.create_task(served.adaptor.drain(600))
    assert await status_of(watching) == (Code.UNAVAILABLE, "the daemon is stopping")
    assert not served.path.exists()
    release.set()
    assert (await working).value == "done"
    await draining
    await served.stop()


async def test_drain_gives_up_in_the_end(served: Served) -> None:
    call = served.once("hang")
    await until_async(lambda: served.handlers.running)
    await served.adaptor.drain(0.05)
    assert (await status_of(call))[0] in {Code.UNAVAILABLE, Code.CANCELLED}
    await until_async(lambda: served.handlers.cancelled == ["once"])


# Sockets


async def test_the_socket_is_private_from_the_start(served: Served) -> None:
    found = served.path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert (found.st_uid, found.st_gid) == (US.uid, US.gid)


async def test_a_stale_socket_is_replaced(kind: AdaptorClass, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    served = Served(kind, path)
    await served.start()
    assert (await served.once("hi")).value == "hi"
    await served.stop()
    assert not path.exists()


async def test_a_live_socket_is_left_alone(kind: AdaptorClass, served: Served) -> None:
    with pytest.raises(FailedPreconditionError, match="in use by another daemon"):
        await adaptor_of(kind, echo.Echo(), served.path).start()
    assert (await served.once("still here")).value == "still here"


async def test_what_cannot_be_a_socket(kind: AdaptorClass, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPreconditionError, match="is not a socket"):
        await adaptor_of(kind, echo.Echo(), tmp_path / "file").start()
    with pytest.raises(InvalidArgumentError, match="too long"):
        await adaptor_of(kind, echo.Echo(), tmp_path / ("x" * 104)).start()
    with pytest.raises(InvalidArgumentError, match="must be absolute"):
        await adaptor_of(kind, echo.Echo(), Path("relative")).start()


async def test_the_next_daemons_socket_survives_our_end(kind: AdaptorClass, served: Served) -> None:
    served.path.unlink()
    other = adaptor_of(kind, echo.Echo(), served.path)
    await other.start()
    await served.adaptor.close()
    assert served.path.exists()
    await other.close()


async def test_tcp(kind: AdaptorClass) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    services = [service_from(echo.descriptor(), echo.Echo())]
    adaptor = kind(services, TcpEndpoint(address))
    await adaptor.start()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/{echo.NAME}/Once")(StringValue(value="hi").SerializeToString())
        assert StringValue.FromString(await call).value == "hi"
    await adaptor.close()
