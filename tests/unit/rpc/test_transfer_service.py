"""Transfer and Streaming as containerd's clients use them: windows, progress, and what cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from containerd_hybrid.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
)
from containerd_hybrid.images.api import ArchiveSource, Image, ImportOptions
from containerd_hybrid.model import Descriptor, Digest, Platform, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.services.streaming.v1 import streaming_pb2
from containerd_hybrid.proto.services.transfer.v1 import transfer_pb2
from containerd_hybrid.proto.types.transfer import imagestore_pb2, importexport_pb2, progress_pb2
from containerd_hybrid.proto.types.transfer import streaming_pb2 as data_pb2
from containerd_hybrid.rpc.describe import service_from
from containerd_hybrid.rpc.inprocess import InProcessTransport
from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services
from containerd_hybrid.rpc.services.streaming import StreamingService
from containerd_hybrid.rpc.services.transfer import TransferService
from containerd_hybrid.streaming.manager import OpenStreams
from containerd_hybrid.transfer.api import ArchiveSink, Progress, ProgressSink, UnpackTarget

HEADERS = {"containerd-namespace": "ns"}
TRANSFER = "containerd.services.transfer.v1.Transfer"
STREAMING = "containerd.services.streaming.v1.Streaming"
TARGET = Descriptor("type", Digest.of(b"target"), 6)


class FakeTransferrer:
    """Keeps what it was asked for; imports and exports plain bytes."""

    def __init__(self, archive: bytes = b"") -> None:
        self.archive = archive
        self.asked: list[object] = []
        self.steps = 3

    async def import_images(
        self,
        scope: Scope,
        source: ArchiveSource,
        options: ImportOptions,
        platforms: Sequence[Platform] = (),
        unpack: Sequence[UnpackTarget] = (),
        progress: ProgressSink | None = None,
        *,
        compress: bool = False,
    ) -> list[Image]:
        self.asked = [scope, options, list(platforms), list(unpack), compress]
        while data := await source.read(1 << 20):
            self.archive += data
        for step in range(self.steps):
            assert progress is not None
            progress(Progress("step", f"layer {step}", ("parent",), step, self.steps, TARGET))
        return []

    async def export_images(
        self,
        scope: Scope,
        names: Sequence[str],
        sink: ArchiveSink,
        platforms: Sequence[Platform] = (),
        *,
        all_platforms: bool = False,
        skip_docker_manifest: bool = False,
        skip_non_distributable: bool = False,
        progress: ProgressSink | None = None,
    ) -> None:
        self.asked = [scope, list(names), list(platforms), all_platforms]
        self.asked += [skip_docker_manifest, skip_non_distributable]
        await sink.write(self.archive)
        await sink.close()

    async def tag(
        self,
        scope: Scope,
        source: str,
        target: str,
        unpack: Sequence[UnpackTarget] = (),
        progress: ProgressSink | None = None,
        *,
        labels: Mapping[str, str] | None = None,
    ) -> Image:
        self.asked = [scope, source, target, list(unpack), dict(labels or {})]
        return Image(target, TARGET)


class Wire:
    """The two services and what a client does with them."""

    def __init__(self, transferrer: FakeTransferrer) -> None:
        self.streams = OpenStreams()
        handlers = (TransferService(transferrer, self.streams), StreamingService(self.streams))
        services = [service_from(type(handler).descriptor, handler) for handler in handlers]
        self.transport = InProcessTransport(wrap_services(services, standard_interceptors(CallMetrics())))

    async def transfer(self, source: Message, destination: Message, progress_stream: str = "") -> None:
        request = transfer_pb2.TransferRequest(
            source=pack(source),
            destination=pack(destination),
            options=transfer_pb2.TransferOptions(progress_stream=progress_stream),
        )
        await self.transport.unary(TRANSFER, "Transfer", request, Empty, metadata=HEADERS)

    async def open(self, name: str) -> Stream:
        stream = Stream(self.transport, name)
        answer = await anext(stream.incoming)
        assert answer.type_url.rpartition("/")[2] == "google.protobuf.Empty"
        return stream


class Stream:
    """A client's end of a stream."""

    def __init__(self, transport: InProcessTransport, name: str) -> None:
        self.outgoing: asyncio.Queue[AnyMessage | None] = asyncio.Queue()
        self.outgoing.put_nowait(pack(streaming_pb2.StreamInit(id=name)))
        self.incoming = transport.bidi_stream(
            STREAMING, "Stream", self._messages(), AnyMessage, metadata=HEADERS
        )

    async def _messages(self) -> AsyncIterator[AnyMessage]:
        while (message := await self.outgoing.get()) is not None:
            yield message

    def send(self, message: Message) -> None:
        self.outgoing.put_nowait(pack(message))

    async def close(self) -> None:
        await self.incoming.aclose()  # type: ignore[attr-defined]


