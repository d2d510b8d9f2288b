"""containerd_hybrid.v1.Integrity: is what is stored still what was stored?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from containerd_hybrid.fsck.api import Fsck, Problem, Summary
from containerd_hybrid.proto.hybrid import fsck_pb2 as pb
from containerd_hybrid.proto.types.transfer.registry_pb2 import OCIRegistry
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.rpc.services.transfer_registry import registry_place
from containerd_hybrid.streaming.api import StreamManager


class IntegrityService:
    """Thin: the checker does it. ``streams`` are those that clients answer on about credentials."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Integrity"]

    def __init__(self, fsck: Fsck, streams: StreamManager) -> None:
        self._fsck = fsck
        self._streams = streams

    async def check(self, request: pb.CheckRequest, call: CallContext) -> AsyncIterator[pb.CheckResponse]:
        anywhere = OCIRegistry(resolver=request.registry)
        async with registry_place(anywhere, call.scope, self._streams) as place:
            async for found in self._fsck.check(
                repair=request.repair, namespaces=request.namespaces, registry=place.options
            ):
                yield _to_wire(found)


def _to_wire(found: Problem | Summary) -> pb.CheckResponse:
    if isinstance(found, Problem):
        problem = pb.Problem(
            kind=found.kind,
            namespace=found.namespace,
            name=found.name,
            what=found.what,
            repaired=found.repaired,
            remedy=found.remedy,
        )
        return pb.CheckResponse(problem=problem)
    summary = pb.CheckSummary(
        blobs=found.blobs, bytes=found.bytes, layers=found.layers, passed_over=found.passed_over
    )
    return pb.CheckResponse(summary=summary)
