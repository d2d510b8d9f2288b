"""What the content store has acknowledged survives its process; nothing else is visible or stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.contract.content.world import open_world

from containerd_hybrid.model import Digest, Scope

_PROGRAM = """
import asyncio, sys
from pathlib import Path
from containerd_hybrid.model import Digest, Scope
from tests.contract.content.world import open_world

async def write(world, worker):
    for turn in range(1_000_000):
        data = f"{worker}-{turn} ".encode() * 500
        scope = Scope(f"ns{turn % 2}")
        ingest = await world.content.open_ingest(scope, f"{worker}-{turn}", len(data), Digest.of(data))
        await ingest.write(data)
        await ingest.commit(len(data), Digest.of(data), {"containerd.io/gc.root": "yes"})
        print("+", scope.namespace, Digest.of(data), flush=True)
        if turn % 3 == 0:
            print("?", scope.namespace, Digest.of(data), flush=True)
            await world.content.delete(scope, Digest.of(data))
            print("-", scope.namespace, Digest.of(data), flush=True)

async def main():
    async with open_world(Path(sys.argv[1])) as world:
        await asyncio.gather(*(write(world, worker) for worker in range(4)))

asyncio.run(main())
"""


def _run_and_kill(root: Path, milliseconds: int) -> list[list[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(root)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(milliseconds / 1000)
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    # The last line may have been cut off by the kill.
    return [line.split() for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("milliseconds", [0, 10, 60, 250])
async def test_acknowledged_blobs_survive_and_strays_go(tmp_path: Path, milliseconds: int) -> None:
    log = _run_and_kill(tmp_path, milliseconds)
    committed = {(namespace, text) for sign, namespace, text in log if sign == "+"}
    deleting = {(namespace, text) for sign, namespace, text in log if sign == "?"}
    deleted = {(namespace, text) for sign, namespace, text in log if sign == "-"}
    assert committed

    async with open_world(tmp_path) as world:
        found = set()
        for namespace in ("ns0", "ns1"):
            async for info in world.content.walk(Scope(namespace)):
                found.add((namespace, str(info.digest)))
                world.blobs.verify(info.digest)
        assert committed - deleting <= found
        assert not deleted & found

        await world.collector.collect()
        assert {str(blob.digest) for blob in world.blobs.walk()} == {text for _, text in found}
        kept = {ref for (ref,) in await world.rows("SELECT ref FROM ingests")}
        assert len(list(world.blobs.ingest_keys())) <= len(kept) <= 4

        # What was under way is taken up again.
        for ref in kept:
            worker, turn = str(ref).split("-")
            data = f"{worker}-{turn} ".encode() * 500
            scope = Scope(f"ns{int(turn) % 2}")
            ingest = await world.content.open_ingest(scope, str(ref), len(data), Digest.of(data))
            await ingest.write(data[ingest.status.offset :])
            assert (await ingest.commit(len(data), Digest.of(data))).size == len(data)
