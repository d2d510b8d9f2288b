"""Every test here runs with every driver, as root, and has to leave no mount."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract.snapshots.drivers import EXTERNAL
from tests.contract.snapshots.world import DRIVERS, World, open_world

from containerd_hybrid.testing.daemon import DaemonProcess

# Names and records are the metadata store's, whatever the driver: a few drivers are enough for them. And what
# another daemon's overlayfs makes of files has been seen.
_FILES = {"test_file_systems", "test_leftovers", "test_rebase", "test_idmapped"}
_ONLY = {
    "blockfile": _FILES,
    "btrfs": _FILES,
    "erofs-block": _FILES - {"test_leftovers"},
    "proxy": {"test_snapshotter", "test_leftovers", "test_rebase"},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "driver_name" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        names = [name for name in sorted(DRIVERS) if module in _ONLY.get(name, {module})]
        metafunc.parametrize("driver_name", names, indirect=True)


@pytest.fixture
def driver_name(request: pytest.FixtureRequest) -> str:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    name: str = request.param
    if name == "proxy":
        request.getfixturevalue("external_snapshotter")
    return name


@pytest.fixture(scope="session")
def external_snapshotter() -> Iterator[None]:
    """A daemon whose snapshotter overlayfs is somebody else's external one. It collects as it likes."""
    with tempfile.TemporaryDirectory(prefix="ch-", dir="/tmp") as folder:  # a socket's path is short
        process = DaemonProcess(Path(folder))
        process.start()
        os.environ[EXTERNAL] = str(process.address)
        try:
            yield
        finally:
            del os.environ[EXTERNAL]
            process.stop()
            process.cleanup()


@pytest.fixture
async def world(driver_name: str, tmp_path: Path, leak_check: object) -> AsyncIterator[World]:
    async with open_world(driver_name, tmp_path) as opened:
        yield opened
