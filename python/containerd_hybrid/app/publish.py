"""``publish``: hands an event to a running daemon; shims that cannot speak ttrpc run this."""

from __future__ import annotations

import asyncio
import sys

from containerd_hybrid.errors import InvalidArgumentError


def run(address: str, namespace: str, topic: str) -> None:
    """Publish the google.protobuf.Any on standard input.

    Raises:
        InvalidArgumentError: no topic, or something else on standard input.
        HybridError: the daemon refused it or is not there.
    """
    if not topic:
        raise InvalidArgumentError("topic required to publish event")
    asyncio.run(_publish(address, namespace, topic, sys.stdin.buffer.read()))


async def _publish(address: str, namespace: str, topic: str, payload: bytes) -> None:
    from google.protobuf.any_pb2 import Any
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.message import DecodeError

    from containerd_hybrid.client.grpc_transport import GrpcTransport
    from containerd_hybrid.proto.services.events.v1 import events_pb2 as pb
    from containerd_hybrid.rpc.api import NAMESPACE_HEADER

    try:
        event = Any.FromString(payload)
    except DecodeError as error:
        raise InvalidArgumentError(f"the event on standard input cannot be decoded: {error}") from None
    transport = GrpcTransport(address)
    try:
        await transport.unary(
            "containerd.services.events.v1.Events",
            "Publish",
            pb.PublishRequest(topic=topic, event=event),
            Empty,
            metadata={NAMESPACE_HEADER: namespace} if namespace else {},
        )
    finally:
        await transport.close()
