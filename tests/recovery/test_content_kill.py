"""A process that writes content is killed, or the disk fills up, at any moment."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid.content.local import LocalBlobStore
from containerd_hybrid.errors import ResourceExhaustedError
from containerd_hybrid.model import Digest

_CHUNK = bytes(range(256)) * 256
_WRITER = """
import sys
from pathlib import Path
from containerd_hybrid.content.local import LocalBlobStore
ingest = LocalBlobStore(Path(sys.argv[1])).open_ingest("layer", total=1 << 40)
while True:
    ingest.write(bytes(range(256)) * 256)
    print(ingest.offset, flush=True)
"""
_COMMITTER = """
import sys
from pathlib import Path
from containerd_hybrid.content.local import LocalBlobStore
store = LocalBlobStore(Path(sys.argv[1]), sync=False)
print("ready", flush=True)
for number in range(1_000_000):
    ingest = store.open_ingest(f"key-{number}")
    ingest.write(str(number).encode() * 2000)
    ingest.commit(0, None)
"""


def _start(program: str, root: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(root)], env=environment, stdout=subprocess.PIPE, text=True
    )


def _kill(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    return rest


def test_an_ingest_resumes_after_its_writer_was_killed(tmp_path: Path) -> None:
    writer = _start(_WRITER, tmp_path)
    assert writer.stdout is not None
    for _ in range(20):
        acknowledged = int(writer.stdout.readline())
    acknowledged = max([acknowledged, *map(int, _kill(writer).split())])

    store = LocalBlobStore(tmp_path)
    assert list(store.walk()) == []
    ingest = store.open_ingest("layer", total=1 << 40)
    # The write under way when it was killed may have reached the file, in part or whole.
    assert acknowledged <= ingest.offset <= acknowledged + len(_CHUNK)
    head = (_CHUNK * (ingest.offset // len(_CHUNK) + 1))[: ingest.offset]
    assert ingest.digest() == Digest.of(head)
    ingest.write(b"the rest")
    ingest.close()
    ingest = store.open_ingest("layer")
    blob = ingest.commit(len(head) + 8, Digest.of(head + b"the rest"))
    assert store.verify(blob.digest) == blob


@pytest.mark.parametrize("milliseconds", [3, 20, 50, 110])
def test_whatever_is_visible_after_a_kill_is_whole(tmp_path: Path, milliseconds: int) -> None:
    committer = _start(_COMMITTER, tmp_path)
    assert committer.stdout is not None
    assert committer.stdout.readline() == "ready\n"
    time.sleep(milliseconds / 1000)
    _kill(committer)

    store = LocalBlobStore(tmp_path)
    for blob in store.walk():
        store.verify(blob.digest)
    for folder in (tmp_path / "ingest").iterdir():
        assert folder.name == hashlib.sha256((folder / "ref").read_bytes()).hexdigest()
    for key in list(store.ingest_keys()):
        store.open_ingest(key).close()
        store.remove_ingest(key)
    assert list((tmp_path / "ingest").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "disk"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.root
def test_a_full_disk_is_said_and_what_reached_it_is_kept(small_disk: Path) -> None:
    store = LocalBlobStore(small_disk)
    ingest = store.open_ingest("layer")
    ingest.write(b"a" * 600_000)
    with pytest.raises(ResourceExhaustedError, match=r"ingest layer: .*No space left on device"):
        ingest.write(b"b" * 600_000)
    assert list(store.walk()) == []

    ingest = store.open_ingest("layer")
    written = b"a" * 600_000 + b"b" * (ingest.offset - 600_000)
    assert 600_000 <= ingest.offset < 1 << 20
    assert ingest.digest() == Digest.of(written)
    assert ingest.commit(0, Digest.of(written)).size == len(written)


@pytest.mark.root
def test_a_full_disk_leaves_no_half_made_ingest(small_disk: Path) -> None:
    store = LocalBlobStore(small_disk)
    with (small_disk / "ballast").open("wb", buffering=0) as ballast:
        ballast.write(bytes(2 << 20))
        assert ballast.tell() < 2 << 20
    with pytest.raises(ResourceExhaustedError, match="cannot open ingest layer: No space left on device"):
        store.open_ingest("layer")
    assert list((small_disk / "ingest").iterdir()) == []
    (small_disk / "ballast").unlink()
    store.open_ingest("layer").close()
