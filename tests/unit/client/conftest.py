from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.client.daemon import TestDaemon, open_test_daemon


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[TestDaemon]:
    if os.geteuid() != 0:
        pytest.skip("unpacking needs root")
    async with open_test_daemon(tmp_path / "daemon") as opened:
        yield opened
