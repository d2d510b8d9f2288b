"""Every kind of thing that has labels in a namespace, seen through one pair of glasses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.contract.support import RecordingPublisher

from containerd_hybrid.containers.api import Container
from containerd_hybrid.content.local import LocalBlobStore
from containerd_hybrid.events.api import (
    ContainerCreate,
    ContainerDelete,
    ContainerUpdate,
    ContentCreate,
    ContentDelete,
    Event,
    ImageCreate,
    ImageDelete,
    ImageUpdate,
    NamespaceCreate,
    NamespaceDelete,
    NamespaceUpdate,
    SnapshotPrepare,
    SnapshotRemove,
)
from containerd_hybrid.images.api import Image
from containerd_hybrid.metadata.api import Namespace
from containerd_hybrid.metadata.containers import MetadataContainerStore
from containerd_hybrid.metadata.content import MetadataContentStore
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.images import MetadataImageStore
from containerd_hybrid.metadata.leases import MetadataLeaseManager
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.metadata.namespaces import MetadataNamespaceStore
from containerd_hybrid.metadata.sandboxes import MetadataSandboxStore
from containerd_hybrid.metadata.snapshots import MetadataSnapshotter
from containerd_hybrid.model import Descriptor, Digest, Mount, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.sandbox.api import Sandbox
from containerd_hybrid.snapshots.api import DriverSnapshot, Usage

Labels = dict[str, str]
NAMES = ("a", "b", "c", "d")
"""Names a test may use: each subject turns one into whatever its things are called by."""


class Subject(ABC):
    """One store. ``node`` is the type its things have in the collector's graph, "" for none."""

    node = ""
    updates = True  # its labels can be changed
    filters = True  # its list takes filters
    sized = True  # it refuses labels that are too large
    key_field = "name"  # the filter field that selects by key
    replaces_labels_path = True  # the path "labels" is allowed

    def __init__(self, database: SqliteDatabase, publisher: RecordingPublisher, folder: Path) -> None:
        self.publisher = publisher

    def key(self, name: str) -> str:
        """What the thing is called in the store."""
        return name

    @abstractmethod
    async def create(self, scope: Scope, name: str, labels: Labels) -> Labels: ...
    @abstractmethod
    async def labels(self, scope: Scope, name: str) -> Labels: ...
    @abstractmethod
    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> list[str]:
        """Keys, in the order of the store."""

    @abstractmethod
    async def update(self, scope: Scope, name: str, labels: Labels, paths: Sequence[str]) -> Labels: ...
    @abstractmethod
    async def delete(self, scope: Scope, name: str) -> None: ...

    async def times(self, scope: Scope, name: str) -> tuple[int, int] | None:
        """Created and updated, where the store shows them."""
        return None

    def events(self, name: str) -> dict[str, type[Event]]:
        """The classes of the events for create, update and delete that the store publishes."""
        return {}


class Images(Subject):
    node = "images"

    def __init__(self, database: SqliteDatabase, publisher: RecordingPublisher, folder: Path) -> None:
        super().__init__(database, publisher, folder)
        self.store = MetadataImageStore(database, publisher)

    def _image(self, name: str, labels: Labels) -> Image:
        return Image(name, Descriptor("application/x", Digest.of(name.encode()), 1), labels)

    async def create(self, scope: Scope, name: str, labels: Labels) -> Labels:
        return dict((await self.store.create(scope, self._image(name, labels))).labels)

    async def labels(self, scope: Scope, name: str) -> Labels:
        return dict((await self.store.get(scope, name)).labels)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> list[str]:
        return [image.name for image in await self.store.list(scope, filters)]

    async def update(self, scope: Scope, name: str, labels: Labels, paths: Sequence[str]) -> Labels:
        return dict((await self.store.update(scope, self._image(name, labels), paths)).labels)

    async def delete(self, scope: Scope, name: str) -> None:
        await self.store.delete(scope, name)

    async def times(self, scope: Scope, name: str) -> tuple[int, int]:
        image = await self.store.get(scope, name)
        return image.created_at, image.updated_at

    def events(self, name: str) -> dict[str, type[Event]]:
        return {"create": ImageCreate, "update": ImageUpdate, "delete": ImageDelete}


