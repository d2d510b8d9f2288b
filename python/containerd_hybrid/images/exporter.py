"""The exporter: images become an OCI layout in a tar archive that ``docker load`` reads too."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from containerd_hybrid.content.api import ContentStore, read_document
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.images.api import Image, ImageStore
from containerd_hybrid.images.children import children
from containerd_hybrid.images.importer import IMAGE_NAME, REF_NAME
from containerd_hybrid.model import Descriptor, Digest, Platform, Scope
from containerd_hybrid.model.descriptor import OCI_INDEX, is_index, is_manifest
from containerd_hybrid.model.manifest import (
    Index,
    choose_manifest,
    descriptor_to_json,
    parse_manifest_or_index,
)
from containerd_hybrid.model.platform import match_rank
from containerd_hybrid.retention.api import require_child

_CHUNK = 1 << 20
_BLOCK = 512


@dataclass(slots=True)
class _Plan:
    """What the archive will hold; blobs in the order found, each once."""

    blobs: dict[Digest, Descriptor]
    index: list[Descriptor]
    docker: dict[Digest, tuple[Descriptor, list[str]]]


class ArchiveExporter:
    """See :class:`containerd_hybrid.images.api.ImageExporter`."""

    def __init__(self, content: ContentStore, images: ImageStore) -> None:
        self._content = content
        self._images = images

    async def export_archive(
        self,
        scope: Scope,
        names: Sequence[str],
        platforms: Sequence[Platform] = (),
        *,
        all_platforms: bool = False,
    ) -> AsyncIterator[bytes]:
        if not names:
            raise InvalidArgumentError("no image to export was named")
        wanted = () if all_platforms else tuple(platforms) or (Platform.host(),)
        plan = _Plan({}, [], {})
        for name in names:
            await self._add_image(scope, plan, await self._images.get(scope, name), wanted)
        # Everything that is small comes first, so a reader knows the images before their layers.
        yield _entry("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        yield _entry("index.json", _index_json(plan.index))
        if plan.docker:
            yield _entry("manifest.json", await self._docker_manifest(scope, plan))
        yield _folder("blobs/")
        for algorithm in sorted({digest.algorithm for digest in plan.blobs}):
            yield _folder(f"blobs/{algorithm}/")
        for digest in plan.blobs:
            async for piece in self._blob(scope, digest):
                yield piece
        yield b"\0" * (2 * _BLOCK)

    async def _add_image(self, scope: Scope, plan: _Plan, image: Image, wanted: Sequence[Platform]) -> None:
        target = image.target
        tag = image.name.rpartition("@")[2] if "@" in image.name else image.name.rpartition(":")[2]
        annotations = {**target.annotations, IMAGE_NAME: image.name, REF_NAME: tag}
        plan.index.append(replace(target, annotations=annotations))
        main = target
        if is_index(target.media_type):
            document = parse_manifest_or_index(
                await read_document(self._content, scope, target), target.media_type
            )
            assert isinstance(document, Index)
            chosen = choose_manifest(document, wanted[0] if wanted else Platform.host())
            if chosen is None and wanted:
                raise NotFoundError(f"image {image.name!r} has no manifest for {', '.join(map(str, wanted))}")
            main = chosen or main
        await self._add_tree(scope, plan, target, wanted)
        if is_manifest(main.media_type):
            plan.docker.setdefault(main.digest, (main, []))[1].append(image.name)

    async def _add_tree(
        self, scope: Scope, plan: _Plan, blob: Descriptor, wanted: Sequence[Platform]
    ) -> None:
        if blob.digest in plan.blobs:
            return
        plan.blobs[blob.digest] = blob
        for child in await children(self._content, scope, blob):
            if (
                wanted
                and is_index(blob.media_type)
                and child.platform is not None
                and all(match_rank(platform, child.platform) is None for platform in wanted)
            ):
                continue
            if is_manifest(blob.media_type):
                # Before the first byte is written, for half an archive helps nobody.
                await require_child(self._content, scope, blob, child)
            await self._add_tree(scope, plan, child, wanted)

    async def _docker_manifest(self, scope: Scope, plan: _Plan) -> bytes:
        listed: list[dict[str, Any]] = []
        for manifest, names in plan.docker.values():
            config, *layers = await children(self._content, scope, manifest)
            tags = [name for name in names if "@" not in name]
            listed.append(
                {
                    "Config": _blob_name(config.digest),
                    "RepoTags": tags,
                    "Layers": [_blob_name(layer.digest) for layer in layers],
                }
            )
        return json.dumps(listed, separators=(",", ":")).encode()

    async def _blob(self, scope: Scope, digest: Digest) -> AsyncIterator[bytes]:
        size = (await self._content.info(scope, digest)).size
        yield _header(_blob_name(digest), size, 0o444)
        descriptor = await self._content.open_blob(scope, digest)
        try:
            offset = 0
            async for data in _read_ahead(descriptor, size):
                offset += len(data)
                yield data
            if offset < size:
                raise NotFoundError(f"{digest} ends after {offset} of {size} bytes")
        finally:
            os.close(descriptor)
        yield b"\0" * (-size % _BLOCK)


async def _read_ahead(descriptor: int, size: int) -> AsyncIterator[bytes]:
    """The file in pieces, the next one being read while one is sent; ends early where the file does."""

    def begin(offset: int) -> asyncio.Future[bytes]:
        length = min(_CHUNK, size - offset)
        return asyncio.ensure_future(asyncio.to_thread(os.pread, descriptor, length, offset))

    offset = 0
    reading = begin(offset)
    try:
        while data := await reading:
            offset += len(data)
            reading = begin(offset)
            yield data
    finally:
        # The descriptor's number must not be another file's before the thread has read.
        await asyncio.wait({reading})


def _index_json(manifests: Sequence[Descriptor]) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor_to_json(manifest) for manifest in manifests],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _header(name: str, size: int, mode: int, type: bytes = tarfile.REGTYPE) -> bytes:
    """A header without times or owners, so the same images make the same archive."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type = size, mode, type
    return info.tobuf(tarfile.PAX_FORMAT)


def _folder(name: str) -> bytes:
    return _header(name, 0, 0o755, tarfile.DIRTYPE)


def _entry(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    buffer.write(_header(name, len(data), 0o444))
    buffer.write(data)
    buffer.write(b"\0" * (-len(data) % _BLOCK))
    return buffer.getvalue()
