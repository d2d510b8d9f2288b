"""The method table as the connections use it: methods by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from containerd_hybrid._native import FrontRoutes
from containerd_hybrid.errors import InternalError
from containerd_hybrid.rpc.api import Kind, Service
from containerd_hybrid.rpc.endpoints import WAITING, unknown_path


@dataclass(frozen=True, slots=True)
class Route:
    """One method. ``waits`` when a drain may end it at once."""

    path: str
    handler: Callable[..., Any]
    decode: Callable[[bytes], Message]
    asks_many: bool
    answers_many: bool
    waits: bool


class RouteTable:
    """The routes of a server, and the same for Rust."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services: set[str] = set()
        self.routes: list[Route] = []
        for service in services:
            self._services.add(service.name)
            for method in service.methods.values():
                path = f"/{service.name}/{method.name}"
                self.routes.append(
                    Route(
                        path=path,
                        handler=method.handler,
                        decode=_decoder(method.request),
                        asks_many=method.kind in {Kind.CLIENT_STREAM, Kind.BIDI_STREAM},
                        answers_many=method.kind in {Kind.SERVER_STREAM, Kind.BIDI_STREAM},
                        waits=path in WAITING,
                    )
                )
        self.native = FrontRoutes([(route.path, route.asks_many) for route in self.routes])

    def unknown(self, path: str) -> str:
        """What a caller of a path that is nobody's is told."""
        return unknown_path(path, self._services)


def _decoder(kind: type[Message]) -> Callable[[bytes], Message]:
    def decode(payload: bytes) -> Message:
        try:
            return kind.FromString(payload)
        except DecodeError as error:
            raise InternalError(f"grpc: error unmarshalling request: {error}") from None

    return decode
