"""The importer: an OCI layout or a Docker archive becomes blobs and an index."""

from __future__ import annotations

import contextlib
import json
import posixpath
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from containerd_hybrid.content.api import ContentStore, Ingest, read_document
from containerd_hybrid.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from containerd_hybrid.images.api import (
    ArchiveSource,
    Image,
    ImageStore,
    ImportedIndex,
    ImportOptions,
    ReferenceRule,
    put_image,
)
from containerd_hybrid.images.archive import EntrySink, read_archive
from containerd_hybrid.images.children import label_tree
from containerd_hybrid.model import Descriptor, Digest, Platform, Reference, Scope
from containerd_hybrid.model.descriptor import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
    OCI_INDEX,
)
from containerd_hybrid.model.manifest import (
    MAX_DOCUMENT_BYTES,
    Index,
    descriptor_to_json,
    parse_image_config,
    parse_manifest_or_index,
)
from containerd_hybrid.model.platform import match_rank

IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class ArchiveImporter:
    """See :class:`containerd_hybrid.images.api.ImageImporter`."""

    def __init__(self, content: ContentStore, images: ImageStore) -> None:
        self._content = content
        self._images = images

    async def read(
        self, scope: Scope, source: ArchiveSource, platforms: Sequence[Platform] = ()
    ) -> ImportedIndex:
        found = _Entries(self._content, scope)
        try:
            await read_archive(source, found)
        finally:
            await found.close()
        if found.is_oci_layout:
            index = found.oci_index()
        else:
            index = await self._index_of_docker_archive(scope, found)
        document = parse_manifest_or_index(await read_document(self._content, scope, index), OCI_INDEX)
        if not isinstance(document, Index):
            raise InvalidArgumentError("not an image archive: index.json is no index")
        manifests = tuple(
            entry
            for entry in document.manifests
            if not platforms
            or entry.platform is None
            or any(match_rank(wanted, entry.platform) is not None for wanted in platforms)
        )
        if not manifests:
            wanted = ", ".join(map(str, platforms)) or "any platform"
            raise NotFoundError(f"the archive has no image for {wanted}")
        await label_tree(self._content, scope, index, platforms)
        return ImportedIndex(index, manifests)

    async def store(self, scope: Scope, imported: ImportedIndex, options: ImportOptions) -> Sequence[Image]:
        named: dict[str, Descriptor] = {}
        if options.index_name:
            named[options.index_name] = imported.index
        for rule in options.references:
            if not rule.is_prefix:
                named[f"{rule.name}@{imported.index.digest}" if rule.add_digest else rule.name] = (
                    imported.index
                )
        for manifest in imported.manifests:
            named |= dict.fromkeys(_names(manifest, options.references), manifest)
        if not named:
            raise NotFoundError("no image name found: the archive has none, give one")
        paths = ("target", "labels") if options.labels else ("target",)
        return [
            await put_image(self._images, scope, Image(name, target, options.labels), paths)
            for name, target in named.items()
        ]

    async def _index_of_docker_archive(self, scope: Scope, found: _Entries) -> Descriptor:
        entries: list[dict[str, Any]] = []
        for config_name, layer_names, tags in found.docker_images():
            config = found.blob(config_name, "image config")
            layers = [found.blob(name, "layer") for name in layer_names]
            document = {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": descriptor_to_json(replace(config.descriptor, media_type=DOCKER_CONFIG)),
                "layers": [descriptor_to_json(_docker_layer(layer)) for layer in layers],
            }
            manifest = await self._write(scope, document, DOCKER_MANIFEST)
            parsed = parse_image_config(await read_document(self._content, scope, config.descriptor))
            manifest = replace(manifest, platform=parsed.platform)
            for tag in tags:
                name = Reference.parse(tag)
                named = {IMAGE_NAME: str(name), REF_NAME: name.tag}
                entries.append(descriptor_to_json(replace(manifest, annotations=named)))
            if not tags:
                entries.append(descriptor_to_json(manifest))
        return await self._write(
            scope, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, OCI_INDEX
        )

    async def _write(self, scope: Scope, document: dict[str, Any], media_type: str) -> Descriptor:
        data = json.dumps(document, separators=(",", ":")).encode()
        sink = _BlobSink("", len(data), keep=False)
        await sink.open(self._content, scope)
        await sink.write(data)
        await sink.finish()
        return replace(sink.descriptor, media_type=media_type)


@dataclass(slots=True)
class _Blob:
    descriptor: Descriptor
    head: bytes


class _BlobSink:
    """One file of the archive on its way into the content store; small ones are kept in memory too."""

    def __init__(self, name: str, size: int, *, keep: bool) -> None:
        self.name = name
        self.size = size
        self.head = b""
        self.kept = bytearray() if keep else None
        self.descriptor = Descriptor("", Digest("sha256", ""), 0)
        self._ingest: Ingest | None = None

    async def open(self, content: ContentStore, scope: Scope) -> None:
        self._content = content
        self._scope = scope
        self._ref = f"import-{secrets.token_hex(16)}"
        self._ingest = await content.open_ingest(scope, self._ref, self.size)

    async def write(self, data: bytes) -> None:
        assert self._ingest is not None
        self.head = self.head or data[:4]
        if self.kept is not None:
            self.kept += data
        await self._ingest.write(data)

    async def finish(self) -> None:
        assert self._ingest is not None
        digest = await self._ingest.digest()
        self._check_name(digest)
        with contextlib.suppress(AlreadyExistsError):
            await self._ingest.commit(self.size, digest)
        await self._ingest.close()
        self._ingest = None
        self.descriptor = Descriptor("", digest, self.size)

    def _check_name(self, digest: Digest) -> None:
        """A file below blobs/ says what its digest is; refuse one that lies, before it is visible."""
        parts = self.name.split("/")
        if len(parts) == 3 and parts[0] == "blobs" and parts[1] == "sha256" and parts[2] != digest.hex:
            raise InvalidArgumentError(f"damaged archive: {self.name} has digest {digest}")

    async def abandon(self) -> None:
        """Remove what was not finished."""
        if self._ingest is not None:
            await self._ingest.close()
            self._ingest = None
            await self._content.abort(self._scope, self._ref)


