"""Snapshots that an external snapshotter keeps, behind containerd.services.snapshots.v1 on a socket.

::

    <root>/snapshots/
        <id>.json    the namespace and the names that the snapshot has over there

The file is written before anything is asked for over there and removed after it is gone there, so that
nothing is forgotten when this process is killed. Names begin with the namespace and are used once.

What is made gets the label ``containerd.io/gc.root``, in case the other side collects garbage by itself:
it cannot know what refers to a snapshot here.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from containerd_hybrid.client.api import Transport
from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    UnimplementedError,
    error_for_os,
)
from containerd_hybrid.model import Mount
from containerd_hybrid.model.identifiers import quoted
from containerd_hybrid.proto.services.snapshots.v1 import snapshots_pb2 as pb
from containerd_hybrid.snapshots.api import REF_LABEL, DriverSnapshot, Kind, Usage
from containerd_hybrid.wire import mounts_from_wire

_SERVICE = "containerd.services.snapshots.v1.Snapshots"
_ROOT_LABEL = "containerd.io/gc.root"
_SUFFIX = ".json"

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Place:
    """Its names over there: ``active`` until it is ``committed``; ``adopted`` when others made it."""

    namespace: str
    active: str = ""
    committed: str = ""
    adopted: bool = False

    @property
    def name(self) -> str:
        return self.committed or self.active


class ProxySnapshotDriver:
    """Implements :class:`~containerd_hybrid.snapshots.api.SnapshotDriver` and ``RemoteDriver``.

    Made inside the event loop that ``transport`` belongs to; its methods are called in other threads.
    ``remote`` is the snapshotter's name over there.

    Raises, beside what the other side answers:
        UnavailableError: nobody answers there.
    """

    def __init__(
        self, name: str, remote: str, transport: Transport, root: Path, capabilities: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.capabilities = tuple(capabilities)
        self._remote = remote
        self.transport = transport
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._folder = root / "snapshots"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise error_for_os(error, f"make the folder {self._folder}") from error

    # --- SnapshotDriver

    def create(self, snapshot: DriverSnapshot) -> None:
        """See :meth:`SnapshotDriver.create`.

        Raises:
            AlreadyExistsError: over there is what the label REF_LABEL names.
        """
        name = f"{snapshot.namespace}/{snapshot.id}-{secrets.token_hex(8)}"
        place = _Place(snapshot.namespace, name)
        parent = self._place(snapshot.parents[0]).name if snapshot.parents else ""
        self._write(snapshot.id, place)
        request = pb.ViewSnapshotRequest if snapshot.kind is Kind.VIEW else pb.PrepareSnapshotRequest
        response = pb.ViewSnapshotResponse if snapshot.kind is Kind.VIEW else pb.PrepareSnapshotResponse
        self._call(
            "View" if snapshot.kind is Kind.VIEW else "Prepare",
            request(
                snapshotter=self._remote, key=name, parent=parent, labels={**snapshot.labels, **_root_label()}
            ),
            response,
            snapshot.namespace,
        )

    def mounts(self, snapshot: DriverSnapshot) -> list[Mount]:
        place = self._place(snapshot.id)
        request = pb.MountsRequest(snapshotter=self._remote, key=place.name)
        answer = self._call("Mounts", request, pb.MountsResponse, place.namespace)
        return list(mounts_from_wire(answer.mounts))

    def commit(self, snapshot: DriverSnapshot) -> Usage:
        """Once more after the record of the first time failed: it is committed over there already."""
        place = self._place(snapshot.id)
        if not place.committed:
            name = f"{place.active}-committed"
            parent = self._place(snapshot.parents[0]).name if snapshot.parents else ""
            request = pb.CommitSnapshotRequest(
                snapshotter=self._remote,
                name=name,
                key=place.active,
                parent=parent,
                labels={**snapshot.labels, **_root_label()},
            )
            try:
                self._call("Commit", request, Empty, place.namespace)
            except (NotFoundError, AlreadyExistsError):
                if self._kind(name, place.namespace) != pb.COMMITTED:
                    raise
            place = replace(place, committed=name)
            self._write(snapshot.id, place)
        return self._usage(place)

    def usage(self, snapshot: DriverSnapshot) -> Usage:
        return self._usage(self._place(snapshot.id))

    def remove(self, id: int) -> None:
        try:
            place = self._place(id)
        except NotFoundError:
            return
        if not (place.adopted and self._is_shared(id, place)):
            for name in filter(None, (place.committed, place.active)):
                request = pb.RemoveSnapshotRequest(snapshotter=self._remote, key=name)
                with suppress(NotFoundError):
                    self._call("Remove", request, Empty, place.namespace)
        self._file(id).unlink(missing_ok=True)

    def ids(self) -> list[int]:
        names = (path.name.removesuffix(_SUFFIX) for path in self._folder.iterdir())
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def labels(self, id: int) -> Mapping[str, str]:
        return {}

    # --- RemoteDriver

    def adopt(self, snapshot: DriverSnapshot) -> Usage | None:
        """The committed snapshot over there that has the label and, if any, the parent."""
        parent = self._place(snapshot.parents[0]).name if snapshot.parents else ""
        wanted = f"labels.{quoted(REF_LABEL)}=={quoted(snapshot.labels[REF_LABEL])},parent=={quoted(parent)}"
        request = pb.ListSnapshotsRequest(snapshotter=self._remote, filters=[wanted])
        for info in self._run(self._list(request, snapshot.namespace)):
            if info.kind == pb.COMMITTED:
                place = _Place(snapshot.namespace, committed=info.name, adopted=True)
                self._write(snapshot.id, place)
                return self._usage(place)
        return None

    def cleanup(self) -> None:
        """A snapshotter without clean-up has removed at once; one without snapshots has no namespace."""
        namespaces = {self._place(number).namespace for number in self.ids()} or {"default"}
        for namespace in sorted(namespaces):
            with suppress(UnimplementedError):
                self._call("Cleanup", pb.CleanupRequest(snapshotter=self._remote), Empty, namespace)

    # --- the other side

    def _usage(self, place: _Place) -> Usage:
        request = pb.UsageRequest(snapshotter=self._remote, key=place.name)
        answer = self._call("Usage", request, pb.UsageResponse, place.namespace)
        return Usage(answer.size, answer.inodes)

    def _kind(self, name: str, namespace: str) -> int | None:
        request = pb.StatSnapshotRequest(snapshotter=self._remote, key=name)
        try:
            return self._call("Stat", request, pb.StatSnapshotResponse, namespace).info.kind
        except NotFoundError:
            return None

    def _call(self, method: str, request: Message, response: type[M], namespace: str) -> M:
        metadata = {"containerd-namespace": namespace}
        return self._run(self.transport.unary(_SERVICE, method, request, response, metadata=metadata))

    async def _list(self, request: pb.ListSnapshotsRequest, namespace: str) -> list[pb.Info]:
        metadata = {"containerd-namespace": namespace}
        stream = self.transport.server_stream(
            _SERVICE, "List", request, pb.ListSnapshotsResponse, metadata=metadata
        )
        return [info async for page in stream for info in page.info]

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        if threading.get_ident() == self._loop_thread:
            call.close()
            raise InternalError("a proxy is asked on the event loop that it would wait for")
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    # --- places

    def _file(self, id: int) -> Path:
        return self._folder / f"{id}{_SUFFIX}"

    def _place(self, id: int) -> _Place:
        try:
            return _Place(**json.loads(self._file(id).read_text("utf-8")))
        except FileNotFoundError:
            raise NotFoundError(f"snapshotter {self.name}: nothing is known of snapshot {id}") from None
        except OSError as error:
            raise error_for_os(error, f"read {self._file(id)}") from error
        except (ValueError, TypeError) as error:
            raise FailedPreconditionError(f"{self._file(id)} is damaged: {error}") from error

    def _write(self, id: int, place: _Place) -> None:
        path = self._file(id)
        draft = path.with_name(f".{path.name}.new")
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(asdict(place), file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise error_for_os(error, f"write {path}") from error

    def _is_shared(self, id: int, place: _Place) -> bool:
        return any(self._place(other).committed == place.committed for other in self.ids() if other != id)


def _root_label() -> dict[str, str]:
    return {_ROOT_LABEL: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
