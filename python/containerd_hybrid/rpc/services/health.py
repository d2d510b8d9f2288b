"""grpc.health.v1.Health (the gRPC health checking protocol)"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.proto.grpc.health.v1 import health_pb2 as pb
from containerd_hybrid.rpc.api import CallContext


class HealthService:
    """Serving from the moment that calls are answered until :meth:`shut_down`.

    The empty service name stands for the whole daemon, as in containerd.
    """

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Health"]

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    def shut_down(self) -> None:
        """Answer NOT_SERVING from now on and tell those who watch."""
        self._stopping.set()

    async def check(self, request: pb.HealthCheckRequest, call: CallContext) -> pb.HealthCheckResponse:
        if request.service:
            raise NotFoundError("unknown service")
        return self._response()

    async def list(self, request: pb.HealthListRequest, call: CallContext) -> pb.HealthListResponse:
        return pb.HealthListResponse(statuses={"": self._response()})

    async def watch(
        self, request: pb.HealthCheckRequest, call: CallContext
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        if request.service:
            yield pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
        else:
            yield self._response()
        await self._stopping.wait()
        yield self._response()

    def _response(self) -> pb.HealthCheckResponse:
        if self._stopping.is_set():
            return pb.HealthCheckResponse(status=pb.HealthCheckResponse.NOT_SERVING)
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)
