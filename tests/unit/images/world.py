"""The image stores of a daemon, on files of the test's own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.contract.content.world import World, open_world

from containerd_hybrid.events.api import Envelope, Event
from containerd_hybrid.images.exporter import ArchiveExporter
from containerd_hybrid.images.importer import ArchiveImporter
from containerd_hybrid.leases.api import protected
from containerd_hybrid.metadata.images import MetadataImageStore
from containerd_hybrid.model import Digest, Scope

NS = Scope("images")


class Nobody:
    """Listens to events and does nothing."""

    def publish(self, namespace: str, event: Event) -> None:
        pass

    def forward(self, envelope: Envelope) -> None:
        pass


class BytesSource:
    """An archive in memory, given in pieces of a size that fits nothing."""

    def __init__(self, data: bytes, piece: int = 100_003) -> None:
        self._data = data
        self._piece = piece
        self.position = 0

    async def read(self, size: int) -> bytes:
        data = self._data[self.position : self.position + min(size, self._piece)]
        self.position += len(data)
        return data


@dataclass
class ImageWorld:
    stores: World
    images: MetadataImageStore
    importer: ArchiveImporter
    exporter: ArchiveExporter

    async def blobs(self) -> set[str]:
        return {str(info.digest) async for info in self.stores.content.walk(NS)}

    async def labels(self, digest: str) -> dict[str, str]:
        return dict((await self.stores.content.info(NS, Digest.parse(digest))).labels)

    async def leftovers(self) -> list[str]:
        """What an import that failed has left behind when the collector was there."""
        await self.stores.collector.collect()
        left = [f"ingest {status.ref}" for status in await self.stores.content.list_ingests(NS)]
        left += [f"blob {digest}" for digest in await self.blobs()]
        left += [f"image {image.name}" for image in await self.images.list(NS)]
        left += [f"lease {lease.id}" for lease in await self.stores.leases.list(NS)]
        return left

    @contextlib.asynccontextmanager
    async def leased(self) -> AsyncIterator[Scope]:
        async with protected(self.stores.leases, NS) as scope:
            yield scope


@contextlib.asynccontextmanager
async def open_image_world(root: Path) -> AsyncIterator[ImageWorld]:
    async with open_world(root) as stores:
        images = MetadataImageStore(stores.database, Nobody())
        yield ImageWorld(
            stores,
            images,
            ArchiveImporter(stores.content, images),
            ArchiveExporter(stores.content, images),
        )
