"""Reading a tar archive that arrives in pieces, on the event loop, in bounded memory.

``tarfile`` wants a file, and takes headers of any length into memory; an archive from a stranger
gets neither. Its :class:`tarfile.TarInfo` still decodes the headers.

Sources: POSIX.1-2017 pax (ustar and its extended headers); GNU tar's long names.
"""

from __future__ import annotations

import asyncio
import posixpath
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from containerd_hybrid.errors import InvalidArgumentError, ResourceExhaustedError, UnimplementedError
from containerd_hybrid.images.api import ArchiveSource
from containerd_hybrid.images.inflated import ZstdSource

_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
# A long name, or the attributes of one file. No honest archive of images has more.
_MAX_EXTENDED = 1 << 20
# Blobs, and the folders that old archives have one a layer of.
_MAX_ENTRIES = 100_000

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_REFUSED = {
    b"\xfd7zXZ": ("xz", "xz -d"),
    b"BZh": ("bzip2", "bzip2 -d"),
}
_GNU_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}


class EntrySink(Protocol):
    """Where the bytes of one regular file go."""

    async def write(self, data: bytes) -> None: ...

    async def finish(self) -> None: ...


class EntryHandler(Protocol):
    """Told what is in the archive, in its order. Names are normalised, relative to the archive's root."""

    async def file(self, name: str, size: int) -> EntrySink:
        """A regular file begins."""
        ...

    def link(self, name: str, target: str) -> None:
        """A link, as ``docker save`` makes for layers that are there twice."""
        ...


async def read_archive(source: ArchiveSource, handler: EntryHandler) -> None:
    """Hand every entry of the archive to ``handler``, and read the source to its end.

    Raises:
        InvalidArgumentError: not a tar archive, plain or compressed with gzip or zstd, or cut short.
        UnimplementedError: compressed in another way.
        ResourceExhaustedError: more entries, or longer names, than any honest archive has.
    """
    raw = _Reader(source)
    begin = await raw.peek(len(b"\xfd7zXZ"))
    for magic, (kind, command) in _REFUSED.items():
        if begin.startswith(magic):
            raise UnimplementedError(
                f"the archive is compressed with {kind}: decompress it first ({command})"
            )
    if begin.startswith(ZSTD_MAGIC):
        unpacked = ZstdSource(raw)
        try:
            await _read_entries(entries := _Reader(unpacked), handler)
            await _drain(entries)
        finally:
            await unpacked.close()
    else:
        await _read_entries(_Reader(_Gunzipped(raw)) if begin.startswith(GZIP_MAGIC) else raw, handler)
        await _drain(raw)


async def _drain(reader: _Reader) -> None:
    """A sender that is not read to its end would wait for ever."""
    while await reader.some(_CHUNK):
        pass


async def _read_entries(reader: _Reader, handler: EntryHandler) -> None:
    entries = 0
    extended = _Extended()
    while block := await reader.block():
        if not block.strip(b"\0"):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            what = "it is damaged" if entries else "it is no tar archive"
            raise InvalidArgumentError(f"cannot read the archive: {what} ({error})") from error
        entries += 1
        if entries > _MAX_ENTRIES:
            raise ResourceExhaustedError(f"the archive has more than {_MAX_ENTRIES} entries")
        if info.type in _GNU_LONG or info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
            extended.add(info.type, await _extended_header(reader, info.size))
            continue
        await _read_entry(reader, extended.applied_to(info), handler)
        extended.forget()


async def _extended_header(reader: _Reader, size: int) -> bytes:
    if not 0 <= size <= _MAX_EXTENDED:
        raise ResourceExhaustedError(
            f"the archive has a header of {size} bytes, more than the {_MAX_EXTENDED} that are read"
        )
    data = await reader.exactly(size)
    await reader.exactly(-size % _BLOCK)
    return data


async def _read_entry(reader: _Reader, entry: _Entry, handler: EntryHandler) -> None:
    if entry.size < 0:
        raise InvalidArgumentError(f"cannot read the archive: {entry.name} has a negative size")
    match entry.type:
        case tarfile.SYMTYPE:
            handler.link(entry.name, _normal(posixpath.join(posixpath.dirname(entry.name), entry.target)))
        case tarfile.LNKTYPE:
            handler.link(entry.name, _normal(entry.target))
        case tarfile.GNUTYPE_SPARSE:
            raise _sparse(entry.name)
        case tarfile.DIRTYPE | tarfile.CHRTYPE | tarfile.BLKTYPE | tarfile.FIFOTYPE:
            pass  # these have no bytes, whatever their size says
        case tarfile.REGTYPE | tarfile.AREGTYPE | tarfile.CONTTYPE:
            sink = await handler.file(entry.name, entry.size)
            await _copy(reader, entry, sink)
            await sink.finish()
        case _:
            await _copy(reader, entry, None)


