"""Content stores under either sharing policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.content.world import World, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """With the policy ``shared``."""
    async with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture
async def isolated(tmp_path: Path) -> AsyncIterator[World]:
    """With the policy ``isolated``."""
    async with open_world(tmp_path, shared=False) as opened:
        yield opened
