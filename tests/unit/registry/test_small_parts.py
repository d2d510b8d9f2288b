"""Challenges, links, proxies, back-off, and errors of registries."""

from __future__ import annotations

import datetime

import pytest

from containerd_hybrid.errors import InvalidConfigError
from containerd_hybrid.registry.auth.challenge import Challenge, parse_challenges
from containerd_hybrid.registry.failures import registry_errors
from containerd_hybrid.registry.http import Request, origin, shown_url
from containerd_hybrid.registry.links import next_link
from containerd_hybrid.registry.proxies import proxy_for
from containerd_hybrid.registry.retry import RetryPolicy, parse_retry_after


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            ['Bearer realm="https://a.example/token",service="r",scope="repository:x/y:pull,push"'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://a.example/token",
                        "service": "r",
                        "scope": "repository:x/y:pull,push",
                    },
                )
            ],
        ),
        (['Basic realm="with \\"quotes\\""'], [("basic", {"realm": 'with "quotes"'})]),
        (
            ['Basic realm="a", Bearer realm=b, service=c'],
            [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "service": "c"})],
        ),
        (["Negotiate", "BEARER Realm = x"], [("negotiate", {}), ("bearer", {"realm": "x"})]),
        ([""], []),
        (['="'], []),
    ],
)
def test_challenges(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(values) == [Challenge(scheme, parameters) for scheme, parameters in expected]


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (['</v2/_catalog?n=2&last=b>; rel="next"'], "/v2/_catalog?n=2&last=b"),
        (["<a>; rel=prev, <b>; title=x; rel=next"], "b"),
        (['<a>; rel="first next"'], "a"),
        (["<a>; rel=last"], ""),
        ([], ""),
        (["nonsense"], ""),
    ],
)
def test_the_next_page(values: list[str], target: str) -> None:
    assert next_link(values) == target


PROXIES = {"HTTPS_PROXY": "http://p.example:3128", "http_proxy": "q.example:80"}


@pytest.mark.parametrize(
    ("url", "excluded", "proxy"),
    [
        ("https://r.example/v2/", "", "http://p.example:3128"),
        ("http://r.example/v2/", "", "http://q.example:80"),
        ("https://localhost:5000/", "", None),
        ("https://127.0.0.1/", "", None),
        ("https://[::1]:5000/", "", None),
        ("https://r.example/", "*", None),
        ("https://a.r.example/", "r.example", None),
        ("https://ar.example/", "r.example", "http://p.example:3128"),
        ("https://r.example/", ".r.example", "http://p.example:3128"),
        ("https://r.example:5000/", "r.example:443", "http://p.example:3128"),
        ("https://r.example/", "other, r.example:443", None),
        ("https://10.1.2.3/", "10.0.0.0/8", None),
        ("https://11.1.2.3/", "10.0.0.0/8", "http://p.example:3128"),
        ("https://[fd00::1]/", "fd00::/8", None),
    ],
)
def test_proxies_by_the_environment(url: str, excluded: str, proxy: str | None) -> None:
    assert proxy_for(url, {**PROXIES, "NO_PROXY": excluded}) == proxy


def test_a_proxy_that_is_none_is_named_without_its_password() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        proxy_for("https://r.example/", {"HTTPS_PROXY": "socks5://user:hidden@p.example"})
    assert "HTTPS_PROXY" in caught.value.message
    assert "hidden" not in caught.value.message


def test_a_clients_header_is_no_proxy() -> None:
    assert (
        proxy_for("http://r.example/", {"HTTP_PROXY": "http://evil.example", "REQUEST_METHOD": "GET"}) is None
    )


def test_waiting_grows_has_jitter_and_an_end() -> None:
    policy = RetryPolicy(attempts=5, first_seconds=1, most_seconds=4, jitter=lambda: 1.0)
    assert [policy.delay(n) for n in range(1, 6)] == [1, 2, 4, 4, None]
    low = RetryPolicy(first_seconds=1, jitter=lambda: 0.0)
    assert low.delay(1) == 0.5


def test_a_hosts_wish_is_followed_as_long_as_patience_goes() -> None:
    policy = RetryPolicy(first_seconds=1, patience=30, jitter=lambda: 1.0)
    assert policy.delay(1, "7") == 7
    assert policy.delay(1, "31") is None
    assert policy.delay(1, "whenever") == 1


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert parse_retry_after(" 12 ") == 12
    assert parse_retry_after("Thu, 01 Jan 2026 00:00:09 GMT", now) == 9
    assert parse_retry_after("Wed, 31 Dec 2025 00:00:00 GMT", now) == 0
    assert parse_retry_after("-1") is None
    assert parse_retry_after("²") is None


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b'{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}', ["DENIED: no", "X"]),
        (b'{"errors":[{"code":1,"message":"a\\u001b[31m"}]}', ["a [31m"]),
        (b'{"errors":"x"}', []),
        (b"[]", []),
        (b"<html>", []),
        (b'{"errors":null}', []),
    ],
)
def test_errors_of_a_registry(body: bytes, lines: list[str]) -> None:
    assert registry_errors(body) == lines


def test_a_long_error_is_cut() -> None:
    (line,) = registry_errors(b'{"errors":[{"message":"' + b"x" * 5000 + b'"}]}')
    assert len(line) == 512


def test_urls_are_shown_without_what_may_be_secret() -> None:
    assert shown_url("https://user:hidden@h.example:1/a?sig=hidden#x") == "https://h.example:1/a"
    request = Request("GET", "https://h.example/a?sig=hidden", {"Authorization": "Bearer hidden"})
    assert "hidden" not in request.shown
    assert "Bearer" not in repr(request)


def test_headers_have_one_name_in_any_case_and_all_of_their_values() -> None:
    request = Request("GET", "https://h.example", {"Accept": "a", "x-one": "1"})
    found = request.with_headers([("X-One", "2"), ("X-Two", "3"), ("x-two", "4")])
    assert found.headers == {"Accept": "a", "X-One": "2", "x-two": "3, 4"}


def test_an_origin_has_the_default_port() -> None:
    assert origin("https://h.example/a") == origin("https://H.example:443/b")
    assert origin("https://h.example") != origin("http://h.example:443")
