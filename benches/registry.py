"""A registry that costs next to nothing: blobs of an image archive, sent by the kernel from their files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from containerd_hybrid.model import Platform
from containerd_hybrid.model.descriptor import OCI_CONFIG, OCI_MANIFEST


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's file as it goes over the wire, and the digest of the archive in it."""

    media_type: str
    file: Path
    diff_id: str


class BenchRegistry:
    """Serves images below ``folder`` on a port of this machine over plain HTTP. Used as ``with``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._types: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, *, with_body: bool) -> None:
                file = registry._file(self.path)
                if file is None:
                    self.send_response(200 if self.path == "/v2/" else 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                size = file.stat().st_size
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
                begin = int(asked[1]) if asked else 0
                end = min(int(asked[2]) + 1, size) if asked and asked[2] else size
                self.send_response(206 if asked else 200)
                if asked:
                    self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
                self.send_header("Content-Length", str(end - begin))
                self.send_header("Content-Type", registry._types.get(file.name, "application/octet-stream"))
                self.send_header("Docker-Content-Digest", f"sha256:{file.name}")
                self.end_headers()
                self.wfile.flush()
                if with_body:
                    with file.open("rb") as body:
                        while begin < end:
                            sent = os.sendfile(self.connection.fileno(), body.fileno(), begin, end - begin)
                            if not sent:
                                return
                            begin += sent

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, repository: str, layers: Sequence[Layer]) -> str:
        """Serve an image of these layers; its reference."""
        platform = Platform.host()
        config = {
            "os": platform.os,
            "architecture": platform.architecture,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
        described = [
            {
                "mediaType": layer.media_type,
                "digest": self._keep(layer.file, layer.media_type),
                "size": layer.file.stat().st_size,
            }
            for layer in layers
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._document(config, OCI_CONFIG),
            "layers": described,
        }
        self._tags[repository] = str(self._document(manifest, OCI_MANIFEST)["digest"])
        return f"{self.address}/{repository}:1"

    def _document(self, document: object, media_type: str) -> dict[str, object]:
        data = json.dumps(document).encode()
        file = self._folder / "document"
        file.write_bytes(data)
        return {"mediaType": media_type, "digest": self._keep(file, media_type), "size": len(data)}

    def _keep(self, file: Path, media_type: str) -> str:
        with file.open("rb") as opened:
            name = hashlib.file_digest(opened, "sha256").hexdigest()
        kept = self._folder / name
        if not kept.exists():
            os.link(file, kept)
        if file.parent == self._folder:
            file.unlink()
        self._types[name] = media_type
        return f"sha256:{name}"

    def _file(self, path: str) -> Path | None:
        found = re.fullmatch(r"/v2/(.+)/(?:manifests|blobs)/(?:sha256:)?([^/?]+)(?:\?.*)?", path)
        if found is None:
            return None
        name = self._tags.get(found[1], "").removeprefix("sha256:") if found[2] == "1" else found[2]
        file = self._folder / name
        return file if name and file.is_file() else None
