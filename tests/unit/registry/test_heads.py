"""What is told of HTTP messages: enough to debug with, and nothing that is secret."""

from __future__ import annotations

from collections.abc import Mapping

from tests.unit.registry.fake_host import FakeHost, reference

from containerd_hybrid.model import Digest
from containerd_hybrid.model.descriptor import OCI_MANIFEST
from containerd_hybrid.registry.api import RegistryOptions
from containerd_hybrid.registry.client import HttpRegistryClient
from containerd_hybrid.registry.heads import request_head, response_head
from containerd_hybrid.registry.http import Request


class Answer:
    """As much of an answer as its head needs."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self._headers = {name.lower(): value for name, value in headers.items()}

    def headers(self, name: str) -> list[str]:
        return [value for key, value in self._headers.items() if key == name.lower()]


def told(answer: Answer) -> list[str]:
    return response_head(answer).split("\r\n")  # type: ignore[arg-type]


def test_a_request_is_told_as_it_goes_out() -> None:
    url = "https://user:pw@r.example:5000/v2/x/blobs/uploads/1?_state=s"
    request = Request("PUT", url, {"A": "b"}, b"123")
    assert request_head(request).split("\r\n") == [
        "PUT /v2/x/blobs/uploads/1 HTTP/1.1",
        "Host: r.example:5000",
        "A: b",
        "Content-Length: 3",
        "",
        "",
    ]


def test_no_secret_is_told_of_a_request() -> None:
    headers = {"Authorization": "Bearer s3cret", "X-Api-Key": "s3cret", "Cookie": "s3cret", "Accept": "a/b"}
    head = request_head(Request("GET", "https://r.example/v2/?token=s3cret", headers))
    assert "s3cret" not in head
    assert "Authorization: Bearer <hidden>" in head
    assert "Accept: a/b" in head


def test_an_answer_is_told_without_signatures_and_what_nobody_needs() -> None:
    headers = {
        "Content-Type": "application/json",
        "Location": "https://cdn.example/x?X-Signature=s3cret",
        "Set-Cookie": "s3cret",
        "WWW-Authenticate": 'Bearer realm="https://auth.example/token"',
        "X-Other": "s3cret",
    }
    assert told(Answer(401, headers)) == [
        "HTTP/1.1 401 Unauthorized",
        "Content-Type: application/json",
        "Location: https://cdn.example/x",
        'Www-Authenticate: Bearer realm="https://auth.example/token"',
        "",
        "",
    ]
    assert told(Answer(499, {"Location": "/v2/x?_state=s3cret"}))[:2] == ["HTTP/1.1 499", "Location: /v2/x"]


def test_a_host_cannot_write_lines_of_its_own() -> None:
    assert told(Answer(200, {"Server": "a\r\nFake: b\x1b[2J"}))[1] == "Server: a  Fake: b [2J"


async def test_an_observer_sees_both_sides_of_each_request(
    host: FakeHost, client: HttpRegistryClient
) -> None:
    found = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": str(Digest.of(b"x"))}
    host.answer("HEAD", "/v2/team/app/manifests/1", body=b"x", headers=found)
    heads: list[str] = []
    options = RegistryOptions(default_scheme="http", headers={"X": "y"}, observer=heads.append)
    await client.repository(reference(host), options).resolve(reference(host))
    asked, answered = heads
    assert asked.startswith(f"HEAD /v2/team/app/manifests/1 HTTP/1.1\r\nHost: {host.address}\r\nX: y\r\n")
    assert answered.startswith("HTTP/1.1 200 OK\r\n")
    assert f"Docker-Content-Digest: {Digest.of(b'x')}\r\n" in answered
