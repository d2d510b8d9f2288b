"""What every BlobStore does."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import threading
import time
from pathlib import Path

import pytest

from containerd_hybrid.content.api import IngestStatus
from containerd_hybrid.content.local import LocalBlobStore
from containerd_hybrid.errors import (
    AbortedError,
    DataLossError,
    DigestMismatchError,
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
    SizeMismatchError,
    UnavailableError,
)
from containerd_hybrid.model import Digest


@pytest.fixture(params=[True, False], ids=["sync", "nosync"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "root", sync=request.param)


def _put(store: LocalBlobStore, data: bytes, key: str = "put") -> Digest:
    ingest = store.open_ingest(key)
    ingest.write(data)
    return ingest.commit(len(data), Digest.of(data)).digest


def _read(store: LocalBlobStore, digest: Digest) -> bytes:
    fd = store.open(digest)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_is_committed_can_be_read(store: LocalBlobStore) -> None:
    data = random.Random(1).randbytes(3 << 20)
    before = time.time_ns()
    ingest = store.open_ingest("a", total=len(data))
    assert ingest.write(data[:1000]) == 1000
    assert ingest.digest() == Digest.of(data[:1000])
    assert ingest.write(data[1000:]) == len(data)
    found = ingest.commit(len(data), Digest.of(data))
    assert (found.digest, found.size) == (Digest.of(data), len(data))
    assert before <= found.created_at <= time.time_ns()
    assert store.stat(found.digest) == found
    assert _read(store, found.digest) == data
    assert list(store.walk()) == [found]
    assert list(store.ingest_keys()) == []


def test_the_layout_is_containerds(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    ingest = store.open_ingest("default/1/layer", total=9)
    ingest.write(b"half")
    folder = f"ingest/{hashlib.sha256(b'default/1/layer').hexdigest()}"
    assert _names(tmp_path) == {
        f"{folder}/{name}" for name in ("data", "ref", "startedat", "updatedat", "total")
    }
    assert (tmp_path / folder / "data").read_bytes() == b"half"
    assert (tmp_path / folder / "ref").read_bytes() == b"default/1/layer"
    assert (tmp_path / folder / "total").read_bytes() == b"9"
    ingest.write(b" done")
    blob = ingest.commit(9, None)
    assert _names(tmp_path) == {f"blobs/sha256/{blob.digest.hex}"}
    assert list((tmp_path / "ingest").iterdir()) == []
    assert stat.S_IMODE((tmp_path / "blobs/sha256" / blob.digest.hex).stat().st_mode) == 0o444


def test_an_ingest_that_containerd_left_is_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "ingest" / hashlib.sha256(b"default/7/x").hexdigest()
    folder.mkdir(parents=True)
    (folder / "ref").write_bytes(b"default/7/x")
    (folder / "startedat").write_bytes(b"2026-01-02T03:04:05.123456789+02:00")
    (folder / "updatedat").write_bytes(b"2026-01-02T03:04:06.5+02:00")
    (folder / "data").write_bytes(b"from there ")
    store = LocalBlobStore(tmp_path)
    ingest = store.open_ingest("default/7/x")
    assert (ingest.offset, ingest.started_at % 1_000_000_000) == (11, 123456789)
    ingest.write(b"and here")
    assert ingest.commit(0, None).digest == Digest.of(b"from there and here")


def test_an_empty_blob(store: LocalBlobStore) -> None:
    assert _read(store, _put(store, b"")) == b""


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("announced", [True, False])
def test_every_algorithm(store: LocalBlobStore, algorithm: str, announced: bool) -> None:
    digest = Digest.of(b"data", algorithm)
    ingest = store.open_ingest("a", expected=digest if announced else None)
    ingest.write(b"data")
    assert ingest.commit(4, digest).digest == digest
    assert _read(store, digest) == b"data"
    store.verify(digest)


def test_a_wrong_size_or_digest_makes_nothing_visible_and_keeps_the_bytes(store: LocalBlobStore) -> None:
    ingest = store.open_ingest("a")
    ingest.write(b"data")
    with pytest.raises(SizeMismatchError, match="unexpected commit size 4, expected 5: failed precondition"):
        ingest.commit(5, None)
    ingest = store.open_ingest("a")
    assert ingest.offset == 4
    wrong = Digest.of(b"other")
    with pytest.raises(
        DigestMismatchError, match=f"unexpected commit digest {Digest.of(b'data')}, expected {wrong}"
    ):
        ingest.commit(4, wrong)
    assert list(store.walk()) == []
    assert store.open_ingest("a").commit(4, None).digest == Digest.of(b"data")


def test_an_existing_blob_is_kept(store: LocalBlobStore) -> None:
    digest = _put(store, b"data")
    inode = store.path(digest).stat().st_ino
    ingest = store.open_ingest("again", expected=digest)
    ingest.write(b"data")
    assert ingest.commit(4, digest) == store.stat(digest)
    assert store.path(digest).stat().st_ino == inode
    assert list(store.ingest_keys()) == []


def test_a_blob_cut_short_is_healed_by_writing_it_again(store: LocalBlobStore) -> None:
    digest = _put(store, b"data")
    os.truncate(store.path(digest), 2)
    with pytest.raises(DataLossError, match="is damaged"):
        store.verify(digest)
    assert _put(store, b"data") == digest
    assert store.verify(digest).size == 4


def test_flipped_bytes_are_data_loss(store: LocalBlobStore) -> None:
    digest = _put(store, b"data")
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"dat4")
    with pytest.raises(
        DataLossError, match=f"content {digest} is damaged: .* has the digest {Digest.of(b'dat4')}"
    ):
        store.verify(digest)


def test_a_closed_ingest_resumes_where_it_was(store: LocalBlobStore) -> None:
    ingest = store.open_ingest("a", total=10)
    ingest.write(b"01234")
    started, updated = ingest.started_at, ingest.updated_at
    ingest.close()
    ingest.close()
    assert store.ingest_status("a") == IngestStatus("a", 5, 10, None, started, updated)
    ingest = store.open_ingest("a", total=10)
    assert (ingest.offset, ingest.total, ingest.started_at, ingest.updated_at) == (5, 10, started, updated)
    assert ingest.digest() == Digest.of(b"01234")
    ingest.write(b"56789")
    assert ingest.commit(10, Digest.of(b"0123456789")).size == 10


def test_another_total_begins_again(store: LocalBlobStore) -> None:
    ingest = store.open_ingest("a", total=10)
    ingest.write(b"0123456789")
    ingest.close()
    ingest = store.open_ingest("a", total=3)
    assert (ingest.offset, ingest.total) == (0, 3)
    ingest.write(b"abc")
    assert ingest.commit(3, None).digest == Digest.of(b"abc")


def test_truncating_begins_again(store: LocalBlobStore) -> None:
    ingest = store.open_ingest("a")
    ingest.write(b"wrong and long")
    ingest.truncate()
    assert (ingest.offset, ingest.digest()) == (0, Digest.of(b""))
    ingest.write(b"right")
    blob = ingest.commit(5, Digest.of(b"right"))
    assert _read(store, blob.digest) == b"right"


def test_an_open_ingest_is_locked(store: LocalBlobStore, tmp_path: Path) -> None:
    ingest = store.open_ingest("a")
    with pytest.raises(UnavailableError, match=r"ref a locked for \d+\.\d+s \(since .*Z\): unavailable"):
        store.open_ingest("a")
    with pytest.raises(UnavailableError, match="ref a locked by another process: unavailable"):
        LocalBlobStore(tmp_path / "root").open_ingest("a")
    store.open_ingest("b").close()
    ingest.close()
    store.open_ingest("a").close()


def test_a_failed_open_leaves_no_lock(store: LocalBlobStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="ref must not be empty"):
        store.open_ingest("")
    (tmp_path / "root" / "ingest").rename(tmp_path / "away")
    with pytest.raises(HybridError, match="cannot open ingest a"):
        store.open_ingest("a")
    (tmp_path / "away").rename(tmp_path / "root" / "ingest")
    store.open_ingest("a").close()


def test_of_many_who_open_one_ingest_exactly_one_may(store: LocalBlobStore) -> None:
    barrier = threading.Barrier(8)
    won: list[object] = []
    lost: list[UnavailableError] = []

    def contend() -> None:
        barrier.wait()
        try:
            won.append(store.open_ingest("a"))
        except UnavailableError as error:
            lost.append(error)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_many_who_commit_one_blob_all_may(store: LocalBlobStore) -> None:
    data = random.Random(2).randbytes(1 << 20)
    digests: list[Digest] = []
    threads = [
        threading.Thread(target=lambda key: digests.append(_put(store, data, key)), args=(f"k{i}",))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [Digest.of(data)] * 8
    store.verify(Digest.of(data))
    assert list(store.ingest_keys()) == []


def test_nothing_can_be_done_with_a_closed_ingest(store: LocalBlobStore) -> None:
    ingest = store.open_ingest("a")
    ingest.close()
    for action in (lambda: ingest.write(b"x"), ingest.truncate, lambda: ingest.commit(0, None)):
        with pytest.raises(FailedPreconditionError, match="closed ingest a"):
            action()


def test_an_ingest_removed_while_open_cannot_be_committed(store: LocalBlobStore) -> None:
    ingest = store.open_ingest("a")
    ingest.write(b"data")
    store.remove_ingest("a")
    with pytest.raises(UnavailableError):
        store.open_ingest("a")
    with pytest.raises(AbortedError, match="ingest a was removed"):
        ingest.commit(4, None)
    assert list(store.walk()) == []
    store.open_ingest("a").close()


def test_removing_is_final(store: LocalBlobStore) -> None:
    digest = _put(store, b"data")
    reader = store.open(digest)
    store.remove(digest)
    assert os.pread(reader, 10, 0) == b"data"
    os.close(reader)
    for action in (store.stat, store.open, store.remove, store.verify):
        with pytest.raises(NotFoundError, match=f"content {digest}: not found"):
            action(digest)
    store.open_ingest("a").close()
    store.remove_ingest("a")
    store.remove_ingest("a")
    with pytest.raises(NotFoundError):
        store.ingest_status("a")


def test_keys_of_any_form(store: LocalBlobStore) -> None:
    keys = {"a/../../b", "k" * 10_000, "layer-sha256:ü\n", "/"}
    for key in keys:
        store.open_ingest(key).close()
    assert set(store.ingest_keys()) == keys


def test_walking_passes_over_what_is_no_blob(store: LocalBlobStore, tmp_path: Path) -> None:
    digest = _put(store, b"data")
    (tmp_path / "root/blobs/sha256/notes.txt").touch()
    (tmp_path / "root/blobs/sha256" / ("A" * 64)).touch()
    (tmp_path / "root/blobs/md5").mkdir()
    assert [blob.digest for blob in store.walk()] == [digest]


def test_half_made_folders_go_when_the_store_is_opened(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.open_ingest("whole").close()
    (tmp_path / "ingest/half").mkdir()
    (tmp_path / "ingest/half/ref").write_text("half")
    damaged = tmp_path / "ingest" / hashlib.sha256(b"damaged").hexdigest()
    store.open_ingest("damaged").close()
    (damaged / "startedat").write_text("")
    assert list(LocalBlobStore(tmp_path).ingest_keys()) == ["whole"]
    assert len(list((tmp_path / "ingest").iterdir())) == 1


def test_a_damaged_folder_is_begun_again(store: LocalBlobStore, tmp_path: Path) -> None:
    ingest = store.open_ingest("a")
    ingest.write(b"some bytes that will not count")
    ingest.close()
    folder = tmp_path / "root/ingest" / hashlib.sha256(b"a").hexdigest()
    (folder / "startedat").write_text("long ago")
    ingest = store.open_ingest("a")
    assert ingest.offset == 0
    ingest.write(b"new")
    assert ingest.commit(3, None).digest == Digest.of(b"new")


@pytest.mark.slow
def test_ten_thousand_blobs_are_walked(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path, sync=False)
    wanted = {_put(store, str(i).encode()) for i in range(10_000)}
    assert {blob.digest for blob in store.walk()} == wanted


def test_what_is_read_from_memory_is_what_is_asked_for_or_nothing(store: LocalBlobStore) -> None:
    """Whether the kernel has it in memory is its own affair."""
    digest = _put(store, b"0123456789")
    for offset, length in ((0, 10), (3, 4), (10, 0)):
        read = store.read_cached(digest, 10, offset, length)
        assert read in (None, b"0123456789"[offset : offset + length])
    assert store.read_cached(digest, 11, 0, 10) is None
    assert store.read_cached(digest, 10, 5, 6) is None
    assert store.read_cached(Digest.of(b"never written"), 13, 0, 13) is None
