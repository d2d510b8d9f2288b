"""containerd.services.content.v1.Content"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid._native import WirePlan
from containerd_hybrid.content.api import ContentInfo, ContentStore, Ingest, IngestStatus
from containerd_hybrid.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
)
from containerd_hybrid.metadata.api import Collector
from containerd_hybrid.model import Digest, Scope
from containerd_hybrid.proto.services.content.v1 import content_pb2 as pb
from containerd_hybrid.rpc.api import CallContext, Encoded
from containerd_hybrid.wire import timestamp

_PAGE = 100
# Below gRPC's default limit of 4 MiB a message, and large enough that a message's cost does not count.
_CHUNK = 1 << 20


WIRE_PLAN = WirePlan(
    [
        (pb.Info.DIGEST_FIELD_NUMBER, "digest", "text", None),
        (pb.Info.SIZE_FIELD_NUMBER, "size", "number", None),
        (pb.Info.CREATED_AT_FIELD_NUMBER, "created_at", "time", None),
        (pb.Info.UPDATED_AT_FIELD_NUMBER, "updated_at", "time", None),
        (pb.Info.LABELS_FIELD_NUMBER, "labels", "map", None),
    ]
)
"""A blob as :func:`to_wire` makes it, for answers that are often wanted or long."""


class ContentService:
    """Blobs, and the streams that write and read them."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Content"]

    def __init__(self, content: ContentStore, collector: Collector) -> None:
        self._content = content
        self._collector = collector

    async def info(self, request: pb.InfoRequest, call: CallContext) -> Encoded:
        info = await self._content.info(call.scope, Digest.parse(request.digest))
        return Encoded(WIRE_PLAN.list(pb.InfoResponse.INFO_FIELD_NUMBER, (info,)))

    async def update(self, request: pb.UpdateRequest, call: CallContext) -> pb.UpdateResponse:
        wanted = request.info
        updated = await self._content.update(
            call.scope, Digest.parse(wanted.digest), dict(wanted.labels), tuple(request.update_mask.paths)
        )
        return pb.UpdateResponse(info=to_wire(updated))

    async def list(self, request: pb.ListContentRequest, call: CallContext) -> AsyncIterator[Encoded]:
        page: list[ContentInfo] = []
        number = pb.ListContentResponse.INFO_FIELD_NUMBER
        async for info in self._content.walk(call.scope, tuple(request.filters)):
            page.append(info)
            if len(page) == _PAGE:
                yield Encoded(WIRE_PLAN.list(number, page))
                page = []
        if page:
            yield Encoded(WIRE_PLAN.list(number, page))

    async def delete(self, request: pb.DeleteContentRequest, call: CallContext) -> Empty:
        await self._content.delete(call.scope, Digest.parse(request.digest))
        self._collector.trigger()
        return Empty()

    async def read(
        self, request: pb.ReadContentRequest, call: CallContext
    ) -> AsyncIterator[pb.ReadContentResponse]:
        digest = Digest.parse(request.digest)
        offset = max(request.offset, 0)
        # Most blobs that are read this way are small, and then this is all.
        length = min(request.size, _CHUNK) if request.size > 0 else _CHUNK
        data = await self._content.read_at(call.scope, digest, offset, length)
        if len(data) < length or length == request.size:
            if data:
                yield pb.ReadContentResponse(offset=offset, data=data)
            return
        # Before anything is told: what has begun is not to fail because the blob is deleted meanwhile.
        descriptor = await self._content.open_blob(call.scope, digest)
        try:
            total = os.fstat(descriptor).st_size
            end = min(offset + request.size, total) if request.size > 0 else total
            yield pb.ReadContentResponse(offset=offset, data=data)
            offset += length
            while offset < end:
                data = await asyncio.to_thread(os.pread, descriptor, min(_CHUNK, end - offset), offset)
                if not data:
                    raise OutOfRangeError(f"{digest} ends at {offset}, {total} bytes were recorded")
                yield pb.ReadContentResponse(offset=offset, data=data)
                offset += len(data)
        finally:
            os.close(descriptor)

    async def status(self, request: pb.StatusRequest, call: CallContext) -> pb.StatusResponse:
        status = await self._content.ingest_status(call.scope, request.ref)
        return pb.StatusResponse(status=_status_to_wire(status))

    async def list_statuses(
        self, request: pb.ListStatusesRequest, call: CallContext
    ) -> pb.ListStatusesResponse:
        statuses = await self._content.list_ingests(call.scope, tuple(request.filters))
        return pb.ListStatusesResponse(statuses=[_status_to_wire(status) for status in statuses])

    async def abort(self, request: pb.AbortRequest, call: CallContext) -> Empty:
        await self._content.abort(call.scope, request.ref)
        return Empty()

    async def write(
        self, requests: AsyncIterator[pb.WriteContentRequest], call: CallContext
    ) -> AsyncIterator[pb.WriteContentResponse]:
        first = await anext(requests, None)
        if first is None:
            return
        if not first.ref:
            raise InvalidArgumentError("first message must have a reference")
        expected = Digest.parse(first.expected) if first.expected else None
        ingest = await self._content.open_ingest(call.scope, first.ref, first.total, expected)
        try:
            session = _WriteSession(self._content, call.scope, first.ref, ingest, first.total, expected)
            yield await session.handle(first)
            if first.action == pb.COMMIT:
                return
            async for request in requests:
                yield await session.handle(request)
                if request.action == pb.COMMIT:
                    return
        finally:
            await ingest.close()


