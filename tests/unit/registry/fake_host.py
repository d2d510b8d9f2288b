"""A host that answers as a test says, and keeps what it was asked."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from containerd_hybrid.model import Reference
from containerd_hybrid.registry.api import RegistryOptions
from containerd_hybrid.registry.client import HttpRegistryClient
from containerd_hybrid.registry.repository import TargetRepository
from containerd_hybrid.registry.retry import RetryPolicy
from containerd_hybrid.registry.transport import TransportSettings
from containerd_hybrid.registry.upload import UploadSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeHost:
    """``answer`` adds an answer for a method and path; the last one is given again and again."""

    address: str = ""
    asked: list[Asked] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    answers: dict[tuple[str, str], list[web.Response | Handler]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def answer(
        self,
        method: str,
        path: str,
        status: int = 200,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        handler: Handler | None = None,
    ) -> None:
        async def respond(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=body, headers=headers)

        self.answers[method, path].append(handler or respond)

    def of(self, method: str, path: str = "") -> list[Asked]:
        return [asked for asked in self.asked if asked.method == method and path in asked.path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append(
            Asked(request.method, request.path, dict(request.query), dict(request.headers), body)
        )
        queue = self.answers.get((request.method, request.path), [])
        if not queue:
            return web.Response(status=404)
        handler = queue.pop(0) if len(queue) > 1 else queue[0]
        assert callable(handler)
        return await handler(request)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@asynccontextmanager
async def fake_host() -> AsyncIterator[FakeHost]:
    host = FakeHost()
    application = web.Application(client_max_size=1 << 28)
    application.router.add_route("*", "/{path:.*}", host.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    host.address = f"127.0.0.1:{listening.getsockname()[1]}"
    await web.SockSite(runner, listening).start()
    try:
        yield host
    finally:
        await runner.cleanup()


@asynccontextmanager
async def registry_client(host: FakeHost, **settings: object) -> AsyncIterator[HttpRegistryClient]:
    transport = settings.pop("transport", None)
    uploads = settings.pop("uploads", None)
    assert transport is None or isinstance(transport, TransportSettings)
    assert uploads is None or isinstance(uploads, UploadSettings)
    client = HttpRegistryClient(
        transport=transport, uploads=uploads, retry=RetryPolicy(sleep=host.sleep, jitter=lambda: 1.0)
    )
    try:
        yield client
    finally:
        await client.close()


def repository(
    client: HttpRegistryClient, host: FakeHost, options: RegistryOptions | None = None
) -> TargetRepository:
    """``team/app`` of the host, over plain HTTP."""
    return client.repository(reference(host), options or RegistryOptions(default_scheme="http"))


def reference(host: FakeHost, end: str = ":1") -> Reference:
    return Reference.parse(f"{host.address}/team/app{end}")
