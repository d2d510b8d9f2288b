"""containerd_hybrid.v1.GC: why something is alive, what would go, and a collection now."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.metadata.api import CollectedNode, Collector, Finding, GarbageExplainer
from containerd_hybrid.proto.hybrid import gc_pb2 as pb
from containerd_hybrid.rpc.api import CallContext

# Keeps a message far below its limit, whatever the names are.
_NODES_IN_A_MESSAGE = 1000


class GCService:
    """Explains and starts collections."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["GC"]

    def __init__(self, collector: Collector, explainer: GarbageExplainer) -> None:
        self._collector = collector
        self._explainer = explainer

    async def why(self, request: pb.WhyRequest, call: CallContext) -> pb.WhyResponse:
        namespace = call.scope.namespace
        if not request.key:
            raise InvalidArgumentError("name a digest, a snapshot, or another thing: the key is empty")
        findings = await self._explainer.why(namespace, request.key, request.type)
        if not findings:
            what = f"{request.type} {request.key}" if request.type else request.key
            raise NotFoundError(f"nothing in namespace {namespace} is called {what}: not found")
        return pb.WhyResponse(findings=[_finding(finding) for finding in findings])

    async def collect(
        self, request: pb.CollectRequest, call: CallContext
    ) -> AsyncIterator[pb.CollectResponse]:
        # Records that are gone cannot be measured, so what would go is looked at before it goes.
        report = await self._collector.collect(dry_run=True)
        removal = await self._explainer.measure(report.removed)
        content_bytes = removal.content_bytes
        if not request.dry_run:
            report = await self._collector.collect()
            if not report.removed:
                content_bytes = 0
        removed = report.removed
        for begin in range(0, len(removed), _NODES_IN_A_MESSAGE):
            yield pb.CollectResponse(
                collected=[
                    pb.Collected(node=_node(node), size=removal.sizes.get(node, 0))
                    for node in removed[begin : begin + _NODES_IN_A_MESSAGE]
                ]
            )
        counts = Counter(node.type for node in removed)
        yield pb.CollectResponse(
            summary=pb.CollectSummary(counts=counts, content_bytes=content_bytes, seconds=report.seconds)
        )


def _node(node: CollectedNode) -> pb.Node:
    return pb.Node(namespace=node.namespace, type=node.type, key=node.key)


def _finding(finding: Finding) -> pb.Finding:
    links = [pb.Link(node=_node(link.node), reason=link.reason) for link in finding.chain]
    return pb.Finding(node=_node(finding.node), chain=links)
