from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.images.world import ImageWorld, open_image_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ImageWorld]:
    async with open_image_world(tmp_path / "stores") as opened:
        yield opened