def pack(message: Message) -> AnyMessage:
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def import_stream(name: str) -> importexport_pb2.ImageImportStream:
    return importexport_pb2.ImageImportStream(stream=name)


STORE = imagestore_pb2.ImageStore(name="image:1")


async def test_an_import_says_everything_that_the_request_says() -> None:
    transferrer = FakeTransferrer()
    wire = Wire(transferrer)
    stream = await wire.open("archive")
    stream.send(data_pb2.Data(data=b"archive"))
    stream.outgoing.put_nowait(None)
    store = imagestore_pb2.ImageStore(
        name="image:1",
        labels={"a": "b"},
        platforms=[{"os": "linux", "architecture": "arm64"}],
        extra_references=[imagestore_pb2.ImageReference(name="pre", is_prefix=True, add_digest=True)],
        unpacks=[
            imagestore_pb2.UnpackConfiguration(
                platform={"os": "linux", "architecture": "amd64"}, snapshotter="native"
            )
        ],
    )
    source = importexport_pb2.ImageImportStream(stream="archive", force_compress=True)
    await wire.transfer(source, store)
    scope, options, platforms, unpack, compress = transferrer.asked
    assert compress
    assert scope == Scope("ns")
    assert isinstance(options, ImportOptions)
    assert (options.index_name, options.labels) == ("image:1", {"a": "b"})
    (rule,) = options.references
    assert (rule.name, rule.is_prefix, rule.add_digest, rule.allow_overwrite) == ("pre", True, True, False)
    assert platforms == [Platform("linux", "arm64")]
    assert unpack == [UnpackTarget(Platform("linux", "amd64"), "native")]
    assert transferrer.archive == b"archive"


async def test_a_sender_gets_new_windows_as_it_sends_and_no_end_of_them() -> None:
    transferrer = FakeTransferrer()
    wire = Wire(transferrer)
    stream = await wire.open("archive")
    total, chunk = 64 << 20, 1 << 20
    moving = asyncio.ensure_future(wire.transfer(import_stream("archive"), STORE))
    window = sent = most = 0
    while sent < total:
        while window < chunk:
            update = data_pb2.WindowUpdate.FromString((await anext(stream.incoming)).value)
            window += update.update
            most = max(most, window)
        stream.send(data_pb2.Data(data=bytes(chunk)))
        sent += chunk
        window -= chunk
    stream.outgoing.put_nowait(None)
    await moving
    assert len(transferrer.archive) == total
    assert most < 2 * (8 << 20)


async def test_an_export_waits_for_the_window_that_a_client_grants() -> None:
    transferrer = FakeTransferrer(bytes(range(256)) * 4096)
    wire = Wire(transferrer)
    stream = await wire.open("archive")
    target = importexport_pb2.ImageExportStream(
        stream="archive", all_platforms=True, skip_compatibility_manifest=True
    )
    moving = asyncio.ensure_future(wire.transfer(STORE, target))
    received, window = b"", 0
    # containerd's receivers grant 32 KiB at a time.
    while len(received) < len(transferrer.archive):
        if not window:
            stream.send(data_pb2.WindowUpdate(update=32 << 10))
            window = 32 << 10
        data = data_pb2.Data.FromString((await anext(stream.incoming)).value).data
        assert len(data) <= window
        window -= len(data)
        received += data
    assert await anext(stream.incoming, None) is None
    await moving
    assert received == transferrer.archive
    assert transferrer.asked == [Scope("ns"), ["image:1"], [], True, True, False]


async def test_a_receiver_that_leaves_ends_the_export() -> None:
    transferrer = FakeTransferrer(bytes(1 << 20))
    wire = Wire(transferrer)
    stream = await wire.open("archive")
    moving = asyncio.ensure_future(wire.transfer(STORE, importexport_pb2.ImageExportStream(stream="archive")))
    stream.send(data_pb2.WindowUpdate(update=1000))
    await anext(stream.incoming)
    stream.outgoing.put_nowait(None)
    with pytest.raises(UnavailableError, match="receiver of the archive is gone"):
        await moving