class Containers(Subject):
    node = "containers"
    key_field = "id"

    def __init__(self, database: SqliteDatabase, publisher: RecordingPublisher, folder: Path) -> None:
        super().__init__(database, publisher, folder)
        self.store = MetadataContainerStore(database, publisher)

    def _container(self, name: str, labels: Labels) -> Container:
        return Container(name, runtime_name="runtime", spec=AnyValue("spec", b"{}"), labels=labels)

    async def create(self, scope: Scope, name: str, labels: Labels) -> Labels:
        return dict((await self.store.create(scope, self._container(name, labels))).labels)

    async def labels(self, scope: Scope, name: str) -> Labels:
        return dict((await self.store.get(scope, name)).labels)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> list[str]:
        return [container.id for container in await self.store.list(scope, filters)]

    async def update(self, scope: Scope, name: str, labels: Labels, paths: Sequence[str]) -> Labels:
        return dict((await self.store.update(scope, self._container(name, labels), paths)).labels)

    async def delete(self, scope: Scope, name: str) -> None:
        await self.store.delete(scope, name)

    async def times(self, scope: Scope, name: str) -> tuple[int, int]:
        container = await self.store.get(scope, name)
        return container.created_at, container.updated_at

    def events(self, name: str) -> dict[str, type[Event]]:
        return {"create": ContainerCreate, "update": ContainerUpdate, "delete": ContainerDelete}


class Sandboxes(Subject):
    node = "sandboxes"
    key_field = "id"
    sized = False

    def __init__(self, database: SqliteDatabase, publisher: RecordingPublisher, folder: Path) -> None:
        super().__init__(database, publisher, folder)
        self.store = MetadataSandboxStore(database)

    async def create(self, scope: Scope, name: str, labels: Labels) -> Labels:
        return dict((await self.store.create(scope, Sandbox(name, "runtime", labels=labels))).labels)

    async def labels(self, scope: Scope, name: str) -> Labels:
        return dict((await self.store.get(scope, name)).labels)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> list[str]:
        return [sandbox.id for sandbox in await self.store.list(scope, filters)]

    async def update(self, scope: Scope, name: str, labels: Labels, paths: Sequence[str]) -> Labels:
        return dict((await self.store.update(scope, Sandbox(name, "runtime", labels=labels), paths)).labels)

    async def delete(self, scope: Scope, name: str) -> None:
        await self.store.delete(scope, name)

    async def times(self, scope: Scope, name: str) -> tuple[int, int]:
        sandbox = await self.store.get(scope, name)
        return sandbox.created_at, sandbox.updated_at


class Leases(Subject):
    updates = False
    key_field = "id"
    sized = False

    def __init__(self, database: SqliteDatabase, publisher: RecordingPublisher, folder: Path) -> None:
        super().__init__(database, publisher, folder)
        self.store = MetadataLeaseManager(database)

    async def create(self, scope: Scope, name: str, labels: Labels) -> Labels:
        return dict((await self.store.create(scope, name, labels)).labels)

    async def labels(self, scope: Scope, name: str) -> Labels:
        await self.store.list_resources(scope, name)  # the one call that knows a missing lease
        return next(dict(one.labels) for one in await self.store.list(scope) if one.id == name)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> list[str]:
        return [lease.id for lease in await self.store.list(scope, filters)]

    async def update(self, scope: Scope, name: str, labels: Labels, paths: Sequence[str]) -> Labels:
        raise NotImplementedError

    async def delete(self, scope: Scope, name: str) -> None:
        await self.store.delete(scope, name)


class Content(Subject):
    node = "content"
    key_field = "digest"

    def __init__(self, database: SqliteDatabase, publisher: RecordingPublisher, folder: Path) -> None:
        super().__init__(database, publisher, folder)
        blobs = LocalBlobStore(folder / "content", sync=False)
        self.store = MetadataContentStore(database, blobs, BlobLocks(), publisher)

    def key(self, name: str) -> str:
        # In the order of their names, though digests are not.
        return str(sorted(Digest.of(one.encode()) for one in NAMES)[NAMES.index(name)])

    def _data(self, name: str) -> bytes:
        return next(one.encode() for one in NAMES if str(Digest.of(one.encode())) == self.key(name))

    def _digest(self, name: str) -> Digest:
        return Digest.parse(self.key(name))

    async def create(self, scope: Scope, name: str, labels: Labels) -> Labels:
        ingest = await self.store.open_ingest(scope, f"ref-{name}")
        try:
            await ingest.write(self._data(name), 0)
            return dict((await ingest.commit(labels=labels)).labels)
        finally:
            await ingest.close()

    async def labels(self, scope: Scope, name: str) -> Labels:
        return dict((await self.store.info(scope, self._digest(name))).labels)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> list[str]:
        return [str(info.digest) async for info in self.store.walk(scope, filters)]

    async def update(self, scope: Scope, name: str, labels: Labels, paths: Sequence[str]) -> Labels:
        return dict((await self.store.update(scope, self._digest(name), labels, paths)).labels)

    async def delete(self, scope: Scope, name: str) -> None:
        await self.store.delete(scope, self._digest(name))

    async def times(self, scope: Scope, name: str) -> tuple[int, int]:
        info = await self.store.info(scope, self._digest(name))
        return info.created_at, info.updated_at

    def events(self, name: str) -> dict[str, type[Event]]:
        return {"create": ContentCreate, "delete": ContentDelete}


