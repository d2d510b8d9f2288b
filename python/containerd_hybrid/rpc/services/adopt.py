"""containerd_hybrid.v1.Adoption: what a containerd of this machine has becomes ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from containerd_hybrid.adopt.api import Adopter
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.proto.hybrid import adopt_pb2 as pb
from containerd_hybrid.rpc.api import CallContext


class AdoptionService:
    """Thin: the adopter does it."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Adoption"]

    def __init__(self, adopter: Adopter) -> None:
        self._adopter = adopter

    async def adopt(self, request: pb.AdoptRequest, call: CallContext) -> AsyncIterator[pb.AdoptResponse]:
        folder = Path(request.folder)
        if not folder.is_absolute():
            raise InvalidArgumentError(
                f"folder {request.folder!r}: give the absolute path of a containerd's root"
            )
        adopted = self._adopter.adopt(
            folder, namespaces=request.namespaces, verify=request.verify, dry_run=request.dry_run
        )
        async for one in adopted:
            yield pb.AdoptResponse(
                kind=one.kind,
                namespace=one.namespace,
                name=one.name,
                outcome=one.outcome.value,
                size=one.size,
            )
