from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.registry.fake_host import FakeHost, fake_host, registry_client

from containerd_hybrid.registry import fetcher
from containerd_hybrid.registry.client import HttpRegistryClient


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
    """Who receives bodies, however small they are."""
    monkeypatch.setattr(fetcher, "_LARGE", 0 if request.param == "rust" else 1 << 60)
    return str(request.param)