async def _copy(reader: _Reader, entry: _Entry, sink: EntrySink | None) -> None:
    remaining = entry.size
    while remaining:
        data = await reader.some(min(remaining, _CHUNK))
        if not data:
            raise _cut_short(entry.name)
        if sink is not None:
            await sink.write(data)
        remaining -= len(data)
    await reader.exactly(-entry.size % _BLOCK)


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    type: bytes
    size: int
    target: str


@dataclass(slots=True)
class _Extended:
    """What headers before an entry say about it, instead of what fits into its own."""

    everywhere: dict[str, str] = field(default_factory=dict)
    here: dict[str, str] = field(default_factory=dict)

    def add(self, type: bytes, data: bytes) -> None:
        if type in _GNU_LONG:
            self.here[_GNU_LONG[type]] = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif type == tarfile.XGLTYPE:
            self.everywhere |= _pax_records(data)
        else:
            self.here |= _pax_records(data)

    def applied_to(self, info: tarfile.TarInfo) -> _Entry:
        records = self.everywhere | self.here
        if any(key.startswith("GNU.sparse.") for key in records):
            raise _sparse(info.name)
        size = records.get("size", "")
        if size and not size.isdecimal():
            raise InvalidArgumentError(f"cannot read the archive: {info.name} has size {size!r}")
        return _Entry(
            _normal(records.get("path", info.name)),
            info.type,
            int(size) if size else info.size,
            records.get("linkpath", info.linkname),
        )

    def forget(self) -> None:
        self.here = {}


def _pax_records(data: bytes) -> Mapping[str, str]:
    """``LENGTH KEY=VALUE\\n`` records; the length is that of the whole record, in bytes."""
    records: dict[str, str] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or length > len(data) or data[length - 1 : length] != b"\n":
            raise InvalidArgumentError("cannot read the archive: it has a malformed extended header")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return records


def _normal(name: str) -> str:
    return posixpath.normpath(name.rstrip("\0"))


def _sparse(name: str) -> UnimplementedError:
    return UnimplementedError(f"{name} is stored as a sparse file: make the archive without (tar -S)")


def _cut_short(where: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the archive is cut short in {where}: copy or make it again")


class _Reader:
    """A source that can be asked for an exact number of bytes."""

    def __init__(self, source: ArchiveSource) -> None:
        self._source = source
        self._buffer = b""
        self._start = 0

    async def read(self, size: int) -> bytes:
        """As a source itself."""
        return await self.some(size)

    async def some(self, size: int) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        if self._start == len(self._buffer):
            self._buffer, self._start = await self._source.read(_CHUNK), 0
        data = self._buffer[self._start : self._start + size]
        self._start += len(data)
        return data

    async def peek(self, size: int) -> bytes:
        """The next ``size`` bytes, which stay; fewer at the end."""
        while len(self._buffer) - self._start < size:
            data = await self._source.read(_CHUNK)
            if not data:
                break
            self._buffer, self._start = self._buffer[self._start :] + data, 0
        return self._buffer[self._start : self._start + size]

    async def exactly(self, size: int) -> bytes:
        data = await self._up_to(size)
        if len(data) < size:
            raise _cut_short("a header")
        return data

    async def block(self) -> bytes:
        """One block, empty at the end."""
        data = await self._up_to(_BLOCK)
        if data and len(data) < _BLOCK:
            raise _cut_short("a header")
        return data

    async def _up_to(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (data := await self.some(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


class _Gunzipped:
    """The bytes in a gzip stream, or in several that follow each other (RFC 1952, section 2.2)."""

    def __init__(self, source: _Reader) -> None:
        self._source = source
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._waiting = b""

    async def read(self, size: int) -> bytes:
        while True:
            if not self._waiting:
                self._waiting = await self._source.some(_CHUNK)
                if not self._waiting:
                    if not self._member.eof:
                        raise _cut_short("its gzip stream")
                    return b""
            if self._member.eof:
                if not self._waiting.strip(b"\0"):
                    self._waiting = b""  # padding, as tapes and tar's own blocks make it
                    continue
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                data = await asyncio.to_thread(self._member.decompress, self._waiting, _CHUNK)
            except zlib.error as error:
                raise InvalidArgumentError(f"cannot decompress the archive: {error}") from error
            self._waiting = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if data:
                return data