class _WriteSession:
    """One Write stream: what was expected so far, and the open ingest."""

    def __init__(
        self,
        content: ContentStore,
        scope: Scope,
        ref: str,
        ingest: Ingest,
        total: int,
        expected: Digest | None,
    ) -> None:
        self._content = content
        self._scope = scope
        self._ref = ref
        self._ingest = ingest
        self._total = total
        self._expected = expected

    async def handle(self, request: pb.WriteContentRequest) -> pb.WriteContentResponse:
        await self._note_expectations(request)
        if request.action == pb.STAT:
            return await self._answer(request, started=True)
        await self._append(request)
        response = await self._answer(request)
        if request.action == pb.COMMIT:
            await self._ingest.commit(self._total, self._expected, dict(request.labels))
        return response

    async def _note_expectations(self, request: pb.WriteContentRequest) -> None:
        """A later message may know the size and digest that the first did not."""
        expected = Digest.parse(request.expected) if request.expected else None
        # The digest that the ingest was opened for was judged then; it may be here with its bytes lost.
        if expected is not None and expected != self._expected:
            self._expected = expected
            if await self._is_here(expected):
                await self._ingest.close()
                await self._content.abort(self._scope, self._ref)
                raise AlreadyExistsError(f"blob with expected digest {expected} exists")
        if request.total > 0:
            self._total = request.total

    async def _is_here(self, digest: Digest) -> bool:
        try:
            await self._content.info(self._scope, digest)
        except NotFoundError:
            return False
        return True

    async def _append(self, request: pb.WriteContentRequest) -> None:
        offset = self._ingest.status.offset
        if request.offset > 0 and request.offset != offset:
            raise OutOfRangeError(f"write @{request.offset} must occur at current offset {offset}")
        if request.offset == 0 and offset > 0:
            await self._ingest.truncate(0)
        if request.data:
            await self._ingest.write(request.data)

    async def _answer(
        self, request: pb.WriteContentRequest, *, started: bool = False
    ) -> pb.WriteContentResponse:
        status = self._ingest.status
        return pb.WriteContentResponse(
            action=request.action,
            offset=status.offset,
            total=self._total if started else 0,
            started_at=timestamp(status.started_at) if started else None,
            updated_at=timestamp(status.updated_at) if started else None,
            digest=str(await self._ingest.digest()),
        )


def to_wire(info: ContentInfo) -> pb.Info:
    """The message of one."""
    return pb.Info(
        digest=str(info.digest),
        size=info.size,
        created_at=timestamp(info.created_at),
        updated_at=timestamp(info.updated_at),
        labels=dict(info.labels),
    )


def _status_to_wire(status: IngestStatus) -> pb.Status:
    return pb.Status(
        started_at=timestamp(status.started_at),
        updated_at=timestamp(status.updated_at),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=str(status.expected) if status.expected else "",
    )