class _Entries:
    """The archive's files as they come, and what they mean once all are there."""

    def __init__(self, content: ContentStore, scope: Scope) -> None:
        self._content = content
        self._scope = scope
        self._blobs: dict[str, _Blob] = {}
        self._links: dict[str, str] = {}
        self._documents: dict[str, bytes] = {}
        self._open: _BlobSink | None = None

    async def file(self, name: str, size: int) -> EntrySink:
        clean = posixpath.normpath(name)
        is_document = clean in {"oci-layout", "index.json", "manifest.json"}
        if is_document and size > MAX_DOCUMENT_BYTES:
            raise InvalidArgumentError(f"not an image archive: {name} has {size} bytes")
        sink = _BlobSink(clean, size, keep=is_document)
        await sink.open(self._content, self._scope)
        self._open = sink
        return _Noted(self, sink)

    async def link(self, name: str, target: str) -> None:
        clean = posixpath.normpath(name)
        self._links[clean] = posixpath.normpath(posixpath.join(posixpath.dirname(clean), target))

    def note(self, sink: _BlobSink) -> None:
        """``sink`` is finished."""
        self._open = None
        self._blobs[sink.name] = _Blob(sink.descriptor, sink.head)
        if sink.kept is not None:
            self._documents[sink.name] = bytes(sink.kept)

    async def close(self) -> None:
        if self._open is not None:
            await self._open.abandon()

    @property
    def is_oci_layout(self) -> bool:
        layout = self._documents.get("oci-layout")
        if layout is None:
            return False
        version = _json(layout, "oci-layout").get("imageLayoutVersion")
        if version != "1.0.0":
            raise InvalidArgumentError(f"unsupported OCI layout version {version!r}: expected 1.0.0")
        return True

    def oci_index(self) -> Descriptor:
        return replace(self.blob("index.json", "index of the OCI layout").descriptor, media_type=OCI_INDEX)

    def docker_images(self) -> list[tuple[str, list[str], list[str]]]:
        """Config, layers and names of each image in a Docker archive's manifest.json."""
        if "manifest.json" not in self._documents:
            raise InvalidArgumentError(
                "unrecognized image format: the archive has neither oci-layout nor manifest.json"
            )
        try:
            listed = json.loads(self._documents["manifest.json"])
            return [
                (str(image["Config"]), [str(x) for x in image["Layers"] or ()], list(image["RepoTags"] or ()))
                for image in listed
            ]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidArgumentError(f"malformed manifest.json: {error}") from error

    def blob(self, name: str, what: str) -> _Blob:
        clean = posixpath.normpath(name)
        found = self._blobs.get(clean) or self._blobs.get(self._links.get(clean, ""))
        if found is None:
            raise NotFoundError(f"{what} {name!r} is not in the archive")
        return found


class _Noted:
    """A sink that tells the entries when it is done."""

    def __init__(self, entries: _Entries, sink: _BlobSink) -> None:
        self._entries = entries
        self._sink = sink

    async def write(self, data: bytes) -> None:
        await self._sink.write(data)

    async def finish(self) -> None:
        await self._sink.finish()
        self._entries.note(self._sink)


def _json(data: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"malformed {name}: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgumentError(f"malformed {name}: expected a JSON object")
    return document


def _docker_layer(layer: _Blob) -> Descriptor:
    media_type = DOCKER_LAYER
    if layer.head.startswith(_GZIP_MAGIC):
        media_type = DOCKER_LAYER_GZIP
    elif layer.head.startswith(_ZSTD_MAGIC):
        media_type = DOCKER_LAYER_ZSTD
    return replace(layer.descriptor, media_type=media_type)


def _names(manifest: Descriptor, rules: Sequence[ReferenceRule]) -> list[str]:
    """The names that the prefix rules give to one manifest of the archive."""
    names = []
    for rule in rules:
        if not rule.is_prefix:
            continue
        name = _name_by_rule(manifest, rule)
        if name:
            names.append(name)
        if rule.add_digest and not (name and rule.skip_named_digest):
            names.append(f"{rule.name}@{manifest.digest}")
    return names


def _name_by_rule(manifest: Descriptor, rule: ReferenceRule) -> str:
    full = manifest.annotations.get(IMAGE_NAME, "")
    if full:
        return full
    ref = manifest.annotations.get(REF_NAME, "")
    if not ref or not rule.name:
        return ref if any(mark in ref for mark in "/:@") else ""
    if any(mark in ref for mark in "/:@"):
        return ref if rule.allow_overwrite or _has_prefix(ref, rule.name) else ""
    return f"{rule.name}:{ref}"


def _has_prefix(ref: str, prefix: str) -> bool:
    return ref.startswith(prefix) and (len(ref) == len(prefix) or ref[len(prefix)] in "/:@")
