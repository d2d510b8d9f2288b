"""An open database and the stores over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.metadata.support import World

from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.model import Scope


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with SqliteDatabase(tmp_path / "meta.db", no_sync=True) as opened:
        yield opened


@pytest.fixture
def world(database: SqliteDatabase) -> World:
    return World.over(database)


@pytest.fixture
def scope() -> Scope:
    return Scope("default")
