"""containerd_hybrid.v1.Integrity: is what is stored still what was stored?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from containerd_hybrid.fsck.api import Fsck, Problem
from containerd_hybrid.proto.hybrid import fsck_pb2 as pb
from containerd_hybrid.rpc.api import CallContext


class IntegrityService:
    """Thin: the checker does it."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Integrity"]

    def __init__(self, fsck: Fsck) -> None:
        self._fsck = fsck

    async def check(self, request: pb.CheckRequest, call: CallContext) -> AsyncIterator[pb.CheckResponse]:
        async for found in self._fsck.check(repair=request.repair, namespaces=request.namespaces):
            if isinstance(found, Problem):
                problem = pb.Problem(
                    kind=found.kind,
                    namespace=found.namespace,
                    name=found.name,
                    what=found.what,
                    repaired=found.repaired,
                    remedy=found.remedy,
                )
                yield pb.CheckResponse(problem=problem)
            else:
                summary = pb.CheckSummary(
                    blobs=found.blobs,
                    bytes=found.bytes,
                    layers=found.layers,
                    passed_over=found.passed_over,
                )
                yield pb.CheckResponse(summary=summary)
