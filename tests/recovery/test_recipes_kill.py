"""SIGKILL while blobs become recipes and recipes blobs: one of the two is there, whole."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from containerd_hybrid.content.recipes import RecipeBlobStore
from containerd_hybrid.model import Digest

CHILD = """
import sys
from pathlib import Path
from containerd_hybrid._native import CancelToken
from containerd_hybrid.content.recipes import RecipeBlobStore
from containerd_hybrid.model import Digest

base, digest = Path(sys.argv[1]), Digest.parse(sys.argv[2])
store = RecipeBlobStore(base / "content", base)
while True:
    if store.is_recipe(digest):
        store.restore(digest)
    else:
        assert store.convert(digest, base / "layer", CancelToken()) == ""
    print("done", flush=True)
"""


@pytest.mark.parametrize("steps", range(6))
def test_blob_or_recipe(tmp_path: Path, steps: int) -> None:
    (tmp_path / "content").mkdir()
    (tmp_path / "layer").mkdir()
    for number in range(8):
        (tmp_path / "layer" / f"file{number}").write_bytes(random.Random(number).randbytes(500_000))
    with tarfile.open(tmp_path / "layer.tar", "w") as archive:
        archive.add(tmp_path / "layer", ".")
    data = (tmp_path / "layer.tar").read_bytes()
    digest = Digest.of(data)
    store = RecipeBlobStore(tmp_path / "content", tmp_path)
    ingest = store.open_ingest("layer")
    ingest.write(data)
    ingest.commit(len(data), digest)
    store.close()
    # After so many steps are done it is somewhere in the next one.
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(digest)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
        give_up = threading.Timer(120, child.kill)
        give_up.start()
        assert child.stdout is not None
        done = [child.stdout.readline() for _ in range(steps + 1)]
        child.kill()
        give_up.cancel()
    assert done == [b"done\n"] * len(done)
    again = RecipeBlobStore(tmp_path / "content", tmp_path)
    try:
        assert again.verify(digest).size == len(data)
        files = [path.suffix for path in (tmp_path / "content").rglob("*") if path.is_file()]
        assert files == [""]  # one of the two, and nothing half made
    finally:
        again.close()
