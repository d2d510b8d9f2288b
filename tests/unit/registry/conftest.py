from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.registry.fake_host import FakeHost, fake_host, registry_client

from containerd_hybrid.registry.client import HttpRegistryClient
from containerd_hybrid.registry.native import NativeTransport


@pytest.fixture
async def host() -> AsyncIterator[FakeHost]:
    async with fake_host() as opened:
        yield opened


@pytest.fixture
async def client(host: FakeHost) -> AsyncIterator[HttpRegistryClient]:
    async with registry_client(host) as opened:
        yield opened


@pytest.fixture(params=["python", "rust"])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose connections are used; Rust's are where they can be."""

    async def left_to_the_other(*_: object, **__: object) -> None:
        return None

    if request.param == "python":
        monkeypatch.setattr(NativeTransport, "open", left_to_the_other)
    return str(request.param)
