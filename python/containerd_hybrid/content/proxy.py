"""A content store in another process, behind containerd.services.content.v1 on a socket.

What it has is the truth about which blobs there are. A folder here holds ingests until they are whole and
verified, and copies of blobs that were read or written here, because layers are read by descriptor. The
copies may be removed at any time.

All blobs lie in one namespace over there, with the label ``containerd.io/gc.root``, in case the other side
collects garbage by itself.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from containerd_hybrid._native import Growing, HttpBody
from containerd_hybrid.client.api import Transport
from containerd_hybrid.content.api import BlobIngest, BlobStat, IngestStatus
from containerd_hybrid.content.local import LocalBlobStore
from containerd_hybrid.errors import (
    AlreadyExistsError,
    DataLossError,
    DigestMismatchError,
    InternalError,
    NotFoundError,
    SizeMismatchError,
    UnavailableError,
)
from containerd_hybrid.model import Digest
from containerd_hybrid.proto.services.content.v1 import content_pb2 as pb

_SERVICE = "containerd.services.content.v1.Content"
_METADATA = {"containerd-namespace": "containerd-hybrid"}
_LABELS = {"containerd.io/gc.root": "containerd-hybrid"}
_CHUNK = 1 << 20

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class ProxyBlobStore:
    """A :class:`~containerd_hybrid.content.api.BlobStore`; ``root`` is the folder for ingests and copies.

    Made inside the event loop that ``transport`` belongs to; its methods are called in other threads.
    UnavailableError: nobody answers over there.
    """

    def __init__(self, transport: Transport, local: LocalBlobStore) -> None:
        self._transport = transport
        self._local = local
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._copying = threading.Lock()

    def stat(self, digest: Digest) -> BlobStat:
        request = pb.InfoRequest(digest=str(digest))
        return _stat(self._call("Info", request, pb.InfoResponse).info)

    def open(self, digest: Digest) -> int:
        """A descriptor of the copy here, which is made when there is none.

        Raises:
            DataLossError: what the other side gave is not the blob.
        """
        with suppress(NotFoundError):
            return self._local.open(digest)
        with self._copying:
            with suppress(NotFoundError):
                return self._local.open(digest)
            self._copy(digest)
            return self._local.open(digest)

    def read_cached(self, digest: Digest, size: int, offset: int, length: int) -> bytes | None:
        """Of the copy here, if there is one."""
        return self._local.read_cached(digest, size, offset, length)

    def _copy(self, digest: Digest) -> None:
        size = self.stat(digest).size
        ingest = self._local.open_ingest(f"copy-{digest}", size, digest)
        try:
            if ingest.offset < size:
                self._run(self._fetch(digest, ingest))
            ingest.commit(size, digest)
        except (DigestMismatchError, SizeMismatchError) as error:
            self._local.remove_ingest(f"copy-{digest}")
            raise DataLossError(f"content {digest} is damaged over there: {error.message}") from error
        finally:
            ingest.close()

    def remove(self, digest: Digest) -> None:
        with suppress(NotFoundError):
            self._local.remove(digest)
        self._call("Delete", pb.DeleteContentRequest(digest=str(digest)), Empty)

    def walk(self) -> Iterable[BlobStat]:
        return [_stat(info) for info in self._run(self._list())]

    def verify(self, digest: Digest) -> BlobStat:
        """The copy is made anew, so that it is the other side's bytes that are read."""
        found = self.stat(digest)
        with suppress(NotFoundError):
            self._local.remove(digest)
        os.close(self.open(digest))
        return found

    def link(self, source: Path, digest: Digest) -> BlobStat:
        blob = self._local.link(source, digest)
        self._upload(blob)
        return blob

    # --- ingests

    def open_ingest(self, key: str, total: int, expected: Digest | None) -> BlobIngest:
        return _Ingest(self._local.open_ingest(key, total, expected), self._upload)

    def ingest_status(self, key: str) -> IngestStatus:
        return self._local.ingest_status(key)

    def ingest_keys(self) -> Iterable[str]:
        return self._local.ingest_keys()

    def remove_ingest(self, key: str) -> None:
        self._local.remove_ingest(key)

    # --- the other side

    def _upload(self, blob: BlobStat) -> None:
        with suppress(AlreadyExistsError):
            self._run(self._write(blob))

    async def _write(self, blob: BlobStat) -> None:
        answers = self._transport.bidi_stream(
            _SERVICE, "Write", self._parts(blob), pb.WriteContentResponse, metadata=_METADATA
        )
        async for answer in answers:
            if answer.action == pb.COMMIT:
                return
        raise UnavailableError(f"content {blob.digest} was not committed: the other side ended the call")

    async def _parts(self, blob: BlobStat) -> AsyncIterator[pb.WriteContentRequest]:
        ref, digest = f"containerd-hybrid-{blob.digest}", str(blob.digest)
        fd = await asyncio.to_thread(self._local.open, blob.digest)
        try:
            offset = 0
            while data := await asyncio.to_thread(os.pread, fd, _CHUNK, offset):
                yield pb.WriteContentRequest(
                    action=pb.WRITE, ref=ref, total=blob.size, expected=digest, offset=offset, data=data
                )
                offset += len(data)
        finally:
            os.close(fd)
        yield pb.WriteContentRequest(
            action=pb.COMMIT, ref=ref, total=blob.size, expected=digest, offset=offset, labels=_LABELS
        )

    async def _fetch(self, digest: Digest, ingest: BlobIngest) -> None:
        request = pb.ReadContentRequest(digest=str(digest), offset=ingest.offset)
        stream = self._transport.server_stream(
            _SERVICE, "Read", request, pb.ReadContentResponse, metadata=_METADATA
        )
        async for part in stream:
            await asyncio.to_thread(ingest.write, part.data)

    async def _list(self) -> list[pb.Info]:
        stream = self._transport.server_stream(
            _SERVICE, "List", pb.ListContentRequest(), pb.ListContentResponse, metadata=_METADATA
        )
        return [info async for page in stream for info in page.info]

    def _call(self, method: str, request: Message, response: type[M]) -> M:
        return self._run(self._transport.unary(_SERVICE, method, request, response, metadata=_METADATA))

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        if threading.get_ident() == self._loop_thread:
            call.close()
            raise InternalError("a proxy is asked on the event loop that it would wait for")
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


class _Ingest:
    """A local ingest whose commit is one over there as well."""

    def __init__(self, local: BlobIngest, upload: Callable[[BlobStat], None]) -> None:
        self._local = local
        self._upload = upload

    @property
    def total(self) -> int:
        return self._local.total

    @property
    def started_at(self) -> int:
        return self._local.started_at

    @property
    def updated_at(self) -> int:
        return self._local.updated_at

    @property
    def offset(self) -> int:
        return self._local.offset

    def write(self, data: bytes) -> int:
        return self._local.write(data)

    def receive(self, body: HttpBody, limit: int) -> int:
        return self._local.receive(body, limit)

    def append_file(self, fd: int, length: int) -> int:
        return self._local.append_file(fd, length)

    def growing(self, total: int) -> Growing:
        return self._local.growing(total)

    def digest(self) -> Digest:
        return self._local.digest()

    def truncate(self) -> None:
        self._local.truncate()

    def commit(self, size: int, expected: Digest | None) -> BlobStat:
        """The bytes stay here when they do not get there: a second attempt only has to send them."""
        blob = self._local.commit(size, expected)
        self._upload(blob)
        return blob

    def close(self) -> None:
        self._local.close()


def _stat(info: pb.Info) -> BlobStat:
    return BlobStat(Digest.parse(info.digest), info.size, info.created_at.ToNanoseconds())
