"""What the metadata of a containerd says: namespaces with their blobs, images and leases.

Source: the schema in containerd's ``core/metadata/buckets.go``, version ``v1``. Snapshots, containers and
sandboxes are not read: they are about folders and processes that cannot change their owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from containerd_hybrid.adopt.bolt import BoltFile, Bucket
from containerd_hybrid.errors import DataLossError, InvalidDigestError, NotFoundError
from containerd_hybrid.model import Descriptor, Digest

METADATA = Path("io.containerd.metadata.v1.bolt/meta.db")
BLOBS = Path("io.containerd.content.v1.content/blobs")


@dataclass(frozen=True, slots=True)
class FoundBlob:
    """A blob's record; the bytes are a matter of the content folder."""

    digest: Digest
    size: int
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image's record."""

    name: str
    target: Descriptor
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FoundLease:
    """A lease, and which blobs and images it holds."""

    id: str
    labels: Mapping[str, str]
    content: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundNamespace:
    """A namespace and what of it can be taken over."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    blobs: tuple[FoundBlob, ...] = ()
    images: tuple[FoundImage, ...] = ()
    leases: tuple[FoundLease, ...] = ()


def read_metadata(folder: Path) -> list[FoundNamespace]:
    """All namespaces of the containerd whose root is ``folder``.

    Raises:
        NotFoundError: no containerd has that root.
        FailedPreconditionError: it is running.
        DataLossError: its file is damaged.
    """
    path = folder / METADATA
    if not path.exists():
        raise NotFoundError(f"no containerd has the root {folder}: {METADATA} is not there: not found")
    with BoltFile(path) as file:
        return [_namespace(path, name, bucket) for name, bucket in file.root.buckets(b"v1")]


def _namespace(path: Path, name: str, bucket: Bucket) -> FoundNamespace:
    return FoundNamespace(
        name,
        bucket.texts(b"labels"),
        tuple(_blob(path, digest, blob) for digest, blob in bucket.buckets(b"content", b"blob")),
        tuple(_image(path, key, image) for key, image in bucket.buckets(b"images")),
        tuple(_lease(key, lease) for key, lease in bucket.buckets(b"leases")),
    )


def _blob(path: Path, digest: str, bucket: Bucket) -> FoundBlob:
    return FoundBlob(_digest(path, digest), _varint(bucket.get(b"size") or b""), bucket.texts(b"labels"))


def _image(path: Path, name: str, bucket: Bucket) -> FoundImage:
    target = bucket.bucket(b"target")
    if target is None:
        raise DataLossError(f"{path} is damaged: image {name} has no target")
    descriptor = Descriptor(
        (target.get(b"mediatype") or b"").decode(errors="replace"),
        _digest(path, (target.get(b"digest") or b"").decode(errors="replace")),
        _varint(target.get(b"size") or b""),
        annotations=bucket.texts(b"annotations"),
    )
    return FoundImage(name, descriptor, bucket.texts(b"labels"))


def _lease(id: str, bucket: Bucket) -> FoundLease:
    return FoundLease(
        id, bucket.texts(b"labels"), tuple(bucket.texts(b"content")), tuple(bucket.texts(b"images"))
    )


def _digest(path: Path, text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDigestError as error:
        raise DataLossError(f"{path} is damaged: {error.message}") from error


def _varint(data: bytes) -> int:
    """A number as Go's ``binary.PutVarint`` writes it; 0 for what is none."""
    value = 0
    for place, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1)
    return 0
