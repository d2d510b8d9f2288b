"""Every test here runs with every driver, as root, and has to leave no mount."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.snapshots.world import DRIVERS, World, open_world


@pytest.fixture(params=sorted(DRIVERS))
def driver_name(request: pytest.FixtureRequest) -> str:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    name: str = request.param
    return name


@pytest.fixture
async def world(driver_name: str, tmp_path: Path, leak_check: object) -> AsyncIterator[World]:
    async with open_world(driver_name, tmp_path) as opened:
        yield opened
