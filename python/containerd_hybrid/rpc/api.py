"""Calls: handlers over messages and a context, whatever transport brings them.

A service is a :class:`Service`: its full name and its methods. A handler is a plain async function
(unary) or async generator (server stream) over protobuf messages and a :class:`CallContext`; a
handler of a client or bidirectional stream gets an async iterator of requests. Transports
(``grpc_adaptor``, ``ttrpc_adaptor``, the in-process one) turn wire calls into these and errors into
statuses; interceptors wrap handlers and know no transport. Cancellation is asyncio's: when the
caller goes away or the deadline passes, the handler's task is cancelled.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from google.protobuf.message import Message

from containerd_hybrid.errors import FailedPreconditionError
from containerd_hybrid.model import Scope

NAMESPACE_HEADER = "containerd-namespace"
TTRPC_NAMESPACE_HEADER = "containerd-namespace-ttrpc"
LEASE_HEADER = "containerd-lease"


@dataclass(slots=True)
class ResponseMetadata:
    """What goes back beside the messages: ``initial`` before the first one, ``trailing`` with the status.

    Keys are lower case. A transport that has no place for them (ttrpc) leaves them out.
    """

    initial: dict[str, str] = field(default_factory=dict)
    trailing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallContext:
    """What came with a call beside its message.

    ``metadata`` has lower-case keys and the first value of each (Go's clients put the newest first);
    ``deadline`` is an event loop time (``loop.time()``) or None; ``peer`` names the caller for logs.
    What a handler puts into ``response`` goes back to the caller.
    """

    method: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    peer: str = ""
    namespace: str | None = None
    lease: str | None = None
    response: ResponseMetadata = field(default_factory=ResponseMetadata)

    def within(self, namespace: str | None, lease: str | None) -> CallContext:
        """The same call in a namespace and under a lease; it is part of every call, so it has to be quick."""
        return CallContext(
            self.method, self.metadata, self.deadline, self.peer, namespace, lease, self.response
        )

    @property
    def scope(self) -> Scope:
        """The namespace and lease of the call.

        Raises:
            FailedPreconditionError: the call named no namespace.
        """
        if not self.namespace:
            raise FailedPreconditionError("namespace is required: failed precondition")
        return Scope(self.namespace, self.lease)


class Encoded:
    """A response that its handler has serialized already; a transport sends the bytes as they are.

    For long lists, where making the messages would be most of the work.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 (a message's method)
        """The bytes."""
        return self._data


class Kind(enum.Enum):
    """Which sides of a method are streams."""

    UNARY = "unary"
    SERVER_STREAM = "server-stream"
    CLIENT_STREAM = "client-stream"
    BIDI_STREAM = "bidi-stream"


Response: TypeAlias = Message | Encoded
Unary: TypeAlias = Callable[[Any, CallContext], Awaitable[Response]]
ServerStream: TypeAlias = Callable[[Any, CallContext], AsyncIterator[Response]]
ClientStream: TypeAlias = Callable[[AsyncIterator[Any], CallContext], Awaitable[Response]]
BidiStream: TypeAlias = Callable[[AsyncIterator[Any], CallContext], AsyncIterator[Response]]
Handler: TypeAlias = Unary | ServerStream | ClientStream | BidiStream


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its name, message classes, kind and handler."""

    name: str
    request: type[Message]
    response: type[Message]
    kind: Kind
    handler: Handler


@dataclass(frozen=True, slots=True)
class Service:
    """A service by its full name, e.g. ``containerd.services.images.v1.Images``."""

    name: str
    methods: Mapping[str, Method]


class Interceptor(Protocol):
    """One cross-cutting concern: gets a method and gives one whose handler is wrapped."""

    def wrap(self, service: str, method: Method) -> Method: ...
