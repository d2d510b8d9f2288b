"""Archives are read as tar reads them, in bounded memory, and what is wrong with one is told."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from tests.unit.images.archives import tar_bytes, zstd
from tests.unit.images.world import BytesSource

from containerd_hybrid.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from containerd_hybrid.images.archive import read_archive


class Collected:
    """What an archive was read as."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}
        self.finished: list[str] = []

    async def file(self, name: str, size: int) -> FileSink:
        self.files[name] = b""
        return FileSink(self, name, size)

    def link(self, name: str, target: str) -> None:
        self.links[name] = target


class FileSink:
    def __init__(self, collected: Collected, name: str, size: int) -> None:
        self._collected, self._name, self._size = collected, name, size

    async def write(self, data: bytes) -> None:
        self._collected.files[self._name] += data

    async def finish(self) -> None:
        assert len(self._collected.files[self._name]) == self._size
        self._collected.finished.append(self._name)


async def collect(data: bytes, piece: int = 100_003) -> Collected:
    collected = Collected()
    await read_archive(BytesSource(data, piece), collected)
    return collected


CONTENT = {"a": b"1", "folder/": b"", "folder/b": b"x" * 3_000_000, "empty": b"", "exact": b"y" * 1024}


@pytest.mark.parametrize("piece", [1, 511, 513, 1 << 20])
async def test_files_come_whole_however_the_bytes_arrive(piece: int) -> None:
    small = {name: data[:2000] for name, data in CONTENT.items()}
    found = await collect(tar_bytes(small), piece)
    assert found.files == {name: data for name, data in small.items() if not name.endswith("/")}
    assert found.finished == ["a", "folder/b", "empty", "exact"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_every_format_of_tar_is_read(format: int) -> None:
    names = ["p" * 90 + "/" + "n" * 90, "short"]
    if format != tarfile.USTAR_FORMAT:
        names += ["long/" * 60 + "name", "ünï/" + "ö" * 120]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, names[-1]
        archive.addfile(link)
    found = await collect(buffer.getvalue())
    assert found.files == dict.fromkeys(names, b"abc")
    assert found.links == {"link": names[-1]}


async def test_what_gnu_tar_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(os.urandom(200_000))
    (tmp_path / "in" / ("n" * 200)).write_bytes(b"long")
    (tmp_path / "in" / "hard").hardlink_to(tmp_path / "in" / "file")
    (tmp_path / "in" / "soft").symlink_to("file")
    os.mkfifo(tmp_path / "in" / "fifo")
    subprocess.run(
        ["tar", "-C", tmp_path / "in", "--sort=name", "-cf", tmp_path / "out.tar", "."], check=True
    )
    found = await collect((tmp_path / "out.tar").read_bytes())
    assert found.files == {"file": (tmp_path / "in" / "file").read_bytes(), "n" * 200: b"long"}
    assert found.links == {"hard": "file", "soft": "file"}


async def test_names_are_normal_and_links_are_relative_to_the_root() -> None:
    hard = tarfile.TarInfo("x/hard")
    hard.type, hard.linkname = tarfile.LNKTYPE, "./a//b"
    found = await collect(tar_bytes({"./a/./b": b"1", "c/d": "../a/b", "hard": hard}))
    assert found.files == {"a/b": b"1"}
    assert found.links == {"c/d": "a/b", "x/hard": "a/b"}


async def test_gzip_is_seen_in_the_bytes_even_in_several_members_and_with_padding() -> None:
    plain = tar_bytes(CONTENT)
    for packed in (
        gzip.compress(plain),
        gzip.compress(plain[:1_000_000]) + gzip.compress(plain[1_000_000:]),
        gzip.compress(plain) + b"\0" * 5000,
    ):
        assert (await collect(packed)).files["folder/b"] == CONTENT["folder/b"]


@pytest.mark.parametrize("piece", [1013, 1 << 20])
async def test_zstd_is_seen_in_the_bytes(piece: int) -> None:
    source = BytesSource(zstd(tar_bytes(CONTENT)), piece)
    found = Collected()
    await read_archive(source, found)
    assert found.files["folder/b"] == CONTENT["folder/b"]
    assert await source.read(1) == b""


@pytest.mark.parametrize("cut", [10, 100_000, 2_000_000])
async def test_a_zstd_stream_that_is_cut_short_is_told(cut: int) -> None:
    with pytest.raises(InvalidArgumentError, match="zstd"):
        await collect(zstd(tar_bytes(CONTENT))[:-cut])


async def test_what_is_wrong_inside_of_a_zstd_stream_is_told() -> None:
    with pytest.raises(InvalidArgumentError, match="it is no tar archive"):
        await collect(zstd(b"x" * 5_000_000))


class Stalled(BytesSource):
    """Says nothing more when its bytes are over, and that it is so."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.silent = asyncio.Event()

    async def read(self, size: int) -> bytes:
        data = await super().read(size)
        if not data:
            self.silent.set()
            await asyncio.Event().wait()
        return data


async def test_a_reader_of_zstd_may_be_cancelled_while_the_sender_is_silent() -> None:
    source = Stalled(zstd(tar_bytes(CONTENT))[:1_000_000])
    reading = asyncio.ensure_future(read_archive(source, Collected()))
    await source.silent.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


class BrokenOff(BytesSource):
    """Fails where its bytes are over."""

    async def read(self, size: int) -> bytes:
        if data := await super().read(size):
            return data
        raise UnavailableError("the sender is gone")


async def test_a_sender_that_breaks_off_is_told_rather_than_a_stream_cut_short() -> None:
    with pytest.raises(UnavailableError, match="the sender is gone"):
        await read_archive(BrokenOff(zstd(tar_bytes(CONTENT))[:1_000_000]), Collected())


@pytest.mark.parametrize(
    ("pack", "name"),
    [(bz2.compress, "bzip2"), (lzma.compress, "xz")],
)
async def test_other_compression_is_named(pack: object, name: str) -> None:
    with pytest.raises(UnimplementedError, match=f"compressed with {name}: decompress it first"):
        await collect(pack(tar_bytes(CONTENT)))  # type: ignore[operator]


async def test_the_source_is_read_to_its_end() -> None:
    source = BytesSource(tar_bytes({"a": b"1"}) + b"\0" * 1_000_000)
    await read_archive(source, Collected())
    assert await source.read(1) == b""


@pytest.mark.parametrize("keep", [100, 512, 700, 600_000])
async def test_an_archive_that_is_cut_short_is_an_error(keep: int) -> None:
    data = tar_bytes({"folder/b": b"x" * 3_000_000})
    if keep == 512:
        # The header alone: the file it announces is missing.
        keep = len(data) - len(data[data.index(b"x" * 100) :])
    with pytest.raises(InvalidArgumentError, match="cut short"):
        await collect(data[:keep])


async def test_a_gzip_stream_that_is_cut_short_or_damaged_is_an_error() -> None:
    packed = bytearray(gzip.compress(tar_bytes({"a": os.urandom(100_000)})))
    with pytest.raises(InvalidArgumentError, match="cut short in "):
        await collect(bytes(packed[: len(packed) // 2]))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(InvalidArgumentError, match=r"cannot decompress|damaged|cut short"):
        await collect(bytes(packed))


async def test_what_is_no_archive_is_told_so() -> None:
    with pytest.raises(InvalidArgumentError, match="it is no tar archive"):
        await collect(b"#!/bin/sh\n" * 1000)
    data = bytearray(tar_bytes({"a": b"1", "b": b"2"}))
    data[1024] ^= 0xFF
    with pytest.raises(InvalidArgumentError, match="it is damaged"):
        await collect(bytes(data))


async def test_an_empty_archive_has_nothing() -> None:
    assert (await collect(tar_bytes({}))).files == {}
    assert (await collect(b"")).files == {}


async def test_a_header_without_bound_is_refused_before_it_is_read() -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    with pytest.raises(ResourceExhaustedError, match="header of 8589934592 bytes"):
        await collect(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 512)


async def test_a_bomb_is_not_unpacked_in_memory() -> None:
    bomb = gzip.compress(tar_bytes({"zeros": b"\0" * (64 << 20)}), 9)

    class Counting:
        size = 0

        async def file(self, name: str, size: int) -> Counting:
            return self

        def link(self, name: str, target: str) -> None:
            pass

        async def write(self, data: bytes) -> None:
            self.size += len(data)

        async def finish(self) -> None:
            pass

    counting = Counting()
    tracemalloc.start()
    try:
        await read_archive(BytesSource(bomb, 1 << 20), counting)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counting.size == 64 << 20
    assert most < 32 << 20


async def test_sparse_files_are_refused_by_name(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10 << 20)
        file.write(b"x")
    for kind in ("gnu", "posix"):
        subprocess.run(
            ["tar", "-C", tmp_path, "-S", f"--format={kind}", "-cf", tmp_path / "out.tar", "holes"],
            check=True,
        )
        with pytest.raises(UnimplementedError, match="holes is stored as a sparse file"):
            await collect((tmp_path / "out.tar").read_bytes())


@pytest.mark.parametrize(
    "record", [b"5 a=b\n", b"x a=b\n", b"99 path=a\n", b"6 abc\n", b"0 path=a\n", b"10 size=-1\n"]
)
async def test_a_malformed_extended_header_is_an_error(record: bytes) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    header = info.tobuf() + record.ljust(512, b"\0")
    with pytest.raises(InvalidArgumentError, match=r"malformed extended header|has size"):
        await collect(header + tar_bytes({"a": b"1"}))
