"""Client and server talk over a real Unix socket, and each against a peer that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Self

import pytest

from containerd_hybrid.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    HybridError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from containerd_hybrid.proto.ttrpc import ttrpc_pb2 as pb
from containerd_hybrid.testing.waiting import until_async
from containerd_hybrid.ttrpc.api import ServerCall, ServerMethod, TtrpcClient
from containerd_hybrid.ttrpc.client import Client, connect, socket_path
from containerd_hybrid.ttrpc.frame import (
    MAX_DATA_LENGTH,
    Decoded,
    Frame,
    FrameDecoder,
    MessageType,
    encode,
)
from containerd_hybrid.ttrpc.server import Server


class Handlers:
    """``calls`` has what came with each call, ``cancelled`` counts the handlers that were cancelled."""

    def __init__(self) -> None:
        self.calls: list[ServerCall] = []
        self.running = 0
        self.cancelled = 0

    async def echo(self, requests: AsyncIterator[bytes], call: ServerCall) -> bytes:
        self.calls.append(call)
        request = await anext(requests)
        self.running += 1
        try:
            match request:
                case b"exists":
                    raise AlreadyExistsError("it is here")
                case b"bug":
                    raise RuntimeError("the password is hunter2")
                case b"hang":
                    await asyncio.Event().wait()
                case b"big":
                    return bytes(MAX_DATA_LENGTH + 1)
            return request
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def count(self, requests: AsyncIterator[bytes], call: ServerCall) -> AsyncGenerator[bytes, None]:
        for number in range(int(await anext(requests))):
            yield b"" if number == 0 else str(number).encode()
        if call.metadata.get("then") == "fail":
            raise AlreadyExistsError("after all of them")

    async def join(self, requests: AsyncIterator[bytes], call: ServerCall) -> bytes:
        return b",".join([request async for request in requests])

    async def each(self, requests: AsyncIterator[bytes], call: ServerCall) -> AsyncGenerator[bytes, None]:
        async for request in requests:
            yield request.upper()

    async def deaf(self, requests: AsyncIterator[bytes], call: ServerCall) -> bytes:
        await asyncio.Event().wait()
        return b""

    def table(self) -> dict[str, dict[str, ServerMethod]]:
        return {
            "test.Echo": {
                "Echo": ServerMethod(once=self.echo),
                "Count": ServerMethod(many=self.count),
                "Join": ServerMethod(client_stream=True, once=self.join),
                "Each": ServerMethod(client_stream=True, many=self.each),
                "Deaf": ServerMethod(client_stream=True, once=self.deaf),
            }
        }


class Fixture:
    def __init__(self, path: Path) -> None:
        self.handlers = Handlers()
        self.server = Server(self.handlers.table())
        self.address = str(path)
        self.client: Client

    async def __aenter__(self) -> Self:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        await self.server.listen(listener)
        self.client = await connect(f"unix://{self.address}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.server.close()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fixture]:
    async with Fixture(tmp_path / "s") as fixture:
        yield fixture


async def test_a_call_with_metadata_and_timeout(running: Fixture) -> None:
    client: TtrpcClient = running.client
    answer = await client.call("test.Echo", "Echo", b"hi", timeout=600, metadata={"Some-Key": "value"})
    assert answer == b"hi"
    (call,) = running.handlers.calls
    assert call.metadata == {"some-key": "value"}
    assert call.deadline is not None
    assert 300 < call.deadline - asyncio.get_running_loop().time() <= 600


async def test_no_timeout_is_none_and_the_first_of_a_repeated_key_counts(running: Fixture) -> None:
    await running.client.call("test.Echo", "Echo", b"")
    assert running.handlers.calls[0].deadline is None


async def test_calls_share_the_connection_and_overtake_each_other(running: Fixture) -> None:
    slow = asyncio.create_task(running.client.call("test.Echo", "Echo", b"hang"))
    await until_async(lambda: running.handlers.running)
    answers = await asyncio.gather(
        *(running.client.call("test.Echo", "Echo", str(n).encode()) for n in range(200))
    )
    assert answers == [str(n).encode() for n in range(200)]
    assert not slow.done()
    slow.cancel()


@pytest.mark.parametrize(
    ("service", "method", "payload", "error", "message"),
    [
        ("test.Echo", "Echo", b"exists", AlreadyExistsError, "it is here"),
        ("test.Echo", "Echo", b"bug", InternalError, "test.Echo/Echo failed"),
        ("test.Echo", "Echo", b"big", ResourceExhaustedError, "message length"),
        ("test.None", "Echo", b"", UnimplementedError, "service test.None"),
        ("test.Echo", "None", b"", UnimplementedError, "method None"),
    ],
)
async def test_errors_keep_their_class(
    running: Fixture, service: str, method: str, payload: bytes, error: type[HybridError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        await running.client.call(service, method, payload)
    assert "hunter2" not in caught.value.message
    assert await running.client.call("test.Echo", "Echo", b"still there") == b"still there"


async def test_a_request_that_is_too_long_is_not_sent(running: Fixture) -> None:
    with pytest.raises(ResourceExhaustedError):
        await running.client.call("test.Echo", "Echo", bytes(MAX_DATA_LENGTH))
    assert not running.handlers.calls
    assert await running.client.call("test.Echo", "Echo", b"next") == b"next"


async def test_the_longest_messages_go_both_ways_at_once(running: Fixture) -> None:
    payload = bytes(MAX_DATA_LENGTH - 100)
    answers = await asyncio.gather(*(running.client.call("test.Echo", "Echo", payload) for _ in range(4)))
    assert answers == [payload] * 4


async def test_a_timeout_passes_and_the_late_answer_disturbs_nobody(running: Fixture) -> None:
    with pytest.raises(DeadlineExceededError):
        await running.client.call("test.Echo", "Echo", b"hang", timeout=0.02)
    assert await running.client.call("test.Echo", "Echo", b"next") == b"next"


async def test_a_cancelled_call_is_forgotten(running: Fixture) -> None:
    call = asyncio.create_task(running.client.call("test.Echo", "Echo", b"hang"))
    await until_async(lambda: running.handlers.running)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await running.client.call("test.Echo", "Echo", b"next") == b"next"


async def test_the_end_of_a_connection_cancels_its_handlers(running: Fixture) -> None:
    other = await connect(running.address)
    call = asyncio.create_task(other.call("test.Echo", "Echo", b"hang"))
    await until_async(lambda: running.handlers.running)
    await other.close()
    with pytest.raises(UnavailableError, match="ttrpc: closed"):
        await call
    await until_async(lambda: running.handlers.cancelled == 1)
    assert running.handlers.running == 0


async def test_the_end_of_the_server_fails_every_pending_call(running: Fixture) -> None:
    calls = [asyncio.create_task(running.client.call("test.Echo", "Echo", b"hang")) for _ in range(3)]
    await until_async(lambda: running.handlers.running == 3)
    await running.server.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)
    await running.client.wait_closed()
    with pytest.raises(UnavailableError):
        await running.client.call("test.Echo", "Echo", b"too late")


async def test_drain_lets_a_call_finish_and_refuses_new_ones(running: Fixture) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow(requests: AsyncIterator[bytes], call: ServerCall) -> bytes:
        begun.set()
        await release.wait()
        return b"done"

    table = running.handlers.table()
    table["test.Echo"]["Echo"] = ServerMethod(once=slow)
    running.server._services = table
    client = await connect(running.address)
    running_call = asyncio.create_task(client.call("test.Echo", "Echo", b""))
    await begun.wait()
    draining = asyncio.create_task(running.server.drain(600))
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="stopping"):
        await client.call("test.Echo", "Echo", b"")
    with pytest.raises(UnavailableError):
        await connect(running.address)
    release.set()
    assert await running_call == b"done"
    await draining
    await client.close()


async def test_a_server_stream_with_an_empty_message_in_it(running: Fixture) -> None:
    stream = await running.client.open_stream("test.Echo", "Count", b"3")
    assert [message async for message in stream] == [b"", b"1", b"2"]


async def test_a_server_stream_that_fails_after_its_messages(running: Fixture) -> None:
    stream = await running.client.open_stream("test.Echo", "Count", b"1", metadata={"then": "fail"})
    assert await stream.receive() == b""
    with pytest.raises(AlreadyExistsError, match="after all"):
        await stream.receive()


async def test_a_client_stream(running: Fixture) -> None:
    stream = await running.client.open_stream("test.Echo", "Join", client_stream=True)
    for part in (b"a", b"", b"c"):
        await stream.send(part)
    await stream.close_send()
    assert await stream.receive() == b"a,,c"
    assert await stream.receive() is None
    with pytest.raises(InvalidArgumentError):
        await stream.send(b"more")


async def test_a_stream_both_ways(running: Fixture) -> None:
    stream = await running.client.open_stream("test.Echo", "Each", client_stream=True)
    for part in (b"a", b"b"):
        await stream.send(part)
        assert await stream.receive() == part.upper()
    await stream.close_send()
    assert await stream.receive() is None


async def test_a_stream_longer_than_any_buffer(running: Fixture) -> None:
    stream = await running.client.open_stream("test.Echo", "Count", b"5000")
    received = [message async for message in stream]
    assert received[1:] == [str(n).encode() for n in range(1, 5000)]


async def test_a_stream_nobody_reads_fails_and_the_connection_lives(running: Fixture) -> None:
    stream = await running.client.open_stream("test.Echo", "Deaf", client_stream=True)
    for _ in range(200):
        await stream.send(b"x" * 10_000)
    assert await running.client.call("test.Echo", "Echo", b"others go on") == b"others go on"
    await stream.close()


async def test_nobody_listens() -> None:
    with pytest.raises(UnavailableError, match="no such file"):
        await connect("unix:///nonexistent/socket")
    with pytest.raises(InvalidArgumentError):
        await connect("tcp://localhost:1")
    assert socket_path("@abstract") == "\0abstract"


# A peer that misbehaves


class RawPeer:
    """A socket on which tests write what they like."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.decoder = FrameDecoder()
        self.frames: list[Decoded] = []

    async def next(self) -> Frame:
        while not self.frames:
            data = await self.reader.read(65536)
            assert data, "the connection was closed"
            self.frames += self.decoder.feed(data)
        frame = self.frames.pop(0)
        assert isinstance(frame, Frame)
        return frame

    async def status(self) -> tuple[int, int, str]:
        frame = await self.next()
        response = pb.Response.FromString(frame.data)
        return frame.stream_id, response.status.code, response.status.message

    def request(self, stream_id: int, method: str = "Echo", payload: bytes = b"", flags: int = 0) -> None:
        request = pb.Request(service="test.Echo", method=method, payload=payload)
        self.writer.write(encode(stream_id, MessageType.REQUEST, flags, request.SerializeToString()))


