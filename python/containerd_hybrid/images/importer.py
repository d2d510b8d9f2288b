"""The importer: an OCI layout or a Docker archive becomes blobs and an index."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import posixpath
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from containerd_hybrid.content.api import ContentStore, Ingest, read_document
from containerd_hybrid.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    InvalidDigestError,
    NotFoundError,
    ResourceExhaustedError,
)
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
from containerd_hybrid.images.docker_layers import DockerLayers
from containerd_hybrid.model import Descriptor, Digest, Platform, Reference, Scope
from containerd_hybrid.model.descriptor import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_INDEX,
)
from containerd_hybrid.model.labels import GC_BREF_IMAGE, GC_EXPIRE
from containerd_hybrid.model.manifest import (
    MAX_DOCUMENT_BYTES,
    Index,
    choose_manifest,
    descriptor_to_json,
    parse_image_config,
    parse_manifest_or_index,
    wanted_of,
)
from containerd_hybrid.model.platform import match_rank

IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
# A link to a link to a …: what docker save writes has one step.
_MAX_LINKS = 16
# Bytes that are gathered before they are written: senders' messages are small, and a write costs a thread.
_PIECE = 1 << 20


class ArchiveImporter:
    """See :class:`containerd_hybrid.images.api.ImageImporter`."""

    def __init__(self, content: ContentStore, images: ImageStore) -> None:
        self._content = content
        self._images = images

    async def read(
        self,
        scope: Scope,
        source: ArchiveSource,
        platforms: Sequence[Platform] = (),
        *,
        compress: bool = False,
    ) -> ImportedIndex:
        found = _Entries(self._content, scope)
        try:
            await read_archive(source, found)
        finally:
            await found.close()
        if found.is_oci_layout:
            index = found.oci_index()
        else:
            index = await self._index_of_docker_archive(scope, found, compress)
        document = parse_manifest_or_index(await read_document(self._content, scope, index), OCI_INDEX)
        if not isinstance(document, Index):
            raise InvalidArgumentError("not an image archive: index.json is no index")
        manifests = wanted_of(document.manifests, platforms)
        if not manifests:
            wanted = ", ".join(map(str, platforms)) or "any platform"
            raise NotFoundError(f"the archive has no image for {wanted}")
        await label_tree(self._content, scope, index, platforms)
        return ImportedIndex(index, manifests)

    async def serves(self, scope: Scope, image: Descriptor, platform: Platform) -> bool:
        document = parse_manifest_or_index(await read_document(self._content, scope, image), image.media_type)
        if isinstance(document, Index):
            return choose_manifest(document, platform) is not None
        config = parse_image_config(await read_document(self._content, scope, document.config))
        # An image that names no processor holds data for any of them.
        return not config.platform.architecture or match_rank(platform, config.platform) is not None

    async def store(self, scope: Scope, imported: ImportedIndex, options: ImportOptions) -> Sequence[Image]:
        whole = [options.index_name] if options.index_name else []
        whole += [
            f"{rule.name}@{imported.index.digest}" if rule.add_digest else rule.name
            for rule in options.references
            if rule.add_digest or not rule.is_prefix
        ]
        named = dict.fromkeys(whole, imported.index)
        for manifest in imported.manifests:
            named |= dict.fromkeys(_names(manifest, options.references), manifest)
        has_names = any(m.annotations.keys() & {IMAGE_NAME, REF_NAME} for m in imported.manifests)
        if not named and not has_names:
            raise NotFoundError("no image name found: the archive has none, give one")
        further = {**options.labels, **_goes_with(options.index_name)}
        return [
            await self._put(
                scope, Image(name, target, options.labels if name == options.index_name else further)
            )
            for name, target in named.items()
        ]

    async def _put(self, scope: Scope, image: Image) -> Image:
        return await put_image(self._images, scope, image)

    async def _index_of_docker_archive(self, scope: Scope, found: _Entries, compress: bool) -> Descriptor:
        stored = DockerLayers(self._content, scope, compress=compress)
        entries: list[dict[str, Any]] = []
        images = found.docker_images()
        files = {name for _, names, _ in images for name in names}
        await stored.look_for_twins([found.blob(name, "layer").descriptor for name in sorted(files)])
        for config_name, layer_names, tags in images:
            config = found.blob(config_name, "image config")
            layers = [found.blob(name, "layer") for name in layer_names]
            document = {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": descriptor_to_json(replace(config.descriptor, media_type=DOCKER_CONFIG)),
                "layers": [
                    descriptor_to_json(await stored.stored(layer.descriptor, layer.head)) for layer in layers
                ],
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
        # Without its media type, as containerd writes it: one archive has one digest everywhere.
        return await self._write(scope, {"schemaVersion": 2, "manifests": entries}, OCI_INDEX)

    async def _write(self, scope: Scope, document: dict[str, Any], media_type: str) -> Descriptor:
        data = json.dumps(document, separators=(",", ":")).encode()
        ingest = await self._content.open_ingest(scope, f"import-{secrets.token_hex(16)}", len(data))
        await ingest.write(data)
        digest = Digest.of(data)
        with contextlib.suppress(AlreadyExistsError):
            await ingest.commit(len(data), digest)
        return Descriptor(media_type, digest, len(data))


@dataclass(slots=True)
class _Blob:
    descriptor: Descriptor
    head: bytes


class _Document:
    """A file of the archive that says what is in it, kept in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> None:
        self.data += data

    async def finish(self) -> None:
        """All of it is here."""


