"""Layers of Docker archives: their manifests do not say how layers are stored, so the importer may choose."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from containerd_hybrid.content.api import ContentInfo, ContentStore, Ingest
from containerd_hybrid.errors import AlreadyExistsError, NotFoundError
from containerd_hybrid.images.archive import GZIP_MAGIC, ZSTD_MAGIC
from containerd_hybrid.model import Descriptor, Digest, Scope
from containerd_hybrid.model.descriptor import DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD
from containerd_hybrid.model.labels import UNCOMPRESSED
from containerd_hybrid.workers import ended

_HEAD = 4
_PIECE = 1 << 20


class DockerLayers:
    """What a manifest says of the layers of one archive. The scope has to hold a lease."""

    def __init__(self, content: ContentStore, scope: Scope, *, compress: bool) -> None:
        self._content = content
        self._scope = scope
        self._compress = compress
        self._known: dict[Digest, Descriptor] = {}
        self._twins: dict[str, list[ContentInfo]] = defaultdict(list)

    async def look_for_twins(self, layers: Iterable[Descriptor]) -> None:
        """Find the compressed twins of all these in one pass over the namespace's blobs."""
        filters = [f'labels."{UNCOMPRESSED}"=={digest}' for digest in {layer.digest for layer in layers}]
        if filters:
            async for info in self._content.walk(self._scope, filters):
                self._twins[info.labels[UNCOMPRESSED]].append(info)

    async def stored(self, layer: Descriptor, head: bytes) -> Descriptor:
        """The blob that an image has for ``layer``, whose first bytes are ``head``.

        That is its compressed twin where :meth:`look_for_twins` found one, as an earlier import or pull
        left it: then both images share it.
        """
        if layer.digest not in self._known:
            self._known[layer.digest] = await self._choose(layer, head)
        return self._known[layer.digest]

    async def _choose(self, layer: Descriptor, head: bytes) -> Descriptor:
        twin = await self._twin(layer)
        if twin is not None:
            return twin
        typed = replace(layer, media_type=_media_type(head))
        if not self._compress or typed.media_type != DOCKER_LAYER:
            return typed
        return await self._compressed(layer)

    async def _twin(self, layer: Descriptor) -> Descriptor | None:
        for info in self._twins.get(str(layer.digest), ()):
            try:
                # Finds that it exists, and thereby puts it below the lease.
                ingest = await self._content.open_ingest(self._scope, _ref(), info.size, info.digest)
            except AlreadyExistsError:
                head = await self._content.read_at(self._scope, info.digest, 0, _HEAD)
                return replace(layer, digest=info.digest, size=info.size, media_type=_media_type(head))
            await self._discard(ingest)  # the collector was quicker
        return None

    async def _compressed(self, layer: Descriptor) -> Descriptor:
        source = await self._content.open_blob(self._scope, layer.digest)
        try:
            ingest = await self._content.open_ingest(self._scope, _ref())
            try:
                size = await _gzip(source, layer.size, ingest)
                digest = await ingest.digest()
                with contextlib.suppress(AlreadyExistsError):
                    await ingest.commit(size, digest, {UNCOMPRESSED: str(layer.digest)})
            except BaseException:
                await self._discard(ingest)
                raise
        finally:
            os.close(source)
        return replace(layer, digest=digest, size=size, media_type=DOCKER_LAYER_GZIP)

    async def _discard(self, ingest: Ingest) -> None:
        await ingest.close()
        # A commit that failed may have removed it.
        with contextlib.suppress(NotFoundError):
            await self._content.abort(self._scope, ingest.status.ref)


async def _gzip(source: int, size: int, ingest: Ingest) -> int:
    """Write the file's bytes, compressed, and without a time: equal layers are equal blobs. Their number."""
    stream = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)

    def compress(offset: int) -> bytes:
        data = os.pread(source, min(_PIECE, size - offset), offset)
        if not data:
            raise NotFoundError(f"a layer ends after {offset} of {size} bytes")
        return stream.compress(data)

    loop = asyncio.get_running_loop()
    for offset in range(0, size, _PIECE):
        if piece := await ended(loop.run_in_executor(None, compress, offset)):
            await ingest.write(piece)
    return await ingest.write(stream.flush())


def _ref() -> str:
    return f"import-{secrets.token_hex(16)}"


def _media_type(head: bytes) -> str:
    if head.startswith(GZIP_MAGIC):
        return DOCKER_LAYER_GZIP
    if head.startswith(ZSTD_MAGIC):
        return DOCKER_LAYER_ZSTD
    return DOCKER_LAYER
