"""Metadata: who owns what, in one SQLite file. See ``docs/schema.md`` for the tables.

Stores work through a :class:`Database`: functions over a connection, run off the event loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from containerd_hybrid.model import Digest

T = TypeVar("T")

CommitListener = Callable[[int, int], None]
"""Called with the number of writes in a durable transaction, and of those that deleted something."""


class Transaction(Protocol):
    """A write transaction in progress; everything in it happens or nothing does."""

    @property
    def connection(self) -> sqlite3.Connection: ...

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run ``action`` on the event loop once the transaction is durable (publishing events)."""
        ...

    def mark_dirty(self) -> None:
        """Say that something was deleted, so that there may be garbage now."""
        ...


class Database(Protocol):
    """One writer, many readers; both off the event loop.

    Writes that wait at the same moment share one transaction and one sync, each in a savepoint of
    its own, so an error undoes only the write that raised it.
    """

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T: ...

    async def recall(self, key: Hashable, work: Callable[[sqlite3.Connection], T]) -> T:
        """As :meth:`read`, for what is asked for again and again: kept under ``key`` until the next write.

        What ``work`` gives must be frozen, and nobody may change it.
        """
        ...

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Cancelling the caller does not take the write back; it is settled when CancelledError arrives."""
        ...

    async def check(self) -> list[str]:
        """What is wrong with the file; empty when it is sound."""
        ...

    def on_commit(self, listener: CommitListener) -> None:
        """Call ``listener`` on the event loop after each durable transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace and its labels."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


class DigestLocks(Protocol):
    """One lock a blob, between whoever relies on its bytes and whoever removes them."""

    def hold(self, digest: Digest) -> AbstractAsyncContextManager[None]:
        """Hold it for the block."""
        ...


class NamespaceStore(Protocol):
    """Namespaces (containerd.services.namespaces.v1)."""

    async def get(self, name: str) -> Namespace: ...
    async def list(self) -> list[Namespace]: ...
    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> Namespace: ...
    async def update(
        self, name: str, labels: Mapping[str, str], fieldpaths: Sequence[str] = ()
    ) -> Namespace: ...
    async def delete(self, name: str) -> None:
        """FailedPreconditionError names what is still in it."""
        ...


@dataclass(frozen=True, slots=True)
class CollectedNode:
    """One thing the collector removed (or would remove): ``type`` as in a lease resource."""

    namespace: str
    type: str
    key: str


@dataclass(frozen=True, slots=True)
class CollectionReport:
    """What one run of the collector did; ``seconds`` is its duration.

    ``database_seconds`` of these went into finding and deleting records, the rest into bytes and folders.
    """

    removed: tuple[CollectedNode, ...]
    seconds: float
    database_seconds: float = 0.0


class Collector(Protocol):
    """Garbage collection over the label graph (containerd's docs/garbage-collection.md)."""

    async def collect(self, *, dry_run: bool = False) -> CollectionReport:
        """Remove every record that no root reaches, then its bytes and folders."""
        ...

    def trigger(self) -> None:
        """Something was deleted: collect soon, as the scheduler's settings say."""
        ...

    async def why(self, namespace: str, type: str, key: str) -> list[CollectedNode]:
        """One chain of references from a root to this node; empty when nothing holds it."""
        ...


@dataclass(frozen=True, slots=True)
class Link:
    """A thing in a chain, and why it is alive: by itself, or because of what in the thing before it."""

    node: CollectedNode
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a thing is alive: from something that lives by itself to it. Nothing holds it when it is empty."""

    node: CollectedNode
    chain: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Removal:
    """What is freed: the size of each blob, and of all of them whose last record goes, in bytes."""

    sizes: Mapping[CollectedNode, int]
    content_bytes: int


class GarbageExplainer(Protocol):
    """What an operator asks about garbage."""

    async def why(self, namespace: str, key: str, type: str = "") -> list[Finding]:
        """Things of that name, and why they are alive.

        ``key`` is a digest or four or more digits of one from its beginning, or a whole name of anything
        else; ``type`` leaves out things of other types. Empty when there is nothing of that name.
        """
        ...

    async def measure(self, nodes: Sequence[CollectedNode]) -> Removal:
        """What removing these would free."""
        ...
