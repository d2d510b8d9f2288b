"""Blobs that are there as recipes: read like blobs, gone like blobs, and never wrong."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.images.archives import tar_bytes

from containerd_hybrid._native import CancelToken, hash_file
from containerd_hybrid.content.recipes import RecipeBlobStore
from containerd_hybrid.errors import DataLossError, NotFoundError
from containerd_hybrid.model import Digest

FILES = {"etc/one": random.Random(1).randbytes(90_000), "two": random.Random(2).randbytes(200_000)}
BLOB = tar_bytes({"etc/": b"", **FILES})
DIGEST = Digest.of(BLOB)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The daemon's root; a layer is unpacked in it."""
    folder = tmp_path / "snapshots" / "1" / "fs"
    (folder / "etc").mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return tmp_path


@pytest.fixture
def store(base: Path) -> Iterator[RecipeBlobStore]:
    opened = opened_in(base)
    put(opened, BLOB)
    yield opened
    opened.close()


def opened_in(base: Path) -> RecipeBlobStore:
    (base / "content").mkdir(exist_ok=True)
    return RecipeBlobStore(base / "content", base, sync=False)


def put(store: RecipeBlobStore, data: bytes) -> Digest:
    ingest = store.open_ingest(f"put-{Digest.of(data)}")
    ingest.write(data)
    return ingest.commit(len(data), Digest.of(data)).digest


def unpacked(base: Path) -> Path:
    return base / "snapshots/1/fs"


def convert(store: RecipeBlobStore, base: Path, digest: Digest = DIGEST) -> str:
    return store.convert(digest, unpacked(base), CancelToken())


def read(store: RecipeBlobStore) -> bytes:
    with os.fdopen(store.open(DIGEST), "rb") as file:
        return file.read()


def files(base: Path) -> list[str]:
    """What of blobs and recipes is on the disk."""
    content = base / "content"
    return sorted(str(path.relative_to(content)) for path in content.rglob("*") if path.is_file())


AS_BLOB, AS_RECIPE = [f"blobs/sha256/{DIGEST.hex}"], [f"recipes/sha256/{DIGEST.hex}"]


def test_a_recipe_is_read_as_the_blob_that_it_gives(store: RecipeBlobStore, base: Path) -> None:
    before = store.stat(DIGEST)
    assert not store.is_recipe(DIGEST)
    assert convert(store, base) == ""
    assert store.is_recipe(DIGEST)
    assert files(base) == AS_RECIPE
    assert (base / "content" / AS_RECIPE[0]).stat().st_size < 10_000
    assert store.stat(DIGEST) == before
    assert list(store.walk()) == [before]
    assert store.verify(DIGEST) == before
    first, second = store.open(DIGEST), store.open(DIGEST)
    assert os.read(first, 1000) == os.read(second, 1000)  # each has its own offset
    assert hash_file(first, "sha256") == str(DIGEST)
    os.close(first)
    os.close(second)
    assert convert(store, base) == ""


def test_a_store_that_is_opened_again_knows_its_recipes(store: RecipeBlobStore, base: Path) -> None:
    convert(store, base)
    again = opened_in(base)
    assert read(again) == BLOB
    assert again.recipes_in(unpacked(base)) == [DIGEST]
    again.close()


