"""The small HTTP server: what it answers, and what it does with those who mean it ill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.unit.metrics.kit import exchange, serving

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.metrics.http import MAX_BODY, MAX_HEAD, HttpServer, Request, Response

Address = tuple[str, int]


class Pages:
    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.open = asyncio.Event()
        self.waiting = asyncio.Event()

    async def page(self, request: Request) -> Response:
        self.asked.append(request)
        return Response(b"the page")

    async def put(self, request: Request) -> Response:
        self.asked.append(request)
        raise InvalidArgumentError("not that")

    async def missing(self, _: Request) -> Response:
        raise NotFoundError("it is gone")

    async def broken(self, _: Request) -> Response:
        raise ZeroDivisionError("a secret")

    async def slow(self, _: Request) -> Response:
        self.waiting.set()
        await self.open.wait()
        return Response(b"at last")

    def server(self, **options: float) -> HttpServer:
        routes = {
            "/page": {"GET": self.page, "PUT": self.put},
            "/missing": {"GET": self.missing},
            "/broken": {"GET": self.broken},
            "/slow": {"GET": self.slow},
        }
        return HttpServer(routes, **options)  # type: ignore[arg-type]


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
async def address(pages: Pages) -> AsyncIterator[Address]:
    server = pages.server(read_seconds=600, connections=3)
    yield await serving(server)
    await server.close()


@pytest.fixture
async def hasty(pages: Pages) -> AsyncIterator[Address]:
    """One that waits no longer than this."""
    server = pages.server(read_seconds=0.2)
    yield await serving(server)
    await server.close()


def status(answer: bytes) -> int:
    return int(answer.split()[1])


async def test_a_page(address: Address, pages: Pages) -> None:
    answer = await exchange(address, b"GET /page?name=x HTTP/1.1\r\nHost: h\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 8" in head
    assert body == b"the page"
    assert pages.asked == [Request("GET", "/page")]


async def test_head_is_get_without_the_page(address: Address) -> None:
    answer = await exchange(address, b"HEAD /page HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 8\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_body_comes_whole(address: Address, pages: Pages) -> None:
    answer = await exchange(address, b"PUT /page HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello, and more")
    assert pages.asked == [Request("PUT", "/page", b"hello")]
    assert status(answer) == 400
    assert b"not that" in answer


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        (b"GET /nothing HTTP/1.1", 404),
        (b"POST /page HTTP/1.1", 405),
        (b"GET /missing HTTP/1.1", 500),
        (b"GET /broken HTTP/1.1", 500),
        (b"GET page HTTP/1.1", 400),
        (b"GET /page HTTP/2.0", 400),
        (b"GET /page", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"get /page HTTP/1.1", 400),
        (b"GET /pa\x00ge HTTP/1.1", 400),
        (b"GET /page HTTP/1.1\r\nno colon", 400),
        (b"GET /page HTTP/1.1\r\n Folded: x", 400),
        (b"PUT /page HTTP/1.1\r\nContent-Length: -1", 400),
        (b"PUT /page HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        (b"PUT /page HTTP/1.1\r\nContent-Length: %d" % (MAX_BODY + 1), 413),
        (b"PUT /page HTTP/1.1\r\nContent-Length: 99999999999999999999", 400),
        (b"PUT /page HTTP/1.1\r\nTransfer-Encoding: chunked", 501),
        (b"GET /page HTTP/1.1\r\nX: " + b"x" * MAX_HEAD, 431),
    ],
)
async def test_what_is_not_answered(address: Address, request_line: bytes, expected: int) -> None:
    answer = await exchange(address, request_line + b"\r\n\r\n")
    assert status(answer) == expected
    assert b"a secret" not in answer


async def test_endless_headers_are_cut_off(address: Address) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /page HTTP/1.1\r\n" + b"X: y\r\n" * MAX_HEAD)
    assert status(await reader.read()) == 431
    writer.close()


async def test_who_does_not_come_to_the_point_is_sent_away(hasty: Address) -> None:
    assert status(await exchange(hasty, b"GET /page HTTP/1.1\r\n")) == 408
    assert status(await exchange(hasty, b"PUT /page HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel")) == 408


async def test_who_goes_away_is_not_answered(address: Address) -> None:
    assert await exchange(address, b"", end=True) == b""
    assert await exchange(address, b"GET /pa", end=True) == b""
    assert status(await exchange(address, b"GET /page HTTP/1.1\r\n\r\n")) == 200


async def test_connections_are_limited_and_come_back(address: Address, pages: Pages) -> None:
    slow = [asyncio.create_task(exchange(address, b"GET /slow HTTP/1.1\r\n\r\n")) for _ in range(3)]
    await pages.waiting.wait()
    for _ in range(200):
        try:
            answer = await exchange(address, b"GET /page HTTP/1.1\r\n\r\n")
        except ConnectionError:
            answer = b""
        if not answer:
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("a fourth connection was always answered")
    pages.open.set()
    assert [status(answer) for answer in await asyncio.gather(*slow)] == [200] * 3
    assert status(await exchange(address, b"GET /page HTTP/1.1\r\n\r\n")) == 200


async def test_drain_lets_an_answer_end_and_close_does_not(pages: Pages) -> None:
    server = pages.server()
    address = await serving(server)
    first = asyncio.create_task(exchange(address, b"GET /slow HTTP/1.1\r\n\r\n"))
    await pages.waiting.wait()
    draining = asyncio.create_task(server.drain(30))
    await asyncio.sleep(0)
    with pytest.raises(OSError):  # noqa: PT011 (refused or reset)
        await exchange(address, b"GET /page HTTP/1.1\r\n\r\n")
    pages.open.set()
    assert status(await first) == 200
    await draining

    pages.open.clear()
    pages.waiting.clear()
    server = pages.server()
    address = await serving(server)
    second = asyncio.create_task(exchange(address, b"GET /slow HTTP/1.1\r\n\r\n"))
    await pages.waiting.wait()
    await server.close()
    assert await asyncio.gather(second, return_exceptions=True) != [b"at last"]
    assert not server._running