class _BlobSink:
    """One file of the archive on its way into the content store.

    A blob that the store has already is not written again: its name says its digest.
    """

    def __init__(self, content: ContentStore, scope: Scope, name: str, size: int) -> None:
        self._content = content
        self._scope = scope
        self._name = name
        self._size = size
        self._named = _digest_in(name)
        self._ref = f"import-{secrets.token_hex(16)}"
        self._ingest: Ingest | None = None
        self._writes = True
        self._head = b""
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._writing: asyncio.Future[int] | None = None
        self.blob: _Blob | None = None

    async def open(self) -> None:
        try:
            self._ingest = await self._content.open_ingest(self._scope, self._ref, self._size, self._named)
            # It may stand at the end already, with the bytes of another namespace.
            self._writes = not self._size or self._ingest.status.offset != self._size
        except AlreadyExistsError:
            assert self._named is not None
            self._writes = False
            if (await self._content.info(self._scope, self._named)).size != self._size:
                raise self._damaged(f"has {self._size} bytes") from None

    async def write(self, data: bytes) -> None:
        self._head = self._head or data[:4]
        if not self._writes or self._ingest is None:
            return
        self._pieces.append(data)
        self._gathered += len(data)
        if self._gathered >= _PIECE:
            await self._write(self._ingest)

    async def _write(self, ingest: Ingest) -> None:
        """Begin to write what was gathered; the archive is read on meanwhile."""
        await self._written()
        data, self._pieces, self._gathered = b"".join(self._pieces), [], 0
        self._writing = asyncio.ensure_future(ingest.write(data))

    async def _written(self) -> None:
        if self._writing is not None:
            await self._writing
            self._writing = None

    async def finish(self) -> None:
        digest = self._named
        if self._ingest is not None:
            await self._write(self._ingest)
            await self._written()
            digest = await self._ingest.digest()
            if self._named not in (None, digest):
                raise self._damaged(f"has digest {digest}")
            with contextlib.suppress(AlreadyExistsError):
                await self._ingest.commit(self._size, digest)
            await self._ingest.close()
            self._ingest = None
        assert digest is not None
        self.blob = _Blob(Descriptor("", digest, self._size), self._head)

    def _damaged(self, what: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"damaged archive: {self._name} {what}: copy or make it again")

    async def abandon(self) -> None:
        """Remove what was not finished."""
        if self._writing is not None:
            # Why it failed is being told already, or it did not.
            await asyncio.wait({self._writing})
            self._writing.exception()
        if self._ingest is not None:
            await self._ingest.close()
            self._ingest = None
            # A commit that failed may have removed it.
            with contextlib.suppress(NotFoundError):
                await self._content.abort(self._scope, self._ref)


