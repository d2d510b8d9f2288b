"""A read-only reader of bbolt files, the key-value store of containerd's metadata.

A file is pages of one size. Pages 0 and 1 are metas; the valid one with the higher transaction number
names the root bucket. A bucket is a B+ tree of branch and leaf pages; a leaf's element is a key with a
value, or with a bucket inside: its header (root page, sequence), and when that root page is 0 the one page
of a small bucket follows the header. Numbers are little endian. Source: go.etcd.io/bbolt, as its files are.

The file is not trusted: every offset is checked, and no page is visited twice on the way down, so a
damaged one ends with DataLossError and nothing worse.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from containerd_hybrid.errors import DataLossError, FailedPreconditionError, NotFoundError, error_for_os

_MAGIC = 0xED0CDAED
_VERSION = 2
_META = struct.Struct("<IIIIQQQQQ")  # magic, version, page size, flags, root, sequence, freelist, pages, txid
_CHECKSUM = struct.Struct("<Q")
_HEADER = struct.Struct("<QHHI")  # page, flags, count, overflow
_BRANCH = struct.Struct("<IIQ")  # position, key size, page
_LEAF = struct.Struct("<IIII")  # flags, position, key size, value size
_BUCKET = struct.Struct("<QQ")  # root page, sequence
_BRANCH_PAGE, _LEAF_PAGE = 0x01, 0x02
_BUCKET_FLAG = 0x01
_PAGE_SIZES = range(1 << 9, (1 << 16) + 1)


class BoltFile:
    """An open bbolt file; a context manager.

    Raises:
        FailedPreconditionError: a process has it open for writing.
        DataLossError: it is no such file, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFoundError(f"{path}: not found") from None
        except OSError as error:
            raise error_for_os(error, f"open {path}") from error
        self._fd = fd
        try:
            _lock(fd, path)
            size = os.fstat(fd).st_size
            if size < 2 * _PAGE_SIZES.start:
                raise DataLossError(f"{path} is no bbolt file: it has {size} bytes")
            self._data = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(fd)
            raise
        try:
            self._page_size, self._root = self._meta()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._data.close()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def root(self) -> Bucket:
        """The bucket of all top-level buckets."""
        return Bucket(self, self._root, b"")

    def _meta(self) -> tuple[int, int]:
        """The page size and the root bucket's page, of the newest meta that is whole."""
        found: list[tuple[int, int, int]] = []
        (page_size,) = struct.unpack_from("<I", self._data, _HEADER.size + 8)
        sizes = [page_size] if page_size in _PAGE_SIZES else []
        # When the first meta is damaged its page size is as well; the second lies at one of these.
        for size in (*sizes, *(1 << power for power in range(9, 17))):
            for begin in (_HEADER.size, size + _HEADER.size):
                if begin + _META.size + _CHECKSUM.size > len(self._data):
                    continue
                magic, version, own, _, root, _, _, _, txid = _META.unpack_from(self._data, begin)
                (checksum,) = _CHECKSUM.unpack_from(self._data, begin + _META.size)
                whole = (magic, version) == (_MAGIC, _VERSION) and checksum == _fnv(
                    self._data[begin : begin + _META.size]
                )
                if whole and own in _PAGE_SIZES:
                    found.append((txid, own, root))
            if found:
                _, page_size, root = max(found)
                return page_size, root
        raise DataLossError(
            f"{self.path} is no bbolt file of version {_VERSION}, or both its metas are damaged"
        )

    def page(self, number: int) -> bytes:
        """A page with those that overflow from it."""
        begin = number * self._page_size
        if begin + self._page_size > len(self._data):
            raise self.damaged(f"page {number} is behind its end")
        overflow = _HEADER.unpack_from(self._data, begin)[3]
        end = begin + (overflow + 1) * self._page_size
        if end > len(self._data):
            raise self.damaged(f"page {number} ends behind it")
        return self._data[begin:end]

    def damaged(self, how: str) -> DataLossError:
        return DataLossError(f"{self.path} is damaged: {how}")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket: keys in order, each with bytes or a bucket. ``inline`` is the page of a small one."""

    file: BoltFile
    page: int
    inline: bytes

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """All that is in it, in the order of the keys."""
        if self.page == 0:
            yield from self._leaf(self.inline)
        else:
            yield from self._below(self.page, set())

    def get(self, key: bytes) -> bytes | None:
        """The value of a key; None when there is none or it is a bucket."""
        found = self._find(key)
        return found if isinstance(found, bytes) else None

    def bucket(self, *path: bytes) -> Bucket | None:
        """The bucket at the end of a path of keys; None when one is missing or a value."""
        here: Bucket = self
        for key in path:
            found = here._find(key)
            if not isinstance(found, Bucket):
                return None
            here = found
        return here

    def buckets(self, *path: bytes) -> Iterator[tuple[str, Bucket]]:
        """The buckets directly below the bucket at ``path``, by their names; none when it is missing."""
        here = self.bucket(*path)
        for key, value in here.items() if here is not None else ():
            if isinstance(value, Bucket):
                yield key.decode(errors="replace"), value

    def texts(self, *path: bytes) -> dict[str, str]:
        """Keys and values of the bucket at ``path`` as text; empty when it is missing."""
        here = self.bucket(*path)
        if here is None:
            return {}
        return {
            key.decode(errors="replace"): value.decode(errors="replace")
            for key, value in here.items()
            if isinstance(value, bytes)
        }

    def _find(self, key: bytes) -> bytes | Bucket | None:
        # A bucket of a metadata file is read whole by whoever uses it, so a search need not be quick.
        return next((value for name, value in self.items() if name == key), None)

    def _below(self, number: int, seen: set[int]) -> Iterator[tuple[bytes, bytes | Bucket]]:
        if number in seen:
            raise self.file.damaged(f"page {number} is reached twice")
        seen.add(number)
        page = self.file.page(number)
        _, flags, count, _ = _HEADER.unpack_from(page)
        if flags & _LEAF_PAGE:
            yield from self._leaf(page)
        elif flags & _BRANCH_PAGE:
            for index in range(count):
                at = _HEADER.size + index * _BRANCH.size
                _, _, child = self._unpack(_BRANCH, page, at)
                yield from self._below(child, seen)
        else:
            raise self.file.damaged(f"page {number} is of an unknown kind ({flags:#x})")

    def _leaf(self, page: bytes) -> Iterator[tuple[bytes, bytes | Bucket]]:
        _, _, count, _ = self._unpack(_HEADER, page, 0)
        for index in range(count):
            at = _HEADER.size + index * _LEAF.size
            flags, position, key_size, value_size = self._unpack(_LEAF, page, at)
            key = self._bytes(page, at + position, key_size)
            value = self._bytes(page, at + position + key_size, value_size)
            if not flags & _BUCKET_FLAG:
                yield key, value
                continue
            root, _ = self._unpack(_BUCKET, value, 0)
            yield key, Bucket(self.file, root, value[_BUCKET.size :])

    def _unpack(self, form: struct.Struct, page: bytes, at: int) -> tuple[int, ...]:
        try:
            return form.unpack_from(page, at)
        except struct.error:
            raise self.file.damaged("an element lies behind the end of its page") from None

    def _bytes(self, page: bytes, at: int, size: int) -> bytes:
        if at + size > len(page):
            raise self.file.damaged("a key or value lies behind the end of its page")
        return page[at : at + size]


def _lock(fd: int, path: Path) -> None:
    """Hold bbolt's own lock shared for as long as the file is open: writers hold it alone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise error_for_os(error, f"lock {path}") from error
        raise FailedPreconditionError(
            f"{path} is in use: stop the containerd it belongs to, and start it again afterwards if you like"
        ) from error


def _fnv(data: bytes) -> int:
    """FNV-1a of 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