@pytest.fixture
async def raw(running: Fixture) -> AsyncIterator[RawPeer]:
    reader, writer = await asyncio.open_unix_connection(running.address)
    yield RawPeer(reader, writer)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


INVALID_ARGUMENT, RESOURCE_EXHAUSTED = 3, 8


async def test_the_server_tells_what_is_wrong_and_goes_on(raw: RawPeer) -> None:
    raw.request(2)
    assert await raw.status() == (2, INVALID_ARGUMENT, "StreamID must be odd for client initiated streams")
    raw.request(5, payload=b"x")
    assert pb.Response.FromString((await raw.next()).data).payload == b"x"
    raw.request(5)
    assert await raw.status() == (5, INVALID_ARGUMENT, "StreamID cannot be re-used and must increment")
    raw.writer.write(encode(7, MessageType.DATA, 0, b""))
    assert await raw.status() == (7, INVALID_ARGUMENT, "StreamID is no longer active")
    raw.writer.write(encode(9, MessageType.REQUEST, 0, b"\xff\xff\xff"))
    assert (await raw.status())[:2] == (9, INVALID_ARGUMENT)
    length = MAX_DATA_LENGTH + 1
    raw.writer.write(length.to_bytes(4) + (11).to_bytes(4) + bytes([1, 0]) + bytes(length))
    assert (await raw.status())[:2] == (11, RESOURCE_EXHAUSTED)
    raw.request(13, payload=b"alive")
    assert pb.Response.FromString((await raw.next()).data).payload == b"alive"