async def test_progress_comes_in_order_and_whole() -> None:
    transferrer = FakeTransferrer()
    transferrer.steps = 40
    wire = Wire(transferrer)
    archive, watching = await wire.open("archive"), await wire.open("progress")
    archive.outgoing.put_nowait(None)
    moving = asyncio.ensure_future(wire.transfer(import_stream("archive"), STORE, "progress"))
    steps = [progress_pb2.Progress.FromString(message.value) async for message in watching.incoming]
    await moving
    assert [step.progress for step in steps] == list(range(40))
    assert (steps[0].event, list(steps[0].parents), steps[0].total) == ("step", ["parent"], 40)
    assert steps[0].desc.digest == str(TARGET.digest)


async def test_a_transfer_goes_on_when_nobody_watches_any_more() -> None:
    transferrer = FakeTransferrer()
    transferrer.steps = 1000
    wire = Wire(transferrer)
    archive, watching = await wire.open("archive"), await wire.open("progress")
    moving = asyncio.ensure_future(wire.transfer(import_stream("archive"), STORE, "progress"))
    await asyncio.sleep(0)
    await watching.close()
    archive.outgoing.put_nowait(None)
    await moving


async def test_a_tag_unpacks_what_it_is_asked_to() -> None:
    transferrer = FakeTransferrer()
    wire = Wire(transferrer)
    unpack = imagestore_pb2.UnpackConfiguration(platform={"os": "linux", "architecture": "amd64"})
    named = imagestore_pb2.ImageStore(name="other:1", unpacks=[unpack], labels={"a": "b"})
    await wire.transfer(STORE, named)
    assert transferrer.asked == [
        Scope("ns"),
        "image:1",
        "other:1",
        [UnpackTarget(Platform("linux", "amd64"))],
        {"a": "b"},
    ]


async def test_what_is_not_offered_is_named() -> None:
    wire = Wire(FakeTransferrer())
    with pytest.raises(
        UnimplementedError, match=r"not implemented for google.protobuf.Empty to containerd.types.transfer"
    ):
        await wire.transfer(Empty(), STORE)
    prefix = imagestore_pb2.ImageStore(
        extra_references=[imagestore_pb2.ImageReference(name="x", is_prefix=True)]
    )
    with pytest.raises(UnimplementedError, match="prefix lookup on export"):
        await wire.transfer(prefix, importexport_pb2.ImageExportStream(stream="x"))


async def test_a_stream_that_is_not_open_is_not_found() -> None:
    wire = Wire(FakeTransferrer())
    with pytest.raises(NotFoundError, match="stream 'archive'"):
        await wire.transfer(import_stream("archive"), STORE)
    stream = await wire.open("archive")
    with pytest.raises(NotFoundError, match="stream 'progress'"):
        await wire.transfer(import_stream("archive"), STORE, "progress")
    await stream.close()


async def test_a_stream_of_something_else_is_refused() -> None:
    wire = Wire(FakeTransferrer())
    stream = await wire.open("archive")
    stream.send(Empty())
    with pytest.raises(InvalidArgumentError, match=r"unexpected google.protobuf.Empty on the stream"):
        await wire.transfer(import_stream("archive"), STORE)


async def test_a_name_is_taken_until_its_stream_ends() -> None:
    wire = Wire(FakeTransferrer())
    first = await wire.open("name")
    second = Stream(wire.transport, "name")
    with pytest.raises(AlreadyExistsError, match="stream 'name'"):
        await anext(second.incoming)
    await first.close()
    third = await wire.open("name")
    assert wire.streams.get(Scope("ns"), "name")
    with pytest.raises(NotFoundError):
        wire.streams.get(Scope("other"), "name")
    await third.close()
    with pytest.raises(NotFoundError):
        wire.streams.get(Scope("ns"), "name")


async def test_a_stream_begins_with_its_name() -> None:
    wire = Wire(FakeTransferrer())
    stream = Stream(wire.transport, "x")
    stream.outgoing.get_nowait()
    stream.send(Empty())
    with pytest.raises(InvalidArgumentError, match="a stream begins with a StreamInit"):
        await anext(stream.incoming)
    silent = Stream(wire.transport, "x")
    silent.outgoing.get_nowait()
    silent.outgoing.put_nowait(None)
    assert await anext(silent.incoming, None) is None


async def test_sending_on_a_stream_whose_client_left_is_unavailable() -> None:
    wire = Wire(FakeTransferrer())
    stream = await wire.open("name")
    ours = wire.streams.get(Scope("ns"), "name")
    await stream.close()
    with pytest.raises(UnavailableError):
        await asyncio.gather(*(ours.send(AnyValue("x", b"")) for _ in range(10)))
