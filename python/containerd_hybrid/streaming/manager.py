"""The streams that are open now."""

from __future__ import annotations

from containerd_hybrid.errors import AlreadyExistsError, NotFoundError
from containerd_hybrid.model import Scope
from containerd_hybrid.streaming.api import Stream


class OpenStreams:
    """See :class:`containerd_hybrid.streaming.api.StreamManager`."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], Stream] = {}

    def register(self, scope: Scope, name: str, stream: Stream) -> None:
        if (scope.namespace, name) in self._streams:
            raise AlreadyExistsError(f"stream {name!r}: already exists")
        self._streams[scope.namespace, name] = stream

    def unregister(self, scope: Scope, name: str) -> None:
        self._streams.pop((scope.namespace, name), None)

    def get(self, scope: Scope, name: str) -> Stream:
        try:
            return self._streams[scope.namespace, name]
        except KeyError:
            raise NotFoundError(f"stream {name!r}: not found") from None
