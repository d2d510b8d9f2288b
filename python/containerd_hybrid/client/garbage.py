"""What keeps things alive, and what goes: the service containerd_hybrid.v1.GC of our daemon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from containerd_hybrid.client.calls import Calls
from containerd_hybrid.metadata.api import CollectedNode, Finding, Link
from containerd_hybrid.proto.hybrid import gc_pb2

_GC = gc_pb2.DESCRIPTOR.services_by_name["GC"]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection took, or would take, of all namespaces.

    ``sizes`` has the blobs' in bytes; ``content_bytes`` is what becomes free of them, which is less when
    another namespace still has some; ``seconds`` is how long it took.
    """

    removed: tuple[CollectedNode, ...]
    sizes: Mapping[CollectedNode, int]
    content_bytes: int
    seconds: float


class AsyncGarbage:
    """The collector of a daemon of ours. Elsewhere every method raises UnimplementedError."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def why(self, key: str, type: str = "") -> list[Finding]:
        """Why things of that name in the namespace are alive.

        ``key`` is a digest (or the beginning of its digits), a snapshot's key, or the name of an image,
        container, lease, ingest or mount; ``type`` is one of ``content``, ``images``, ``snapshots/NAME`` …

        Raises:
            NotFoundError: there is nothing of that name.
        """
        request = gc_pb2.WhyRequest(key=key, type=type)
        answer = await self._calls.unary(_GC, "Why", request, gc_pb2.WhyResponse)
        return [
            Finding(_node(finding.node), tuple(Link(_node(link.node), link.reason) for link in finding.chain))
            for finding in answer.findings
        ]

    async def collect(self, *, dry_run: bool = False) -> Collected:
        """Collect in all namespaces and wait for it; with ``dry_run`` only tell what would go."""
        removed: list[CollectedNode] = []
        sizes: dict[CollectedNode, int] = {}
        summary = gc_pb2.CollectSummary()
        request = gc_pb2.CollectRequest(dry_run=dry_run)
        async for part in self._calls.server_stream(_GC, "Collect", request, gc_pb2.CollectResponse):
            for collected in part.collected:
                node = _node(collected.node)
                removed.append(node)
                if collected.size:
                    sizes[node] = collected.size
            if part.HasField("summary"):
                summary = part.summary
        return Collected(tuple(removed), sizes, summary.content_bytes, summary.seconds)


def _node(message: gc_pb2.Node) -> CollectedNode:
    return CollectedNode(message.namespace, message.type, message.key)
