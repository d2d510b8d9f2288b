"""Events: what happened, told to whoever listens (containerd.services.events.v1).

The payload classes have the names and fields of the messages in ``containerd.events`` so that one
encoder serves them all; a payload that came from elsewhere (a shim, a client) stays an AnyValue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.model.mount import Mount


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event. ``timestamp`` is Unix nanoseconds; ``topic`` begins with a slash."""

    timestamp: int
    namespace: str
    topic: str
    event: AnyValue


class Event:
    """Base of our own payloads; ``topic`` is where they are published."""

    __slots__ = ()
    topic: ClassVar[str]


@dataclass(frozen=True, slots=True)
class NamespaceCreate(Event):
    topic: ClassVar[str] = "/namespaces/create"
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NamespaceUpdate(Event):
    topic: ClassVar[str] = "/namespaces/update"
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NamespaceDelete(Event):
    topic: ClassVar[str] = "/namespaces/delete"
    name: str


@dataclass(frozen=True, slots=True)
class ImageCreate(Event):
    topic: ClassVar[str] = "/images/create"
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageUpdate(Event):
    topic: ClassVar[str] = "/images/update"
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageDelete(Event):
    topic: ClassVar[str] = "/images/delete"
    name: str


@dataclass(frozen=True, slots=True)
class ContentCreate(Event):
    topic: ClassVar[str] = "/content/create"
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ContentDelete(Event):
    topic: ClassVar[str] = "/content/delete"
    digest: str


@dataclass(frozen=True, slots=True)
class SnapshotPrepare(Event):
    topic: ClassVar[str] = "/snapshot/prepare"
    key: str
    parent: str
    snapshotter: str


@dataclass(frozen=True, slots=True)
class SnapshotCommit(Event):
    topic: ClassVar[str] = "/snapshot/commit"
    key: str
    name: str
    snapshotter: str


@dataclass(frozen=True, slots=True)
class SnapshotRemove(Event):
    topic: ClassVar[str] = "/snapshot/remove"
    key: str
    snapshotter: str


@dataclass(frozen=True, slots=True)
class ContainerCreateRuntime:
    name: str
    options: AnyValue | None = None


@dataclass(frozen=True, slots=True)
class ContainerCreate(Event):
    topic: ClassVar[str] = "/containers/create"
    id: str
    image: str
    runtime: ContainerCreateRuntime | None = None


@dataclass(frozen=True, slots=True)
class ContainerUpdate(Event):
    topic: ClassVar[str] = "/containers/update"
    id: str
    image: str
    labels: Mapping[str, str] = field(default_factory=dict)
    snapshot_key: str = ""


@dataclass(frozen=True, slots=True)
class ContainerDelete(Event):
    topic: ClassVar[str] = "/containers/delete"
    id: str


@dataclass(frozen=True, slots=True)
class TaskIO:
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class TaskCreate(Event):
    topic: ClassVar[str] = "/tasks/create"
    container_id: str
    bundle: str
    rootfs: tuple[Mount, ...] = ()
    io: TaskIO | None = None
    checkpoint: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class TaskDelete(Event):
    """``exited_at`` is Unix nanoseconds; ``id`` is the exec's, empty for the task itself."""

    topic: ClassVar[str] = "/tasks/delete"
    container_id: str
    pid: int
    exit_status: int
    exited_at: int
    id: str = ""


@dataclass(frozen=True, slots=True)
class TaskExit(Event):
    topic: ClassVar[str] = "/tasks/exit"
    container_id: str
    id: str
    pid: int
    exit_status: int
    exited_at: int


@dataclass(frozen=True, slots=True)
class SandboxCreate(Event):
    topic: ClassVar[str] = "/sandboxes/create"
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class SandboxStart(Event):
    topic: ClassVar[str] = "/sandboxes/start"
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class SandboxExit(Event):
    topic: ClassVar[str] = "/sandboxes/exit"
    sandbox_id: str
    exit_status: int = 0
    exited_at: int = 0


class EventPublisher(Protocol):
    """Where events go. Publishing never waits for a subscriber."""

    def publish(self, namespace: str, event: Event) -> None:
        """Publish one of our own payloads under its topic, now."""
        ...

    def forward(self, envelope: Envelope) -> None:
        """Hand on an event that happened elsewhere.

        Raises:
            InvalidArgumentError: namespace, topic or timestamp is missing or malformed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event that is in the log; numbers begin at 1 and have no gaps."""

    sequence: int
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything that was kept has been told up to this number; what follows is news."""

    sequence: int


@dataclass(frozen=True, slots=True)
class LogStatus:
    """What a log keeps. ``first`` is 0 when that is nothing; ``oldest`` is Unix nanoseconds.

    ``max_age`` is seconds. A log with another ``id`` is another log, whose numbers begin anew.
    """

    id: str
    first: int
    last: int
    bytes: int
    max_bytes: int
    max_age: float
    oldest: int


@dataclass(frozen=True, slots=True)
class From:
    """Where a replay begins: behind number ``after``, or at what was recorded at ``since`` (Unix ns).

    Without either with the oldest event that is kept. ``log`` is the id of the log that the number is of.
    """

    after: int = 0
    since: int = 0
    log: str = ""


class EventLog(Protocol):
    """Keeps every event, so that who was away can ask for what it missed."""

    @property
    def last(self) -> int:
        """The number of the newest event, written or not."""
        ...

    @property
    def written(self) -> int:
        """The number up to which events survive the end of this process."""
        ...

    def append(self, envelope: Envelope) -> int:
        """Number an event and have it written soon; never waits, never fails."""
        ...

    async def settled(self) -> None:
        """Wait until all that was appended by now is written (or cannot be, which is logged)."""
        ...

    async def status(self) -> LogStatus: ...

    def replay(
        self, start: From, filters: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[Recorded | CaughtUp]:
        """Events in the order of their numbers; with ``follow`` then those to come, without end.

        However slow the reader, it costs nobody anything: it reads from the log.

        Raises:
            InvalidFilterError: before the first event.
            NotFoundError: ``start.log`` is another log.
            OutOfRangeError: events that were asked for are no longer kept, or ``after`` was never given.
            DataLossError: events could not be written (a full disk); the message says which.
            UnavailableError: the log cannot be read.
        """
        ...


class EventExchange(EventPublisher, Protocol):
    """The hub that subscriptions hang on."""

    def subscribe(self, filters: Sequence[str] = ()) -> AbstractAsyncContextManager[AsyncIterator[Envelope]]:
        """Events from now on for which one of the filters holds, in order.

        Fields: ``namespace``, ``topic``, ``event.<field of the payload>``.

        Raises:
            InvalidFilterError: before the first event.
        """
        ...
