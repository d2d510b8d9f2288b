"""A registry in memory for transfers: what it has, what it was asked, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from containerd_hybrid.errors import NotFoundError, OutOfRangeError
from containerd_hybrid.model import Descriptor, Digest, Platform, Reference
from containerd_hybrid.model.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from containerd_hybrid.model.manifest import descriptor_to_json
from containerd_hybrid.registry.api import BlobReader, Body, BodySink, PushOutcome, RegistryOptions

Hook = Callable[[Descriptor, int, BodySink], Any]


@dataclass
class MemoryRegistry:
    """Client, repository and host in one. ``hook`` is called for each body before its bytes go."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    tags: dict[str, Descriptor] = field(default_factory=dict)
    fetched: list[tuple[Digest, int]] = field(default_factory=list)
    pushed: list[tuple[Digest, str]] = field(default_factory=list)
    mounts: list[Sequence[str]] = field(default_factory=list)
    options: list[RegistryOptions] = field(default_factory=list)
    hook: Hook | None = None
    gives_parts: bool = True
    running: int = 0
    most_running: int = 0

    # --- what is in it

    def add(self, data: bytes, media_type: str, **more: Any) -> Descriptor:
        digest = Digest.of(data)
        self.blobs[digest] = data
        return Descriptor(media_type, digest, len(data), **more)

    def image(
        self, *layers: bytes, platform: str = "linux/amd64", config_type: str = OCI_CONFIG
    ) -> Descriptor:
        system, architecture = platform.split("/")
        config = {
            "os": system,
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in layers]},
        }
        document = {
            "schemaVersion": 2,
            "config": descriptor_to_json(self.add(json.dumps(config).encode(), config_type)),
            "layers": [descriptor_to_json(self.add(layer, OCI_LAYER)) for layer in layers],
        }
        data = json.dumps(document).encode()
        return self.add(data, OCI_MANIFEST, platform=Platform.parse(platform))

    def index(self, *manifests: Descriptor) -> Descriptor:
        document = {"schemaVersion": 2, "manifests": [descriptor_to_json(entry) for entry in manifests]}
        return self.add(json.dumps(document).encode(), OCI_INDEX)

    # --- RegistryClient

    def repository(self, reference: Reference, options: RegistryOptions) -> MemoryRegistry:
        self.options.append(options)
        return self

    # --- Repository

    async def resolve(self, reference: Reference) -> Descriptor:
        try:
            return self.tags[reference.tag]
        except KeyError:
            raise NotFoundError(f"{reference}: not found") from None

    @asynccontextmanager
    async def fetch(
        self, blob: Descriptor, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[Body]:
        self.fetched.append((blob.digest, offset))
        if length is not None and not self.gives_parts:
            raise OutOfRangeError("no parts of it")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            yield MemoryBody(self, blob, offset, blob.size if length is None else offset + length)
        finally:
            self.running -= 1

    async def push_blob(
        self,
        blob: Descriptor,
        read: BlobReader,
        *,
        mount_from: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> PushOutcome:
        self.mounts.append(mount_from)
        if blob.digest in self.blobs:
            return PushOutcome.EXISTS
        self.blobs[blob.digest] = await read(0, blob.size)
        self.pushed.append((blob.digest, ""))
        if progress is not None:
            progress(blob.size)
        return PushOutcome.UPLOADED

    async def push_manifest(self, manifest: Descriptor, data: bytes, tag: str = "") -> PushOutcome:
        assert Digest.of(data) == manifest.digest
        document = json.loads(data)
        named = document.get("manifests") or [document["config"], *document["layers"]]
        missing = [entry["digest"] for entry in named if Digest.parse(entry["digest"]) not in self.blobs]
        assert not missing, f"{manifest.digest} came before {missing}"
        self.blobs[manifest.digest] = data
        self.pushed.append((manifest.digest, tag))
        return PushOutcome.UPLOADED


@dataclass
class MemoryBody:
    registry: MemoryRegistry
    blob: Descriptor
    offset: int
    end: int

    async def copy_to(self, sink: BodySink) -> int:
        await asyncio.sleep(0)
        if self.registry.hook is not None:
            await self.registry.hook(self.blob, self.offset, sink)
        data = self.registry.blobs[self.blob.digest][self.offset : self.end]
        for start in range(0, len(data), 4096):
            await sink.write(data[start : start + 4096])
        return len(data)
