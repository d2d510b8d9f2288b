"""Descriptors and the media types the runtime knows (OCI image spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from containerd_hybrid.model.digest import Digest
from containerd_hybrid.model.platform import Platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_LAYER_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

_INDEXES = frozenset({OCI_INDEX, DOCKER_MANIFEST_LIST})
_MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a blob is called, how long it is and what is in it.

    ``size`` is in bytes; ``data`` is the blob itself when it is embedded.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""
    data: bytes = b""


def is_index(media_type: str) -> bool:
    """Whether the blob lists manifests."""
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """Whether the blob lists a config and layers."""
    return media_type in _MANIFESTS


def is_config(media_type: str) -> bool:
    """Whether the blob is an image configuration."""
    return media_type in _CONFIGS


def is_layer(media_type: str) -> bool:
    """Whether the blob is a tar archive of a file system layer, compressed or not."""
    base = media_type.partition("+")[0]
    return base in {
        OCI_LAYER,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
    } or media_type.startswith(
        (
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        )
    )


def is_distributable(media_type: str) -> bool:
    """False for layers that their makers do not let everybody hand on (Windows' base layers)."""
    return not media_type.startswith(
        ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")
    )


def layer_compression(media_type: str) -> str:
    """``"none"``, ``"gzip"`` or ``"zstd"`` as the media type says, ``"auto"`` when it does not."""
    for suffix, compression in ((".gzip", "gzip"), ("+gzip", "gzip"), (".zstd", "zstd"), ("+zstd", "zstd")):
        if media_type.endswith(suffix):
            return compression
    if media_type in (OCI_LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar"):
        return "none"
    # Docker's plain media type is written for compressed layers too, so only the bytes can tell.
    return "auto"
