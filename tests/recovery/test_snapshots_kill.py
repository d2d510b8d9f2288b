"""A snapshotter's process is killed at any moment: every record has its folder, and the rest goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.contract.snapshots.world import DRIVERS, NS, World, open_world

from containerd_hybrid import _native
from containerd_hybrid.snapshots.api import Kind

pytestmark = pytest.mark.root

_PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.contract.snapshots.world import NS, open_world

def fill(world, mounts):
    with world.mounted(mounts) as root:
        for number in range(20):
            (root / str(number)).write_text("x" * 1000)

async def work(world, worker):
    sn = world.snapshotter
    for turn in range(1_000_000):
        key = f"{worker}-{turn}"
        mounts = await sn.prepare(NS, key)
        await asyncio.to_thread(fill, world, mounts)
        await sn.commit(NS, "c" + key, key)
        print("c" + key, flush=True)
        await sn.prepare(NS, "a" + key, "c" + key)
        await sn.view(NS, "v" + key, "c" + key)
        if turn % 2:
            await sn.remove(NS, "a" + key)

async def main():
    async with open_world(sys.argv[1], Path(sys.argv[2])) as world:
        await asyncio.gather(*(work(world, worker) for worker in range(3)))

asyncio.run(main())
"""


def _run_and_kill(driver: str, root: Path, milliseconds: int) -> set[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, driver, str(root)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(milliseconds / 1000)
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    # What a daemon does with its temporary mounts when it starts.
    for left in (root / "work").glob("mount-*"):
        _native.unmount_temporary(left)
    return {line.strip() for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")}


async def _check(world: World) -> None:
    """Everything that is recorded can be mounted, and a commit is whole."""
    async for info in world.snapshotter.walk(NS):
        if info.kind is Kind.COMMITTED:
            assert set(await world.view(info.name)) == {".", *map(str, range(20))}
            continue
        with world.mounted(await world.snapshotter.mounts(NS, info.name)) as root:
            if info.parent:
                assert len(list(root.iterdir())) == 20


_SLOW = {"blockfile", "erofs", "erofs-block"}


@pytest.mark.parametrize(
    ("driver", "milliseconds"),
    [
        (driver, pause)
        for driver in sorted(set(DRIVERS) - {"proxy"})  # whose folders are another daemon's
        for pause in ((0, 80) if driver in _SLOW else (0, 15, 80, 300))
    ],
)
async def test_records_have_folders_and_folders_records(
    driver: str, milliseconds: int, tmp_path: Path
) -> None:
    committed = _run_and_kill(driver, tmp_path, milliseconds)
    async with open_world(driver, tmp_path) as world:
        assert committed <= set(await world.names("kind==committed"))
        await _check(world)
        await world.snapshotter.cleanup()
        await _check(world)
        await world.snapshotter.close()
        recorded = {int(str(number)) for (number,) in await world.rows("SELECT id FROM snapshots")}
        assert set(world.driver.ids()) <= recorded
        await world.snapshotter.prepare(NS, "goes-on", min(committed))

        for info in [info async for info in world.snapshotter.walk(NS, ["kind!=committed"])]:
            await world.snapshotter.remove(NS, info.name)
        for name in await world.names():
            await world.snapshotter.remove(NS, name)
        await world.snapshotter.close()
        assert world.driver.ids() == []
