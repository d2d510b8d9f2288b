"""A service with one method of each kind, for tests of transports.

Messages are google.protobuf.StringValue. What a handler does is told by the request's text:
``fail:CODE`` raises, ``hang`` waits for ever, ``big:N`` answers N characters, anything else comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.wrappers_pb2 import StringValue

from containerd_hybrid.errors import error_for_code
from containerd_hybrid.rpc.api import CallContext

NAME = "containerd_hybrid.test.Echo"


def descriptor() -> ServiceDescriptor:
    pool = descriptor_pool.Default()
    try:
        return pool.FindServiceByName(NAME)
    except KeyError:
        pass
    file = descriptor_pb2.FileDescriptorProto(
        name="containerd_hybrid/test/echo.proto",
        package="containerd_hybrid.test",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
        syntax="proto3",
    )
    service = file.service.add(name="Echo")
    for name, client, server in (
        ("Once", False, False),
        ("CountDown", False, True),
        ("JoinAll", True, False),
        ("Each", True, True),
    ):
        service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=client,
            server_streaming=server,
        )
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(NAME)


class Echo:
    """Handlers; ``calls`` has their contexts, ``cancelled`` the methods whose handler was cancelled."""

    def __init__(self) -> None:
        self.calls: list[CallContext] = []
        self.cancelled: list[str] = []
        self.running = 0
        self.received: list[str] = []

    async def once(self, request: StringValue, call: CallContext) -> StringValue:
        self.calls.append(call)
        return await self._answer("once", request.value)

    async def count_down(self, request: StringValue, call: CallContext) -> AsyncIterator[StringValue]:
        """``N``: N messages; ``N:fail:CODE``: then an error; ``N:hang``: then nothing."""
        self.calls.append(call)
        count, _, rest = request.value.partition(":")
        for number in range(int(count), 0, -1):
            yield StringValue(value=str(number))
        if rest:
            yield await self._answer("count_down", rest)

    async def join_all(self, requests: AsyncIterator[StringValue], call: CallContext) -> StringValue:
        self.calls.append(call)
        parts = []
        async for request in requests:
            await self._answer("join_all", request.value)
            parts.append(request.value)
        return StringValue(value=",".join(parts))

    async def each(
        self, requests: AsyncIterator[StringValue], call: CallContext
    ) -> AsyncIterator[StringValue]:
        self.calls.append(call)
        async for request in requests:
            self.received.append(request.value)
            yield await self._answer("each", request.value)

    async def _answer(self, handler: str, text: str) -> StringValue:
        self.running += 1
        try:
            kind, _, argument = text.partition(":")
            match kind:
                case "fail":
                    raise error_for_code(argument, f"as you wish: {argument}")
                case "bug":
                    raise RuntimeError("the password is hunter2")
                case "hang":
                    await asyncio.Event().wait()
                case "big":
                    return StringValue(value="x" * int(argument))
            return StringValue(value=text)
        except asyncio.CancelledError:
            self.cancelled.append(handler)
            raise
        finally:
            self.running -= 1
