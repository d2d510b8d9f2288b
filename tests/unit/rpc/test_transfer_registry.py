"""Registries in Transfer requests: what is asked of the transferrer, and credentials over a stream."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.message import Message

from containerd_hybrid.errors import NotFoundError, UnauthenticatedError
from containerd_hybrid.images.api import ReferenceRule
from containerd_hybrid.model import Platform, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.types import platform_pb2
from containerd_hybrid.proto.types.transfer import imagestore_pb2, registry_pb2, streaming_pb2
from containerd_hybrid.registry.api import Credential
from containerd_hybrid.rpc.services.transfer_registry import StreamCredentials, registry_place, store_target
from containerd_hybrid.streaming.manager import OpenStreams

SCOPE = Scope("ns")


class Stream:
    """A client's answers, in order."""

    def __init__(self, *answers: Message | None) -> None:
        self.answers = list(answers)
        self.sent: list[AnyValue] = []
        self.closed = False

    async def send(self, message: AnyValue) -> None:
        await asyncio.sleep(0)
        self.sent.append(message)

    async def receive(self) -> AnyValue | None:
        await asyncio.sleep(0)
        answer = self.answers.pop(0)
        if answer is None:
            return None
        return AnyValue(answer.DESCRIPTOR.full_name, answer.SerializeToString())

    def close(self) -> None:
        self.closed = True


def answer(kind: str, secret: str, username: str = "") -> registry_pb2.AuthResponse:
    return registry_pb2.AuthResponse(
        authType=registry_pb2.AuthType.Value(kind), secret=secret, username=username
    )


@pytest.mark.parametrize(
    ("given", "credential"),
    [
        (answer("CREDENTIALS", "s", "u"), Credential("u", "s")),
        (answer("REFRESH", "s", "u"), Credential("", "s")),
        (answer("HEADER", "Bearer s"), Credential(header="Bearer s")),
        (answer("REFRESH", ""), None),
        (answer("NONE", ""), None),
        (answer("NONE", "s"), None),
    ],
)
async def test_what_a_client_answers(given: registry_pb2.AuthResponse, credential: Credential | None) -> None:
    stream = Stream(given)
    assert await StreamCredentials(stream).get("r.example", "r.example/x:1") == credential
    asked = registry_pb2.AuthRequest.FromString(stream.sent[0].value)
    assert (asked.host, asked.reference) == ("r.example", "r.example/x:1")
    assert stream.sent[0].type_url == "containerd.types.transfer.AuthRequest"


async def test_questions_wait_for_each_other() -> None:
    stream = Stream(answer("CREDENTIALS", "1", "u"), answer("CREDENTIALS", "2", "u"))
    credentials = StreamCredentials(stream)
    found = await asyncio.gather(credentials.get("a", "x"), credentials.get("b", "x"))
    assert [one.secret for one in found if one] == ["1", "2"]


@pytest.mark.parametrize("given", [None, registry_pb2.AuthRequest()])
async def test_a_client_that_does_not_answer(given: Message | None) -> None:
    with pytest.raises(UnauthenticatedError, match=r"r\.example"):
        await StreamCredentials(Stream(given)).get("r.example", "x")


async def test_a_place_and_its_streams() -> None:
    streams, stream, logs = OpenStreams(), Stream(), Stream()
    streams.register(SCOPE, "auth", stream)
    streams.register(SCOPE, "logs", logs)
    resolver = registry_pb2.RegistryResolver(
        auth_stream="auth", logs_stream="logs", headers={"a": "b"}, host_dir="/h", default_scheme="http"
    )
    message = registry_pb2.OCIRegistry(reference="r.example/x:1", resolver=resolver)
    async with registry_place(message, SCOPE, streams) as place:
        assert str(place) == "OCI Registry (r.example/x:1)"
        assert place.options.hosts_dir == "/h"
        assert place.options.default_scheme == "http"
        assert place.options.headers == {"a": "b"}
        assert place.options.credentials is not None
        assert not stream.closed
    assert stream.closed
    assert logs.closed
    with pytest.raises(NotFoundError):
        async with registry_place(message, Scope("other"), streams):
            pass


def debugging(kind: str, logs: str = "") -> registry_pb2.OCIRegistry:
    resolver = registry_pb2.RegistryResolver(http_debug=registry_pb2.HTTPDebug.Value(kind), logs_stream=logs)
    return registry_pb2.OCIRegistry(reference="r.example/x:1", resolver=resolver)


@pytest.mark.parametrize("kind", ["DEBUG", "BOTH"])
async def test_a_client_is_told_what_goes_to_and_fro(kind: str) -> None:
    streams = OpenStreams()
    logs = Stream(streaming_pb2.WindowUpdate(update=6), streaming_pb2.WindowUpdate(update=100))
    streams.register(SCOPE, "logs", logs)
    async with registry_place(debugging(kind, "logs"), SCOPE, streams) as place:
        assert place.options.observer is not None
        place.options.observer("GET / ")
        place.options.observer("200 OK")
    sent = b"".join(streaming_pb2.Data.FromString(message.value).data for message in logs.sent)
    assert sent == b"GET / 200 OK"
    assert logs.closed


async def test_a_client_that_does_not_read_its_log_does_not_hold_a_transfer_up() -> None:
    streams = OpenStreams()
    logs = Stream(None)
    streams.register(SCOPE, "logs", logs)
    async with registry_place(debugging("DEBUG", "logs"), SCOPE, streams) as place:
        assert place.options.observer is not None
        place.options.observer("GET / ")
    assert logs.closed
    assert not logs.sent


async def test_without_a_stream_it_is_our_log_that_tells(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with registry_place(debugging("DEBUG"), SCOPE, OpenStreams()) as place:
        assert place.options.observer is not None
        place.options.observer("GET / HTTP/1.1\r\nHost: r.example\r\n\r\n")
    assert caplog.messages == ["registry GET / HTTP/1.1; Host: r.example"]


@pytest.mark.parametrize("kind", ["DISABLED", "TRACE"])
async def test_who_does_not_ask_is_not_told(kind: str) -> None:
    async with registry_place(debugging(kind), SCOPE, OpenStreams()) as place:
        assert place.options.observer is None


async def test_a_place_without_streams() -> None:
    async with registry_place(registry_pb2.OCIRegistry(reference="x"), SCOPE, OpenStreams()) as place:
        assert place.options.credentials is None


def test_what_to_keep() -> None:
    store = imagestore_pb2.ImageStore(
        name="x",
        labels={"a": "b"},
        platforms=[platform_pb2.Platform(os="linux", architecture="arm", variant="v7")],
        all_metadata=True,
        manifest_limit=2,
        extra_references=[imagestore_pb2.ImageReference(name="p", is_prefix=True, add_digest=True)],
    )
    target = store_target(store)
    assert target.platforms == (Platform("linux", "arm", "v7"),)
    assert (target.name, dict(target.labels), target.all_metadata, target.manifest_limit) == (
        "x",
        {"a": "b"},
        True,
        2,
    )
    assert target.references == (ReferenceRule("p", is_prefix=True, add_digest=True),)
