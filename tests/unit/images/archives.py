"""Image archives made by hand, right or wrong in just the way a test wants.

A :class:`Layout` is a list of tar entries: tests change one and write the archive.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from containerd_hybrid.model import Platform
from containerd_hybrid.model.descriptor import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)

BUSYBOX = Path("/bin/busybox")
_APPLETS = (
    "sh cat echo sleep ls id env true false stty head wc dd tail kill ps touch mkdir rm grep sha256sum "
    "hostname mount yes seq printf pwd test nproc stat readlink tr cut sort"
)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob_name(data: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


def tar_bytes(entries: Mapping[str, bytes | str | tarfile.TarInfo]) -> bytes:
    """A tar archive: bytes are files, a string is a symbolic link, a name that ends in a slash a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode = 0o644 if name.startswith("etc/") else 0o755
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                info.mode = 0o1777 if name == "tmp/" else 0o755
                archive.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    """A frame of raw blocks (RFC 8878, 3.1.1): what needs no library."""
    packed = b"\x28\xb5\x2f\xfd" + b"\x00\x58"
    for start in range(0, len(data), 1 << 17):
        block = data[start : start + (1 << 17)]
        is_last = start + len(block) == len(data)
        packed += (len(block) << 3 | is_last).to_bytes(3, "little") + block
    return packed


def busybox_layer() -> bytes:
    """A root file system that a shell runs in, with users and groups."""
    folders = ("bin", "dev", "etc", "home", "home/alice", "proc", "root", "run", "sys", "tmp", "var")
    entries: dict[str, bytes | str | tarfile.TarInfo] = {f"{folder}/": b"" for folder in folders}
    entries["bin/busybox"] = BUSYBOX.read_bytes()
    entries |= {f"bin/{applet}": "busybox" for applet in _APPLETS.split()}
    entries["etc/passwd"] = (
        b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n"
        b"nobody:x:65534:65534:nobody:/:/bin/false\n"
    )
    entries["etc/group"] = (
        b"root:x:0:\nwheel:x:10:alice\nvideo:x:44:alice,bob\nalice:x:1000:\nnogroup:x:65534:\n"
    )
    return tar_bytes(entries)


@dataclass
class Layout:
    """The entries of an archive, in order; a string is a symbolic link."""

    entries: dict[str, bytes | str] = field(default_factory=dict)

    def add_blob(self, data: bytes) -> bytes:
        self.entries[blob_name(data)] = data
        return data

    def bytes(self) -> bytes:
        return tar_bytes(self.entries)

    def write(self, path: Path, *, compressed: bool = False) -> Path:
        path.write_bytes(gzip.compress(self.bytes(), 1) if compressed else self.bytes())
        return path


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


def image_config(layers: Sequence[bytes], platform: Platform | None = None, **config: Any) -> bytes:
    wanted = platform or Platform.host()
    document: dict[str, Any] = {
        "architecture": wanted.architecture,
        "os": wanted.os,
        "config": {"Cmd": ["/bin/sh"], **config},
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
    }
    if wanted.variant:
        document["variant"] = wanted.variant
    return json.dumps(document).encode()


def add_image(
    layout: Layout,
    layers: Sequence[bytes],
    *,
    platform: Platform | None = None,
    compressed: bool = True,
    **config: Any,
) -> bytes:
    """Add the blobs of one image, and return its manifest."""
    stored = [gzip.compress(layer, 1, mtime=0) if compressed else layer for layer in layers]
    configuration = layout.add_blob(image_config(layers, platform, **config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(configuration, OCI_CONFIG),
        "layers": [
            descriptor(layout.add_blob(layer), OCI_LAYER_GZIP if compressed else OCI_LAYER)
            for layer in stored
        ],
    }
    return layout.add_blob(json.dumps(manifest).encode())


def index(manifests: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests)}).encode()


def finish_layout(layout: Layout, manifests: Sequence[Mapping[str, Any]]) -> Layout:
    layout.entries["index.json"] = index(manifests)
    layout.entries["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    return layout


def oci_layout(
    layers: Sequence[bytes], name: str = "example.com/test/image:1", *, compressed: bool = True, **config: Any
) -> Layout:
    """An OCI layout of one image, named as containerd's exporter names it."""
    layout = Layout()
    manifest = add_image(layout, layers, compressed=compressed, **config)
    annotations = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    return finish_layout(layout, [descriptor(manifest, OCI_MANIFEST, annotations=annotations)])


def docker_layout(layers: Sequence[bytes], tags: Sequence[str] = ("test/image:1",), **config: Any) -> Layout:
    """What ``docker save`` of old wrote: a folder a layer, a later one that is equal being a link."""
    layout = Layout()
    configuration = image_config(layers, **config)
    config_name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    names: list[str] = []
    first_with: dict[bytes, str] = {}
    for position, layer in enumerate(layers):
        name = f"{position:064x}/layer.tar"
        known = first_with.setdefault(layer, name)
        layout.entries[name] = layer if known == name else f"../{known}"
        names.append(name)
    layout.entries[config_name] = configuration
    manifest = [{"Config": config_name, "RepoTags": list(tags), "Layers": names}]
    layout.entries["manifest.json"] = json.dumps(manifest).encode()
    return layout
