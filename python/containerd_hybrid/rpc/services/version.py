"""containerd.services.version.v1.Version"""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.proto.services.version.v1 import version_pb2 as pb
from containerd_hybrid.rpc.api import CallContext


class VersionService:
    """Tells which containerd this daemon stands in for, and which build of ours it is."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Version"]

    def __init__(self, version: str, revision: str) -> None:
        self._response = pb.VersionResponse(version=version, revision=revision)

    async def version(self, request: Empty, call: CallContext) -> pb.VersionResponse:
        return self._response
