"""``/v1/metrics``: its address, and collectors that fail."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

import pytest
from tests.unit.metrics.kit import exchange, listener, parsed

from containerd_hybrid.errors import HybridError, InvalidConfigError
from containerd_hybrid.metrics.api import Family, Sample
from containerd_hybrid.metrics.server import MetricsServer, parse_address


class Good:
    async def collect(self) -> Sequence[Family]:
        return [Family("good", "", "gauge", [Sample(1)])]


class Bad:
    async def collect(self) -> Sequence[Family]:
        raise RuntimeError("no figures today")


def free_port() -> int:
    with listener() as own:
        port: int = own.getsockname()[1]
        return port


def has_ipv6() -> bool:
    """Python may know of it where this machine has no address of it."""
    if not socket.has_dualstack_ipv6():
        return False
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


async def test_one_collector_that_fails_does_not_take_the_others_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    server = MetricsServer(f"127.0.0.1:{port}", [Bad(), Good()])
    await server.start()
    try:
        answer = await exchange(("127.0.0.1", port), b"GET /v1/metrics HTTP/1.1\r\n\r\n")
    finally:
        await server.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: text/plain; version=0.0.4" in head
    assert parsed(body.decode()) == {("good", frozenset()): 1.0}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.message for record in errors if record.name.startswith("containerd_hybrid")] == [
        "figures of Bad are missing"
    ]


async def test_an_address_that_is_taken_is_named() -> None:
    with listener() as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(HybridError, match=f"listen for metrics on {address}"):
            await MetricsServer(address, []).start()


async def test_without_a_host_every_address_of_the_machine_is_served() -> None:
    port = free_port()
    server = MetricsServer(f":{port}", [Good()])
    await server.start()
    try:
        hosts = ["127.0.0.1", *(["::1"] if has_ipv6() else [])]
        for host in hosts:
            assert b"good 1\n" in await exchange((host, port), b"GET /v1/metrics HTTP/1.1\r\n\r\n")
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1338", ("127.0.0.1", 1338)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:1338", ("::1", 1338)),
        (":1338", ("", 1338)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize("address", ["127.0.0.1", "1338", "::1:1338", "h:", "h:x", "h:65536", "h:-1", "h:٣"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidConfigError, match="must be HOST:PORT"):
        parse_address(address)
