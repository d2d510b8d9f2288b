"""containerd.services.namespaces.v1.Namespaces"""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.metadata.api import Namespace, NamespaceStore
from containerd_hybrid.proto.services.namespaces.v1 import namespaces_pb2 as pb
from containerd_hybrid.rpc.api import CallContext


class NamespacesService:
    """Namespaces are created here or by the first object put into them."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Namespaces"]

    def __init__(self, namespaces: NamespaceStore) -> None:
        self._namespaces = namespaces

    async def get(self, request: pb.GetNamespaceRequest, call: CallContext) -> pb.GetNamespaceResponse:
        return pb.GetNamespaceResponse(namespace=_to_wire(await self._namespaces.get(request.name)))

    async def list(self, request: pb.ListNamespacesRequest, call: CallContext) -> pb.ListNamespacesResponse:
        return pb.ListNamespacesResponse(namespaces=[_to_wire(n) for n in await self._namespaces.list()])

    async def create(
        self, request: pb.CreateNamespaceRequest, call: CallContext
    ) -> pb.CreateNamespaceResponse:
        wanted = request.namespace
        return pb.CreateNamespaceResponse(
            namespace=_to_wire(await self._namespaces.create(wanted.name, dict(wanted.labels)))
        )

    async def update(
        self, request: pb.UpdateNamespaceRequest, call: CallContext
    ) -> pb.UpdateNamespaceResponse:
        wanted = request.namespace
        await self._namespaces.update(wanted.name, dict(wanted.labels), tuple(request.update_mask.paths))
        return pb.UpdateNamespaceResponse()  # containerd tells nothing

    async def delete(self, request: pb.DeleteNamespaceRequest, call: CallContext) -> Empty:
        await self._namespaces.delete(request.name)
        return Empty()


def _to_wire(namespace: Namespace) -> pb.Namespace:
    return pb.Namespace(name=namespace.name, labels=dict(namespace.labels))
