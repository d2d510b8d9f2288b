"""Schemes without I/O, and what remembers their results."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest

from containerd_hybrid.errors import (
    HybridError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.registry.api import Credential
from containerd_hybrid.registry.auth.authenticator import Authenticator
from containerd_hybrid.registry.auth.basic import basic
from containerd_hybrid.registry.auth.bearer import bearer, merge_scopes
from containerd_hybrid.registry.auth.challenge import Challenge
from containerd_hybrid.registry.auth.steps import Flow, Grant, TokenReply, TokenRequest
from containerd_hybrid.registry.endpoint import Endpoint

HOST = "r.example"
ENDPOINT = Endpoint("https", HOST)
BEARER = Challenge("bearer", {"realm": "https://t.example/token?a=b", "service": "reg"})
SCOPE = "repository:x/y:pull"


def run(flow: Flow, *replies: TokenReply) -> tuple[list[TokenRequest], Grant]:
    """Drive a scheme with prepared answers."""
    asked = []
    answers = iter(replies)
    try:
        request = next(flow)
        while True:
            asked.append(request)
            request = flow.send(next(answers))
    except StopIteration as end:
        return asked, end.value


def reply(status: int = 200, **document: object) -> TokenReply:
    return TokenReply(status, json.dumps(document).encode())


def test_an_anonymous_token_is_asked_for_by_get() -> None:
    (request,), grant = run(bearer(HOST, BEARER, [SCOPE], None), reply(token="T", expires_in=120))
    assert request.form is None
    assert parse_qs(urlsplit(request.url).query) == {"a": ["b"], "service": ["reg"], "scope": [SCOPE]}
    assert request.headers == {}
    assert grant == Grant("Bearer T", 120.0)


def test_a_password_goes_by_oauth_and_by_get_where_there_is_none() -> None:
    user = Credential("u", "p")
    (post, get), grant = run(bearer(HOST, BEARER, [SCOPE], user), reply(404), reply(access_token="T"))
    assert post.form == {
        "grant_type": "password",
        "username": "u",
        "password": "p",
        "service": "reg",
        "client_id": "containerd-hybrid",
        "scope": SCOPE,
    }
    assert get.headers == {"Authorization": "Basic dTpw"}
    assert grant.header == "Bearer T"
    assert grant.seconds == 60, "the specification's least life"


def test_a_refresh_token_has_no_other_way() -> None:
    flow = bearer(HOST, BEARER, [SCOPE], Credential(secret="R"))
    with pytest.raises(UnauthenticatedError):
        run(flow, reply(401))
    (post,), grant = run(
        bearer(HOST, BEARER, [SCOPE], Credential(secret="R")), reply(access_token="T", refresh_token="R2")
    )
    assert post.form is not None
    assert (post.form["grant_type"], post.form["refresh_token"]) == ("refresh_token", "R")
    assert grant.refresh_token == "R2"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(401), UnauthenticatedError),
        (reply(403), UnauthenticatedError),
        (reply(503), UnavailableError),
        (reply(429), UnavailableError),
        (reply(302), UnknownError),
        (reply(200), UnknownError),
        (TokenReply(200, b"no json"), UnknownError),
        (reply(200, token="a\r\nb"), UnknownError),
        (reply(200, token=3), UnknownError),
    ],
)
def test_what_a_token_server_may_not_answer(answer: TokenReply, error: type[HybridError]) -> None:
    with pytest.raises(error) as caught:
        run(bearer(HOST, BEARER, [SCOPE], None), answer)
    assert "t.example" in caught.value.message


def test_a_realm_has_to_be_a_url_and_gets_no_password_in_clear() -> None:
    with pytest.raises(UnauthenticatedError):
        run(bearer(HOST, Challenge("bearer", {"realm": "/token"}), [], None))
    plain = Challenge("bearer", {"realm": "http://t.example/token"})
    with pytest.raises(PermissionDeniedError):
        run(bearer(HOST, plain, [], Credential("u", "p")))
    _, grant = run(bearer(HOST, plain, [], None), reply(token="T"))
    assert grant.header == "Bearer T"


def test_scopes_of_one_resource_are_one() -> None:
    assert merge_scopes(["repository:b:push,pull", "registry:catalog:*", "repository:b:pull", ""]) == (
        "registry:catalog:*",
        "repository:b:pull,push",
    )


def test_basic_needs_a_pair() -> None:
    assert run(basic(HOST, Credential("u", "p")))[1].header == "Basic dTpw"
    with pytest.raises(UnauthenticatedError):
        run(basic(HOST, None))


def test_secrets_are_in_no_repr() -> None:
    shown = repr(
        (
            Credential("u", "hidden", "hidden"),
            Grant("hidden", 1, "hidden"),
            TokenRequest("u", {"a": "hidden"}, {"password": "hidden"}),
            TokenReply(200, b"hidden"),
        )
    )
    assert "hidden" not in shown


class Server:
    """A token server that gives a new token each time."""

    def __init__(self, expires_in: float = 100) -> None:
        self.asked: list[TokenRequest] = []
        self.expires_in = expires_in

    async def ask(self, endpoint: Endpoint, request: TokenRequest) -> TokenReply:
        self.asked.append(request)
        await asyncio.sleep(0)
        return reply(token=f"T{len(self.asked)}", expires_in=self.expires_in)


class Known:
    """Credentials for one host."""

    def __init__(self, credential: Credential | None) -> None:
        self.credential = credential
        self.asked: list[tuple[str, str]] = []

    async def get(self, host: str, reference: str) -> Credential | None:
        self.asked.append((host, reference))
        return self.credential


def authenticator(
    server: Server, credentials: Known | None = None, clock: Callable[[], float] = lambda: 0.0
) -> Authenticator:
    return Authenticator(credentials, "r.example/x/y:1", server.ask, clock)


async def test_nothing_is_sent_before_a_host_asks() -> None:
    server, known = Server(), Known(Credential("u", "p"))
    assert await authenticator(server, known).header(ENDPOINT, [SCOPE]) == ""
    assert (server.asked, known.asked) == ([], [])


async def test_a_token_is_fetched_once_for_all_who_wait() -> None:
    server = Server()
    auth = authenticator(server)
    assert await auth.challenged(ENDPOINT, [BEARER], [SCOPE], "")
    headers = await asyncio.gather(*(auth.header(ENDPOINT, [SCOPE]) for _ in range(5)))
    assert headers == ["Bearer T1"] * 5
    assert await auth.header(ENDPOINT, ["repository:other:pull"]) == "Bearer T2", "another scope"


async def test_a_token_ends_before_its_time() -> None:
    now = 0.0
    server = Server(expires_in=100)
    auth = authenticator(server, clock=lambda: now)
    await auth.challenged(ENDPOINT, [BEARER], [SCOPE], "")
    assert await auth.header(ENDPOINT, [SCOPE]) == "Bearer T1"
    now = 89.0
    assert await auth.header(ENDPOINT, [SCOPE]) == "Bearer T1"
    now = 90.0
    assert await auth.header(ENDPOINT, [SCOPE]) == "Bearer T2"


async def test_a_refused_token_is_forgotten_and_a_newer_one_kept() -> None:
    server = Server()
    auth = authenticator(server)
    await auth.challenged(ENDPOINT, [BEARER], [SCOPE], "")
    old = await auth.header(ENDPOINT, [SCOPE])
    assert await auth.challenged(ENDPOINT, [BEARER], [SCOPE], old)
    new = await auth.header(ENDPOINT, [SCOPE])
    assert new == "Bearer T2"
    assert await auth.challenged(ENDPOINT, [BEARER], [SCOPE], old), "of a request that was on its way"
    assert await auth.header(ENDPOINT, [SCOPE]) == new


async def test_bearer_is_preferred_and_the_password_not_tried_twice() -> None:
    server, known = Server(), Known(Credential("u", "p"))
    auth = authenticator(server, known)
    both = [Challenge("basic", {}), BEARER]
    await auth.challenged(ENDPOINT, both, [SCOPE], "")
    assert (await auth.header(ENDPOINT, [SCOPE])).startswith("Bearer")
    other = Endpoint("https", "basic.example")
    assert await auth.challenged(other, both[:1], [SCOPE], "")
    header = await auth.header(other, [SCOPE])
    assert header == "Basic dTpw"
    assert not await auth.challenged(other, both[:1], [SCOPE], header)
    assert known.asked == [(HOST, "r.example/x/y:1"), ("basic.example", "r.example/x/y:1")]


async def test_without_a_password_basic_is_not_tried() -> None:
    assert not await authenticator(Server()).challenged(ENDPOINT, [Challenge("basic", {})], [SCOPE], "")


async def test_a_whole_header_is_sent_as_it_is() -> None:
    server = Server()
    auth = authenticator(server, Known(Credential(header="Bearer mine")))
    await auth.challenged(ENDPOINT, [BEARER], [SCOPE], "")
    assert await auth.header(ENDPOINT, [SCOPE]) == "Bearer mine"
    assert server.asked == []


async def test_a_foreign_scheme_is_named() -> None:
    with pytest.raises(UnauthenticatedError, match="negotiate"):
        await authenticator(Server()).challenged(ENDPOINT, [Challenge("negotiate", {})], [SCOPE], "")