class MemoryDriver:
    """Snapshots without folders."""

    name = "memory"
    capabilities: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.made: dict[int, DriverSnapshot] = {}

    def create(self, snapshot: DriverSnapshot) -> None:
        self.made[snapshot.id] = snapshot

    def mounts(self, snapshot: DriverSnapshot) -> list[Mount]:
        return [Mount("bind", f"/{snapshot.id}")]

    def commit(self, snapshot: DriverSnapshot) -> Usage:
        return Usage(1, 1)

    def usage(self, snapshot: DriverSnapshot) -> Usage:
        return Usage(1, 1)

    def remove(self, id: int) -> None:
        self.made.pop(id, None)

    def ids(self) -> list[int]:
        return list(self.made)

    def labels(self, id: int) -> Mapping[str, str]:
        return {}


class Snapshots(Subject):
    node = "snapshots/memory"

    def __init__(self, database: SqliteDatabase, publisher: RecordingPublisher, folder: Path) -> None:
        super().__init__(database, publisher, folder)
        self.store = MetadataSnapshotter(database, MemoryDriver(), publisher, sync_remove=True)

    async def create(self, scope: Scope, name: str, labels: Labels) -> Labels:
        await self.store.prepare(scope, name, labels=labels)
        return await self.labels(scope, name)

    async def labels(self, scope: Scope, name: str) -> Labels:
        return dict((await self.store.stat(scope, name)).labels)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> list[str]:
        return [info.name async for info in self.store.walk(scope, filters)]

    async def update(self, scope: Scope, name: str, labels: Labels, paths: Sequence[str]) -> Labels:
        return dict((await self.store.update(scope, name, labels, paths)).labels)

    async def delete(self, scope: Scope, name: str) -> None:
        await self.store.remove(scope, name)

    async def times(self, scope: Scope, name: str) -> tuple[int, int]:
        info = await self.store.stat(scope, name)
        return info.created_at, info.updated_at

    def events(self, name: str) -> dict[str, type[Event]]:
        return {"create": SnapshotPrepare, "delete": SnapshotRemove}


class Namespaces(Subject):
    """Namespaces are in no namespace; the scope's name goes before theirs."""

    filters = False
    replaces_labels_path = False

    def __init__(self, database: SqliteDatabase, publisher: RecordingPublisher, folder: Path) -> None:
        super().__init__(database, publisher, folder)
        self.store = MetadataNamespaceStore(database, publisher)

    async def create(self, scope: Scope, name: str, labels: Labels) -> Labels:
        return dict((await self.store.create(f"{scope.namespace}.{name}", labels)).labels)

    async def labels(self, scope: Scope, name: str) -> Labels:
        return dict((await self.store.get(f"{scope.namespace}.{name}")).labels)

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> list[str]:
        prefix = scope.namespace + "."
        return [
            one.name.removeprefix(prefix) for one in await self.store.list() if one.name.startswith(prefix)
        ]

    async def update(self, scope: Scope, name: str, labels: Labels, paths: Sequence[str]) -> Labels:
        updated: Namespace = await self.store.update(f"{scope.namespace}.{name}", labels, paths)
        return dict(updated.labels)

    async def delete(self, scope: Scope, name: str) -> None:
        await self.store.delete(f"{scope.namespace}.{name}")

    def events(self, name: str) -> dict[str, type[Event]]:
        return {"create": NamespaceCreate, "update": NamespaceUpdate, "delete": NamespaceDelete}


SUBJECTS: tuple[type[Subject], ...] = (
    Images,
    Containers,
    Sandboxes,
    Leases,
    Content,
    Snapshots,
    Namespaces,
)