def test_a_root_may_be_moved(
    store: RecipeBlobStore, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    convert(store, base)
    moved = tmp_path_factory.mktemp("other") / "root"
    base.rename(moved)
    again = opened_in(moved)
    assert read(again) == BLOB
    again.close()


def test_it_becomes_a_blob_again(store: RecipeBlobStore, base: Path) -> None:
    before = store.stat(DIGEST)
    convert(store, base)
    store.restore(DIGEST)
    assert files(base) == AS_BLOB
    assert (store.stat(DIGEST), store.recipes_in(unpacked(base))) == (before, [])
    assert read(store) == BLOB
    store.restore(DIGEST)  # which it is already


def test_removed_it_is_gone(store: RecipeBlobStore, base: Path) -> None:
    convert(store, base)
    read(store)
    store.remove(DIGEST)
    assert files(base) == []
    with pytest.raises(NotFoundError):
        store.open(DIGEST)
    with pytest.raises(NotFoundError):
        store.remove(DIGEST)
    assert list(store.walk()) == []


def test_files_that_have_changed_are_told_and_healed(store: RecipeBlobStore, base: Path) -> None:
    convert(store, base)
    (unpacked(base) / "two").write_bytes(FILES["two"][:-1] + b"!")
    with pytest.raises(DataLossError, match=rf"{DIGEST} is damaged: .*/snapshots/1/fs .*fetch it again"):
        store.verify(DIGEST)
    with pytest.raises(DataLossError):
        store.open(DIGEST)
    with pytest.raises(DataLossError):
        store.restore(DIGEST)
    assert files(base) == AS_RECIPE
    (unpacked(base) / "two").write_bytes(FILES["two"])
    assert read(store) == BLOB


def test_a_check_reads_the_files_and_not_what_was_made_before(store: RecipeBlobStore, base: Path) -> None:
    convert(store, base)
    assert read(store) == BLOB
    (unpacked(base) / "etc/one").unlink()
    with pytest.raises(DataLossError):
        store.verify(DIGEST)


@pytest.mark.parametrize("compressed", ["by another", "other files"])
def test_what_a_recipe_would_not_give_stays(store: RecipeBlobStore, base: Path, compressed: str) -> None:
    if compressed == "by another":
        import gzip

        digest = put(store, gzip.compress(BLOB))
    else:
        digest = put(store, tar_bytes({"three": random.Random(3).randbytes(90_000)}))
    before = files(base)
    assert convert(store, base, digest)
    assert files(base) == before


@pytest.mark.parametrize(
    "left",
    [
        f"recipes/sha256/{DIGEST.hex}.part",  # killed while it was made
        f"recipes/sha256/{DIGEST.hex}",  # killed before the blob went
    ],
)
def test_who_is_killed_in_between_leaves_the_blob(store: RecipeBlobStore, base: Path, left: str) -> None:
    convert(store, base)
    recipe = (base / "content" / AS_RECIPE[0]).read_bytes()
    store.restore(DIGEST)
    (base / "content" / left).write_bytes(recipe)
    again = opened_in(base)
    assert files(base) == AS_BLOB
    assert read(again) == BLOB
    assert not again.is_recipe(DIGEST)
    again.close()


def test_who_is_killed_before_it_is_a_blob_leaves_the_recipe(store: RecipeBlobStore, base: Path) -> None:
    convert(store, base)
    (base / "content" / f"recipes/sha256/{DIGEST.hex}.blob").write_bytes(BLOB[:1000])
    again = opened_in(base)
    assert files(base) == AS_RECIPE
    assert read(again) == BLOB
    again.close()


def test_a_damaged_recipe_is_a_blob_that_is_missing(
    store: RecipeBlobStore, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    convert(store, base)
    path = base / "content" / AS_RECIPE[0]
    path.chmod(0o644)
    path.write_bytes(b"none")
    again = opened_in(base)
    assert "is no recipe" in caplog.text
    with pytest.raises(NotFoundError):
        again.stat(DIGEST)
    assert put(again, BLOB) == DIGEST  # which heals it
    assert (base / "content" / AS_BLOB[0]).stat().st_size == len(BLOB)
    again.close()


def test_a_blob_that_is_written_counts_more_than_a_recipe(store: RecipeBlobStore, base: Path) -> None:
    convert(store, base)
    put(store, BLOB)
    (unpacked(base) / "two").unlink()
    assert store.verify(DIGEST).size == len(BLOB)
    assert read(store) == BLOB


def test_only_the_recipes_of_a_folder_are_told(store: RecipeBlobStore, base: Path) -> None:
    convert(store, base)
    assert store.recipes_in(unpacked(base)) == [DIGEST]
    assert store.recipes_in(base / "snapshots/11/fs") == []
    other = Digest.of(b"other")
    store.intend(other, unpacked(base))
    assert set(store.recipes_in(unpacked(base))) == {DIGEST, other}
    store.intend(other, None)
    assert store.recipes_in(unpacked(base)) == [DIGEST]
