"""Bytes written and hashed at once."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid import _native
from containerd_hybrid.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidDigestError,
    OutOfRangeError,
    ResourceExhaustedError,
    UnavailableError,
)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_what_is_written_is_hashed(fd: int, algorithm: str) -> None:
    ingest = _native.Ingest(fd, algorithm)
    assert ingest.digest() == digest_of(b"", algorithm)
    large = os.urandom(3_000_001)
    assert ingest.write(b"some ") == 5
    assert ingest.write(bytearray(b"bytes ")) == 11
    assert ingest.write(memoryview(b"xfromx")[1:-1]) == 15
    assert ingest.write(memoryview(b"x.y.z.")[::2]) == 18
    assert ingest.write(b"") == 18
    assert ingest.write(large) == ingest.offset == 18 + len(large)
    assert content(fd) == b"some bytes fromxyz" + large
    assert ingest.digest() == digest_of(content(fd), algorithm)
    assert ingest.algorithm == algorithm


def test_the_offset_of_the_descriptor_does_not_matter(fd: int) -> None:
    ingest = _native.Ingest(fd)
    ingest.write(b"one")
    os.lseek(fd, 100, os.SEEK_SET)
    ingest.write(b"two")
    assert content(fd) == b"onetwo"


def test_resuming_hashes_what_is_there_and_cuts_off_what_is_behind(fd: int) -> None:
    os.write(fd, b"keep this, not that")
    ingest = _native.Ingest(fd, offset=9)
    assert ingest.digest() == digest_of(b"keep this")
    ingest.write(b"!")
    assert content(fd) == b"keep this!"
    assert ingest.digest() == digest_of(b"keep this!")
    with pytest.raises(OutOfRangeError, match=r"11.*10 bytes"):
        _native.Ingest(fd, offset=11)


def test_truncating_begins_anew(fd: int) -> None:
    ingest = _native.Ingest(fd)
    ingest.write(b"wrong")
    ingest.truncate()
    assert (ingest.offset, content(fd)) == (0, b"")
    ingest.write(b"right")
    ingest.sync()
    assert ingest.digest() == digest_of(b"right")


def test_rehashing_reads_the_disk_and_may_change_the_algorithm(fd: int) -> None:
    ingest = _native.Ingest(fd)
    ingest.write(b"data")
    assert ingest.rehash("sha512") == digest_of(b"data", "sha512")
    ingest.write(b"+")
    assert ingest.digest() == digest_of(b"data+", "sha512")
    os.pwrite(fd, b"DATA", 0)
    assert ingest.rehash() == digest_of(b"DATA+", "sha512")
    os.ftruncate(fd, 2)
    with pytest.raises(DataLossError, match="2 of 5 bytes"):
        ingest.rehash()


def test_unknown_algorithms_and_closed_descriptors_are_refused(fd: int) -> None:
    with pytest.raises(InvalidDigestError, match="md5"):
        _native.Ingest(fd, "md5")
    with pytest.raises(InvalidArgumentError, match="descriptor -1"):
        _native.Ingest(-1)
    closed = os.dup(fd)
    os.close(closed)
    with pytest.raises(InvalidArgumentError, match=f"descriptor {closed}"):
        _native.hash_file(closed)


def test_it_keeps_a_descriptor_of_its_own_until_it_is_closed(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    ingest = _native.Ingest(descriptor)
    os.close(descriptor)
    ingest.write(b"data")
    assert (tmp_path / "data").read_bytes() == b"data"
    ingest.close()
    ingest.close()
    for call in (lambda: ingest.write(b""), ingest.digest, ingest.sync, lambda: ingest.offset):
        with pytest.raises(FailedPreconditionError, match="closed"):
            call()


def test_splicing_from_a_file_takes_it_from_its_offset(fd: int, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"0123456789" * 100_000)
    ingest = _native.Ingest(fd)
    ingest.write(b"head ")
    with source.open("rb") as file:
        os.lseek(file.fileno(), 5, os.SEEK_SET)
        assert ingest.splice_from(file.fileno(), 3) == 3
        assert ingest.splice_from(file.fileno()) == 1_000_000 - 8
    assert content(fd) == b"head " + source.read_bytes()[5:]
    assert ingest.digest() == digest_of(content(fd))


def test_a_source_that_ends_early_leaves_what_it_sent(fd: int) -> None:
    ingest = _native.Ingest(fd)
    reading, writing = os.pipe()
    os.write(writing, b"only this")
    os.close(writing)
    try:
        with pytest.raises(UnavailableError, match="9 of 20 bytes"):
            ingest.splice_from(reading, 20)
    finally:
        os.close(reading)
    assert ingest.offset == 9
    ingest.write(b"!")
    assert ingest.digest() == digest_of(b"only this!")


def test_a_second_thread_is_refused_while_the_first_one_waits(fd: int) -> None:
    ingest = _native.Ingest(fd)
    reading, writing = os.pipe()
    copying = threading.Thread(target=ingest.splice_from, args=(reading,))
    copying.start()
    refused = 0
    while not refused:
        try:
            ingest.digest()  # possible until the other thread has begun
        except UnavailableError:
            refused += 1
    os.write(writing, b"late")
    os.close(writing)
    copying.join()
    os.close(reading)
    assert ingest.digest() == digest_of(b"late")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_told_and_the_digest_stays_that_of_the_file(tmp_path: Path) -> None:
    _native.mount_all([("tmpfs", "small", "", ["size=64k"])], tmp_path)
    try:
        descriptor = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
        try:
            ingest = _native.Ingest(descriptor)
            with pytest.raises(ResourceExhaustedError, match=os.strerror(errno.ENOSPC)):
                ingest.write(bytes(100_000))
            assert 0 < ingest.offset < 100_000
            assert ingest.digest() == digest_of(content(descriptor))
            ingest.close()
        finally:
            os.close(descriptor)
    finally:
        _native.unmount_all(tmp_path)


def test_a_whole_file_is_hashed_wherever_its_offset_is(fd: int) -> None:
    data = os.urandom(1_000_000)
    os.write(fd, data)
    assert _native.hash_file(fd) == digest_of(data)
    assert _native.hash_file(fd, "sha512") == digest_of(data, "sha512")
    assert os.lseek(fd, 0, os.SEEK_CUR) == len(data)


def test_what_cannot_be_hashed_is_told() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(Exception, match="read file to hash"):
            _native.hash_file(reading)
    finally:
        os.close(reading)
        os.close(writing)


def test_text_is_no_data(fd: int) -> None:
    with pytest.raises(TypeError):
        _native.Ingest(fd).write("text")  # type: ignore[arg-type]