async def test_the_server_ignores_frame_types_of_the_future(raw: RawPeer) -> None:
    raw.writer.write(bytes([0, 0, 0, 1, 0, 0, 0, 1, 99, 0]) + b"?")
    raw.request(3, payload=b"alive")
    assert pb.Response.FromString((await raw.next()).data).payload == b"alive"


async def test_the_server_closes_a_connection_out_of_step(raw: RawPeer) -> None:
    raw.writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await raw.reader.read() == b""


async def test_data_for_a_unary_call_is_refused(raw: RawPeer) -> None:
    raw.request(1, payload=b"hang")
    raw.writer.write(encode(1, MessageType.DATA, 0, b"more"))
    assert (await raw.status())[1] == INVALID_ARGUMENT


@contextlib.asynccontextmanager
async def misbehaving(path: Path, answer: bytes) -> AsyncIterator[Client]:
    """A client whose server answers its first request with ``answer`` (stream 1)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(answer)
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        client = await connect(str(path))
        try:
            yield client
        finally:
            await client.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (encode(1, MessageType.RESPONSE, 0, b"\xff\xff"), InternalError),
        (encode(1, MessageType.DATA, 0, b""), InternalError),
        (bytes([0, 0x40, 0, 1, 0, 0, 0, 1, 2, 0]), ResourceExhaustedError),
        (b"HTTP/1.1 400 Bad Request\r\n", UnavailableError),
        (encode(1, MessageType.RESPONSE, 0, pb.Response().SerializeToString())[:5], UnavailableError),
    ],
    ids=["malformed", "data", "oversized", "out of step", "cut off"],
)
async def test_the_client_survives_a_server_that_misbehaves(
    tmp_path: Path, answer: bytes, error: type[HybridError]
) -> None:
    async with misbehaving(tmp_path / "s", answer) as client:
        call = asyncio.create_task(client.call("s", "m", b"0123456789"))
        if error is UnavailableError and answer[0] == 0:
            await asyncio.sleep(0.05)
            await client.close()
        with pytest.raises(error):
            await call


async def test_answers_to_nobody_are_dropped(tmp_path: Path) -> None:
    answer = encode(99, MessageType.RESPONSE, 0, b"") + encode(
        1, MessageType.RESPONSE, 0, pb.Response(payload=b"mine").SerializeToString()
    )
    async with misbehaving(tmp_path / "s", answer) as client:
        assert await client.call("s", "m", b"0123456789") == b"mine"
