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
from containerd_hybrid.errors import InvalidArgumentError, InvalidReferenceError, NotFoundError
from containerd_hybrid.images.api import Image, ImageStore
from containerd_hybrid.images.children import children
from containerd_hybrid.images.importer import IMAGE_NAME, REF_NAME
from containerd_hybrid.model import Descriptor, Digest, Platform, Reference, Scope
from containerd_hybrid.model.descriptor import OCI_INDEX, is_distributable, is_index, is_manifest
from containerd_hybrid.model.labels import DISTRIBUTION_SOURCE
from containerd_hybrid.model.manifest import (
    Index,
    choose_manifest,
    descriptor_to_json,
    parse_manifest_or_index,
    wanted_of,
)
from containerd_hybrid.retention.api import require_child

_CHUNK = 1 << 20
_BLOCK = 512


@dataclass(slots=True)
class _Plan:
    """What the archive will hold; blobs in the order found, each once."""

    blobs: dict[Digest, Descriptor]
    index: list[Descriptor]
    docker: dict[Digest, tuple[Descriptor, list[str]]]
    skip_non_distributable: bool


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
        skip_docker_manifest: bool = False,
        skip_non_distributable: bool = False,
    ) -> AsyncIterator[bytes]:
        if not names:
            raise InvalidArgumentError("no image to export was named")
        wanted = () if all_platforms else tuple(platforms) or (Platform.host(),)
        plan = _Plan({}, [], {}, skip_non_distributable)
        for name in names:
            await self._add_image(scope, plan, await self._images.get(scope, name), wanted)
        # Everything that is small comes first, so a reader knows the images before their layers.
        yield _entry("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o444)
        yield _entry("index.json", _index_json(plan.index))
        if plan.docker and not skip_docker_manifest:
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
        labels = (await self._content.info(scope, target.digest)).labels
        sources = {key: text for key, text in labels.items() if key.startswith(DISTRIBUTION_SOURCE)}
        named = {IMAGE_NAME: image.name, REF_NAME: _ref_name(image.name)}
        plan.index.append(replace(target, annotations={**target.annotations, **named, **sources}))
        main = target
        if is_index(target.media_type):
            document = parse_manifest_or_index(
                await read_document(self._content, scope, target), target.media_type
            )
            assert isinstance(document, Index)
            ordered = wanted or (Platform.host(),)
            served = (choose_manifest(document, platform) for platform in ordered)
            chosen = next((one for one in served if one is not None), None)
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
        if plan.skip_non_distributable and not is_distributable(blob.media_type):
            return
        plan.blobs[blob.digest] = blob
        listed = await children(self._content, scope, blob)
        for child in wanted_of(listed, wanted) if is_index(blob.media_type) else listed:
            if is_manifest(blob.media_type):
                # Before the first byte is written, for half an archive helps nobody.
                await require_child(self._content, scope, blob, child)
            await self._add_tree(scope, plan, child, wanted)

    async def _docker_manifest(self, scope: Scope, plan: _Plan) -> bytes:
        listed: list[dict[str, Any]] = []
        for manifest, names in plan.docker.values():
            config, *layers = await children(self._content, scope, manifest)
            tags = [tag for name in names if (tag := _docker_tag(name))]
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


def _ref_name(name: str) -> str:
    """The tag; the whole name where it has none."""
    last = name.rpartition("/")[2]
    before, colon, tag = last.partition(":")
    return tag if colon and "@" not in before else name


def _docker_tag(name: str) -> str:
    """What Docker calls an image; empty for names that are no tags to it."""
    try:
        return Reference.parse(name).familiar if "@" not in name else ""
    except InvalidReferenceError:
        return ""


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


def _entry(name: str, data: bytes, mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    buffer.write(_header(name, len(data), mode))
    buffer.write(data)
    buffer.write(b"\0" * (-len(data) % _BLOCK))
    return buffer.getvalue()
