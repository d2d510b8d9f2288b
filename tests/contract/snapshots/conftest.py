"""Every test here runs with every driver, as root, and has to leave no mount."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.snapshots.world import DRIVERS, World, open_world

# What a driver does with names and records is seen by all; this is one of them in another way of writing.
_FILES_ONLY = {"erofs-block": {"test_file_systems", "test_rebase", "test_idmapped"}}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "driver_name" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        names = [name for name in sorted(DRIVERS) if module in _FILES_ONLY.get(name, {module})]
        metafunc.parametrize("driver_name", names, indirect=True)


@pytest.fixture
def driver_name(request: pytest.FixtureRequest) -> str:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    name: str = request.param
    return name


@pytest.fixture
async def world(driver_name: str, tmp_path: Path, leak_check: object) -> AsyncIterator[World]:
    async with open_world(driver_name, tmp_path) as opened:
        yield opened
