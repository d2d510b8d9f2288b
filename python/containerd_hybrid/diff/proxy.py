"""A differ in another process, behind containerd.services.diff.v1 on a socket.

It reads and writes the content of its own: what it is asked about has to be there as well, as it is where
both have one content store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from containerd_hybrid.client.api import Transport
from containerd_hybrid.diff.api import AppliedLayer, DiffOptions
from containerd_hybrid.errors import FailedPreconditionError
from containerd_hybrid.model import Descriptor, Mount, Scope
from containerd_hybrid.proto.services.diff.v1 import diff_pb2 as pb
from containerd_hybrid.wire import descriptor_from_wire, descriptor_to_wire, mount_to_wire

_SERVICE = "containerd.services.diff.v1.Diff"


class ProxyDiffer:
    """An :class:`~containerd_hybrid.diff.api.Applier` and ``Comparer``. UnavailableError: nobody answers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def apply(
        self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount], **how: Any
    ) -> AppliedLayer:
        """See :class:`containerd_hybrid.diff.api.Applier`; the blob has to be whole."""
        if how.get("growing") is not None:
            raise FailedPreconditionError(f"layer {layer.digest}: another process reads whole blobs only")
        request = pb.ApplyRequest(
            diff=descriptor_to_wire(layer),
            mounts=[mount_to_wire(mount) for mount in mounts],
            payloads={
                name: AnyMessage.FromString(payload) for name, payload in (how.get("payloads") or {}).items()
            },
            sync_fs=bool(how.get("sync")),
        )
        answer = await self._transport.unary(
            _SERVICE, "Apply", request, pb.ApplyResponse, metadata=_metadata(scope)
        )
        return AppliedLayer(descriptor_from_wire(answer.applied))

    async def compare(
        self, scope: Scope, lower: Sequence[Mount], upper: Sequence[Mount], options: DiffOptions
    ) -> Descriptor:
        """See :class:`containerd_hybrid.diff.api.Comparer`."""
        request = pb.DiffRequest(
            left=[mount_to_wire(mount) for mount in lower],
            right=[mount_to_wire(mount) for mount in upper],
            media_type=options.media_type,
            ref=options.ref,
            labels=dict(options.labels),
        )
        if options.source_date_epoch is not None:
            request.source_date_epoch.CopyFrom(Timestamp(seconds=options.source_date_epoch))
        answer = await self._transport.unary(
            _SERVICE, "Diff", request, pb.DiffResponse, metadata=_metadata(scope)
        )
        return descriptor_from_wire(answer.diff)


def _metadata(scope: Scope) -> dict[str, str]:
    lease = {"containerd-lease": scope.lease} if scope.lease else {}
    return {"containerd-namespace": scope.namespace, **lease}
