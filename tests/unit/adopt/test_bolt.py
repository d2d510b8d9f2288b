"""The reader of bbolt files: what it finds, and that no damaged file does it any harm."""

from __future__ import annotations

import fcntl
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.adopt.bolt import BoltFile, Bucket, _fnv
from containerd_hybrid.errors import DataLossError, FailedPreconditionError, NotFoundError

PAGE = 4096
Tree = Mapping[bytes, Any]


class Writer:
    """Writes a tree as bbolt lays it out: buckets that are small inline, others on pages of their own."""

    def __init__(self, *, split: bool = False) -> None:
        self.pages: list[bytes] = []
        self.split = split

    def file(self, tree: Tree, *, txids: tuple[int, int] = (6, 7)) -> bytes:
        self.pages = [b"", b""]
        root = self.bucket(tree)
        for number, txid in enumerate(txids):
            # The older meta leads nowhere, so that only the newer can be the one that was read.
            meta = struct.pack(
                "<IIIIQQQQQ", 0xED0CDAED, 2, PAGE, 0, root if txid == max(txids) else 999, 0, 0, 0, txid
            )
            page = struct.pack("<QHHI", number, 0x04, 0, 0) + meta + struct.pack("<Q", _fnv(meta))
            self.pages[number] = page.ljust(PAGE, b"\0")
        return b"".join(self.pages)

    def bucket(self, tree: Tree) -> int:
        items = list(tree.items())
        if not self.split or len(items) < 2:
            return self.page(*self.leaf(items))
        middle = len(items) // 2
        parts = [(part[0][0], self.page(*self.leaf(part))) for part in (items[:middle], items[middle:])]
        elements, keys = b"", b""
        for index, (key, number) in enumerate(parts):
            position = (len(parts) - index) * 16 + len(keys)
            elements += struct.pack("<IIQ", position, len(key), number)
            keys += key
        return self.page(0x01, len(parts), elements + keys)

    def leaf(self, items: list[tuple[bytes, Any]]) -> tuple[int, int, bytes]:
        elements, data = b"", b""
        for index, (key, value) in enumerate(items):
            flags = 0
            if isinstance(value, Mapping):
                flags = 1
                inline = self.leaf(list(value.items()))
                if len(inline[2]) < PAGE // 4 and not any(isinstance(v, Mapping) for v in value.values()):
                    kind, count, body = inline
                    value = struct.pack("<QQ", 0, 0) + struct.pack("<QHHI", 0, kind, count, 0) + body
                else:
                    value = struct.pack("<QQ", self.bucket(value), 0)
            position = (len(items) - index) * 16 + len(data)
            elements += struct.pack("<IIII", flags, position, len(key), len(value))
            data += key + value
        return 0x02, len(items), elements + data

    def page(self, kind: int, count: int, body: bytes) -> int:
        number = len(self.pages)
        size = 16 + len(body)
        overflow = (size - 1) // PAGE
        self.pages.append(struct.pack("<QHHI", number, kind, count, overflow) + body)
        self.pages[-1] = self.pages[-1].ljust((overflow + 1) * PAGE, b"\0")
        for _ in range(overflow):
            self.pages.append(b"")
        return number


def read(bucket: Bucket) -> dict[bytes, Any]:
    return {key: read(value) if isinstance(value, Bucket) else value for key, value in bucket.items()}


TREE = {
    b"v1": {
        b"default": {b"labels": {b"a": b"1", b"b": b""}, b"image": {b"x": {b"size": b"\x02"}}},
        b"other": {},
        b"version": b"\x08",
    },
    b"many": {b"%05d" % number: b"v" * (number % 50) for number in range(400)},
}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("txids", [(6, 7), (8, 7)])
def test_what_was_written_is_read(tmp_path: Path, split: bool, txids: tuple[int, int]) -> None:
    path = tmp_path / "meta.db"
    path.write_bytes(Writer(split=split).file(TREE, txids=txids))
    with BoltFile(path) as file:
        assert read(file.root) == TREE
        assert file.root.texts(b"v1", b"default", b"labels") == {"a": "1", "b": ""}
        assert [name for name, _ in file.root.buckets(b"v1")] == ["default", "other"]
        assert file.root.bucket(b"v1", b"nothing") is None
        assert file.root.get(b"v1") is None


def test_a_damaged_first_meta_leaves_the_second(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    data = bytearray(Writer().file(TREE))
    data[16:80] = b"\xff" * 64
    path.write_bytes(data)
    with BoltFile(path) as file:
        assert read(file.root) == TREE


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\0" * 9000, b"\xff" * 9000])
def test_what_is_no_such_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "meta.db"
    path.write_bytes(data)
    with pytest.raises(DataLossError, match=r"meta\.db is no bbolt file"):
        BoltFile(path)


def test_a_file_that_is_not_there_or_in_use(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    with pytest.raises(NotFoundError):
        BoltFile(path)
    path.write_bytes(Writer().file(TREE))
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FailedPreconditionError, match="is in use: stop the containerd"):
            BoltFile(path)


def test_pages_in_a_circle_end(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    writer = Writer()
    data = bytearray(writer.file({b"a": b"1"}))
    # Page 2, the root, becomes a branch with itself for its only child.
    data[2 * PAGE : 2 * PAGE + 33] = (
        struct.pack("<QHHI", 2, 0x01, 1, 0) + struct.pack("<IIQ", 16, 1, 2) + b"a"
    )
    path.write_bytes(data)
    with BoltFile(path) as file, pytest.raises(DataLossError, match="page 2 is reached twice"):
        read(file.root)


def test_damage_anywhere_is_told_or_harmless(tmp_path: Path) -> None:
    chance = random.Random(7)
    whole = Writer(split=True).file(TREE)
    path = tmp_path / "meta.db"
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(2 * PAGE, len(data))] = chance.choice(
                [0, 1, 2, 0xFF, chance.randrange(256)]
            )
        if chance.random() < 0.2:
            del data[chance.randrange(2 * PAGE, len(data)) :]
        path.write_bytes(data)
        try:
            with BoltFile(path) as file:
                read(file.root)
        except DataLossError:
            refused += 1
    assert refused > 20
