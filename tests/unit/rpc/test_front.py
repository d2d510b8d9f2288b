"""What only our own gRPC server has to be shown: strange peers, and that it needs no gRPC library."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from tests.unit.rpc import echo

from containerd_hybrid.errors import InternalError, ResourceExhaustedError
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.rpc.describe import service_from
from containerd_hybrid.rpc.endpoints import UnixEndpoint
from containerd_hybrid.rpc.front.adaptor import FrontAdaptor
from containerd_hybrid.rpc.front.inbox import decompress
from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services
from containerd_hybrid.rpc.sockets import SocketOwner
from containerd_hybrid.testing.load import Load

ONCE = f"/{echo.NAME}/Once"
COUNT_DOWN = f"/{echo.NAME}/CountDown"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


class Served:
    """A server on a socket, for blocking peers in threads."""

    def __init__(self, path: Path, handlers: echo.Echo, **limits: int) -> None:
        self.path = str(path)
        self.handlers = handlers
        services = [service_from(echo.descriptor(), handlers)]
        wrapped = wrap_services(services, standard_interceptors(CallMetrics()))
        owner = SocketOwner(os.geteuid(), os.getegid())
        self.adaptor = FrontAdaptor(wrapped, UnixEndpoint(self.path, owner), **limits)

    async def __aenter__(self) -> Self:
        await self.adaptor.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.adaptor.close()


def text(value: str) -> bytes:
    return StringValue(value=value).SerializeToString()


def told(path: str, sent: bytes) -> bytes:
    """All that a server says to ``sent`` until it closes."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        peer.sendall(sent)
        answer = b""
        while data := peer.recv(65536):
            answer += data
        return answer


def goodbyes(answer: bytes) -> list[bytes]:
    """The texts of the GOAWAY frames."""
    found = []
    while answer:
        length, kind = int.from_bytes(answer[:3], "big"), answer[3]
        if kind == 7:
            found.append(answer[9 + 8 : 9 + length])
        answer = answer[9 + length :]
    return found


def test_the_server_needs_no_grpc_library() -> None:
    code = (
        "import sys, containerd_hybrid.rpc.front.adaptor, containerd_hybrid.app.builtins.servers;"
        "sys.exit('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_what_is_no_http2_is_told_so_and_left(tmp_path: Path) -> None:
    async with Served(tmp_path / "s", echo.Echo()) as served:
        answer = await asyncio.to_thread(told, served.path, b"GET / HTTP/1.1\r\n\r\n")
        assert goodbyes(answer) == [b"not HTTP/2 with prior knowledge"]
        pings = (b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 5
        answer = await asyncio.to_thread(told, served.path, PREFACE + SETTINGS + pings)
        assert goodbyes(answer) == [b"too_many_pings"]


async def test_many_calls_over_one_connection_at_once(tmp_path: Path) -> None:
    async with Served(tmp_path / "s", echo.Echo()) as served:
        load = Load(served.path, ONCE)
        received = await asyncio.to_thread(load.calls, 2000, 50, text("hi"))
        load.close()
        assert received == 2000 * (5 + len(text("hi")))
        assert len(served.handlers.calls) == 2000


async def test_who_does_not_read_holds_nobody_else_back(tmp_path: Path) -> None:
    class Endless(echo.Echo):
        produced = 0

        async def count_down(self, request: StringValue, call: CallContext) -> AsyncIterator[StringValue]:
            while True:
                self.produced += 1
                yield StringValue(value="x" * 65536)

    handlers = Endless()
    async with Served(tmp_path / "s", handlers) as served:
        deaf = Load(served.path, COUNT_DOWN)
        deaf.open(text("1"))
        # It has said that it takes 2 GiB, and takes what fits into its socket.
        while not handlers.produced:
            await asyncio.sleep(0)
        other = Load(served.path, ONCE)
        await asyncio.to_thread(other.calls, 500, 4, text("hi"))
        assert handlers.produced < 500, "it is held back when its socket is full"
        deaf.close()
        other.close()


async def test_a_stream_of_requests_waits_for_its_handler(tmp_path: Path) -> None:
    class Sleepy(echo.Echo):
        awake = asyncio.Event()

        async def join_all(self, requests: AsyncIterator[StringValue], call: CallContext) -> StringValue:
            await self.awake.wait()
            return StringValue(value=str(sum([len(request.value) async for request in requests])))

    handlers = Sleepy()
    async with Served(tmp_path / "s", handlers) as served:
        sent = 0

        async def requests() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(200):
                sent += 1
                yield text("x" * 65536)

        async with grpc.aio.insecure_channel(f"unix:{served.path}") as channel:
            call = channel.stream_unary(f"/{echo.NAME}/JoinAll")(requests())
            while not sent:
                await asyncio.sleep(0)
            for _ in range(2000):
                await asyncio.sleep(0)
            assert sent < 200, "13 MB are more than all windows together"
            handlers.awake.set()
            assert StringValue.FromString(await call).value == str(200 * 65536)


async def test_compressed_requests(tmp_path: Path) -> None:
    async with (
        Served(tmp_path / "s", echo.Echo(), max_receive=10_000) as served,
        grpc.aio.insecure_channel(f"unix:{served.path}") as channel,
    ):
        call = channel.unary_unary(ONCE)
        answer = await call(text("x" * 5000), compression=grpc.Compression.Gzip)
        assert StringValue.FromString(answer).value == "x" * 5000
        with pytest.raises(grpc.aio.AioRpcError) as bomb:
            await call(text("x" * 1_000_000), compression=grpc.Compression.Gzip)
        assert bomb.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await call(text("x" * 5000), compression=grpc.Compression.Deflate)
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_decompression_is_bounded_and_whole() -> None:
    data = gzip.compress(b"x" * 1000)
    assert decompress(data, 1000) == b"x" * 1000
    with pytest.raises(ResourceExhaustedError):
        decompress(data, 999)
    for damaged in (data[:-1], b"nothing of the kind", b""):
        with pytest.raises(InternalError):
            decompress(damaged, 1000)


async def test_calls_that_are_given_up_at_once(tmp_path: Path) -> None:
    """Rapid resets: handlers are cancelled, and the next call is answered."""
    handlers = echo.Echo()
    async with Served(tmp_path / "s", handlers) as served:
        load = Load(served.path, ONCE)

        def give_up() -> None:
            for number in range(200):
                load.open(text("hang"))
                load.reset(2 * number + 1)
            load.calls(1, 1, text("hi"))

        await asyncio.to_thread(give_up)
        load.close()
        while handlers.running:
            await asyncio.sleep(0)
        while any(connection.tasks for connection in served.adaptor.connections):
            await asyncio.sleep(0)


async def test_a_peer_that_dies_in_the_middle_of_a_message(tmp_path: Path) -> None:
    async with Served(tmp_path / "s", echo.Echo()) as served:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(served.path)
            peer.sendall(PREFACE + SETTINGS + struct.pack(">I", 1000)[1:] + b"\1\4\0\0\0\1half")
        while served.adaptor.connections:
            await asyncio.sleep(0)
        load = Load(served.path, ONCE)
        await asyncio.to_thread(load.calls, 1, 1, text("hi"))
        load.close()
