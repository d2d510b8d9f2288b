"""containerd.services.leases.v1.Leases"""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.leases.api import Lease, LeaseManager, LeaseResource
from containerd_hybrid.metadata.api import Collector
from containerd_hybrid.proto.services.leases.v1 import leases_pb2 as pb
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.wire import timestamp


class LeasesService:
    """Leases; deleting one lets the collector take what only it held."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Leases"]

    def __init__(self, leases: LeaseManager, collector: Collector) -> None:
        self._leases = leases
        self._collector = collector

    async def create(self, request: pb.CreateRequest, call: CallContext) -> pb.CreateResponse:
        lease = await self._leases.create(call.scope, request.id, dict(request.labels))
        return pb.CreateResponse(lease=_to_wire(lease))

    async def delete(self, request: pb.DeleteRequest, call: CallContext) -> Empty:
        await self._leases.delete(call.scope, request.id)
        if request.sync:
            await self._collector.collect()
        else:
            self._collector.trigger()
        return Empty()

    async def list(self, request: pb.ListRequest, call: CallContext) -> pb.ListResponse:
        leases = await self._leases.list(call.scope, tuple(request.filters))
        return pb.ListResponse(leases=[_to_wire(lease) for lease in leases])

    async def add_resource(self, request: pb.AddResourceRequest, call: CallContext) -> Empty:
        await self._leases.add_resource(call.scope, request.id, _resource(request.resource))
        return Empty()

    async def delete_resource(self, request: pb.DeleteResourceRequest, call: CallContext) -> Empty:
        await self._leases.delete_resource(call.scope, request.id, _resource(request.resource))
        return Empty()

    async def list_resources(
        self, request: pb.ListResourcesRequest, call: CallContext
    ) -> pb.ListResourcesResponse:
        resources = await self._leases.list_resources(call.scope, request.id)
        return pb.ListResourcesResponse(resources=[pb.Resource(id=r.id, type=r.type) for r in resources])


def _to_wire(lease: Lease) -> pb.Lease:
    return pb.Lease(id=lease.id, created_at=timestamp(lease.created_at), labels=dict(lease.labels))


def _resource(message: pb.Resource) -> LeaseResource:
    return LeaseResource(message.type, message.id)