class _Entries:
    """The archive's files as they come, and what they mean once all are there."""

    def __init__(self, content: ContentStore, scope: Scope) -> None:
        self._content = content
        self._scope = scope
        self._blobs: dict[str, _BlobSink] = {}
        self._links: dict[str, str] = {}
        self._documents: dict[str, _Document] = {}
        self._last: _BlobSink | None = None

    async def file(self, name: str, size: int) -> EntrySink:
        if name in {"oci-layout", "index.json", "manifest.json"} and size > MAX_DOCUMENT_BYTES:
            raise ResourceExhaustedError(
                f"{name} has {size} bytes, more than the {MAX_DOCUMENT_BYTES} that are read into memory"
            )
        if name in {"oci-layout", "manifest.json"}:
            document = self._documents[name] = _Document()
            return document
        sink = self._last = self._blobs[name] = _BlobSink(self._content, self._scope, name, size)
        await sink.open()
        return sink

    def link(self, name: str, target: str) -> None:
        self._links[name] = target

    async def close(self) -> None:
        if self._last is not None:
            await self._last.abandon()

    @property
    def is_oci_layout(self) -> bool:
        layout = self._documents.get("oci-layout")
        if layout is None:
            return False
        version = _object(layout, "oci-layout").get("imageLayoutVersion")
        if version != "1.0.0":
            raise InvalidArgumentError(f"unsupported OCI layout version {version!r}: expected 1.0.0")
        return True

    def oci_index(self) -> Descriptor:
        return replace(self.blob("index.json", "index of the OCI layout").descriptor, media_type=OCI_INDEX)

    def docker_images(self) -> list[tuple[str, list[str], list[str]]]:
        """Config, layers and names of each image in a Docker archive's manifest.json."""
        manifest = self._documents.get("manifest.json")
        if manifest is None:
            raise InvalidArgumentError(
                "unrecognized image format: the archive has neither oci-layout nor manifest.json"
            )
        listed = _json(manifest, "manifest.json")
        try:
            return [
                (str(image["Config"]), [str(x) for x in image["Layers"] or ()], list(image["RepoTags"] or ()))
                for image in listed
            ]
        except (TypeError, KeyError) as error:
            raise InvalidArgumentError(f"malformed manifest.json: {error!r}") from error

    def blob(self, name: str, what: str) -> _Blob:
        """The file of that name, through links."""
        place = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            found = self._blobs.get(place)
            if found is not None and found.blob is not None:
                return found.blob
            if place not in self._links:
                break
            place = self._links[place]
        raise NotFoundError(f"{what} {name!r} is not in the archive: copy or make it again")


def _digest_in(name: str) -> Digest | None:
    """What a file below ``blobs/`` says that its digest is; None for other files."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "blobs":
        return None
    try:
        return Digest.parse(f"{parts[1]}:{parts[2]}")
    except InvalidDigestError as error:
        raise InvalidArgumentError(f"damaged archive: {name} is not named after a digest") from error


def _json(document: _Document, name: str) -> Any:
    try:
        return json.loads(document.data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"malformed {name}: {error}") from error


def _object(file: _Document, name: str) -> dict[str, Any]:
    document = _json(file, name)
    if not isinstance(document, dict):
        raise InvalidArgumentError(f"malformed {name}: expected a JSON object")
    return document


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
    ref = full or manifest.annotations.get(REF_NAME, "")
    if any(mark in ref for mark in "/:@"):
        return ref if not rule.name or rule.allow_overwrite or _has_prefix(ref, rule.name) else ""
    return f"{rule.name}:{ref}" if ref and not full and rule.name else ""


def _goes_with(index_name: str) -> dict[str, str]:
    """Labels of the names beside the index's: expired at once, they stay as long as that one does."""
    if not index_name:
        return {}
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {GC_BREF_IMAGE: index_name, GC_EXPIRE: now}


def _has_prefix(ref: str, prefix: str) -> bool:
    return ref.startswith(prefix) and (len(ref) == len(prefix) or ref[len(prefix)] in "/:@")
