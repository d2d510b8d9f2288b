"""Small real images for tests, benchmarks and the demo: made here, from programs of this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.model import Platform
from containerd_hybrid.model.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST

BUSYBOX_IMAGE = "docker.io/library/busybox:latest"
_APPLETS = (
    "sh ash cat cp chmod chown date dd df echo env expr false find getopt grep head hostname id kill ln ls "
    "mkdir mkfifo mknod mount mv nproc od ping ps pwd readlink rm seq sha256sum sleep sort stat stty "
    "sync tail tar tee test top touch tr true tty umount uname wc which whoami yes"
)


@dataclass(frozen=True, slots=True)
class ImageArchive:
    """What to write: ``layers`` are tar archives, uncompressed, lowest first."""

    name: str
    layers: Sequence[bytes]
    config: dict[str, Any] = field(default_factory=dict)
    platform: Platform = field(default_factory=Platform.host)
    compress: bool = True


def busybox_program() -> Path:
    """The statically linked busybox of this machine.

    Raises:
        NotFoundError: it is not installed (Debian: busybox-static).
    """
    found = shutil.which("busybox")
    if found is None:
        raise NotFoundError("busybox is not installed: install the package busybox-static")
    return Path(found)


def busybox_layer() -> bytes:
    """A root file system with a shell and the usual small programs, users and a writable /tmp."""

    def fill(archive: tarfile.TarFile) -> None:
        for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "home", "home/user"):
            add_folder(archive, folder, 0o1777 if folder == "tmp" else 0o755)
        add_file(archive, "bin/busybox", busybox_program().read_bytes(), 0o755)
        for applet in _APPLETS.split():
            add_link(archive, f"bin/{applet}", "busybox")
        add_file(
            archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
        )
        add_file(archive, "etc/group", b"root:x:0:\nuser:x:1000:\nwheel:x:10:user\n")
        add_file(archive, "etc/hosts", b"127.0.0.1 localhost\n")

    return tar_of(fill)


def busybox_archive(path: Path, name: str = BUSYBOX_IMAGE) -> Path:
    """Write the busybox image as an archive that ``ctr image import`` reads."""
    return write_archive(
        path,
        [ImageArchive(name, [busybox_layer()], {"Cmd": ["sh"], "Env": ["PATH=/bin"], "WorkingDir": "/"})],
    )


def write_archive(path: Path, images: Iterable[ImageArchive]) -> Path:
    """Write an OCI layout with these images into a tar archive."""
    blobs: dict[str, bytes] = {}
    manifests = [_add_image(blobs, image) for image in images]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}

    def fill(archive: tarfile.TarFile) -> None:
        add_file(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add_file(archive, "index.json", json.dumps(index).encode())
        for digest, data in blobs.items():
            add_file(archive, f"blobs/sha256/{digest}", data)

    path.write_bytes(tar_of(fill))
    return path


def tar_of(fill: Callable[[tarfile.TarFile], None]) -> bytes:
    """The bytes of a tar archive that ``fill`` adds its entries to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        fill(archive)
    return buffer.getvalue()


def add_file(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    """A regular file of root."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


def add_folder(archive: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    """A folder of root."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    archive.addfile(info)


def add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    """A symbolic link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    archive.addfile(info)


def _add_image(blobs: dict[str, bytes], image: ImageArchive) -> dict[str, Any]:
    layers = []
    for layer in image.layers:
        data = gzip.compress(layer, 6, mtime=0) if image.compress else layer
        layers.append(_add(blobs, data, OCI_LAYER_GZIP if image.compress else OCI_LAYER))
    config = {
        "architecture": image.platform.architecture,
        "os": image.platform.os,
        "config": image.config,
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in image.layers],
        },
        "history": [{"created_by": "containerd_hybrid.testing"} for _ in image.layers],
    }
    if image.platform.variant:
        config["variant"] = image.platform.variant
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _add(blobs, json.dumps(config).encode(), OCI_CONFIG),
        "layers": layers,
    }
    descriptor = _add(blobs, json.dumps(manifest).encode(), OCI_MANIFEST)
    descriptor["platform"] = {"architecture": image.platform.architecture, "os": image.platform.os}
    descriptor["annotations"] = {
        "io.containerd.image.name": image.name,
        "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
    }
    return descriptor


def _add(blobs: dict[str, bytes], data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
