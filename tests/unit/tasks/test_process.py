"""Short programs: what they say, how they end, and that none outlives who asked for it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from containerd_hybrid.errors import DeadlineExceededError, NotFoundError
from containerd_hybrid.tasks.process import Finished, run_program

ROOT = Path("/")


async def sh(script: str, **options: object) -> Finished:
    return await run_program(["/bin/sh", "-c", script], cwd=ROOT, env={}, **options)  # type: ignore[arg-type]


async def test_streams_and_status() -> None:
    assert await sh("cat; echo err >&2; exit 3", stdin=b"in\0put") == Finished(3, b"in\0put", b"err\n")
    assert await sh("kill -9 $$") == Finished(-9, b"", b"")
    assert await sh("exit 0") == Finished(0, b"", b"")


async def test_more_than_a_pipe_holds_blocks_nobody() -> None:
    finished = await sh("cat; cat /dev/zero | head -c 300000 >&2", stdin=b"x" * 300_000)
    assert (len(finished.stdout), len(finished.stderr)) == (300_000, 300_000)


async def test_folder_and_environment(tmp_path: Path) -> None:
    finished = await run_program(["/bin/sh", "-c", "pwd; echo $A"], cwd=tmp_path, env={"A": "b"})
    assert finished.stdout.decode() == f"{tmp_path}\nb\n"


def test_reasons() -> None:
    assert Finished(1, b"", b"boom\n").reason == "boom: exit status 1"
    assert Finished(1, b"out", b"").reason == "out: exit status 1"
    assert Finished(-9, b"", b"").reason == "signal 9"


async def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="/nope/program"):
        await run_program(["/nope/program"], cwd=ROOT, env={})
    with pytest.raises(NotFoundError, match="nowhere"):
        await run_program(["/bin/true"], cwd=tmp_path / "nowhere", env={})


async def test_a_daemon_that_keeps_the_streams_does_not_keep_us(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    finished = await sh(f"sleep 600 & echo $! > {pid_file}; echo done")
    assert finished.stdout == b"done\n"
    os.kill(int(pid_file.read_text()), 9)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def dead(pid: int) -> None:
    while alive(pid):
        await asyncio.sleep(0.005)


async def test_out_of_time_everything_of_it_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    for seconds in (0.3, 3, 30):
        with pytest.raises(DeadlineExceededError, match=rf"/bin/sh did not end within {seconds} seconds"):
            await sh(f"sleep 600 & echo $! $$ > {pids}; wait", timeout=seconds)
        if pids.exists() and pids.read_text():
            break  # or else it was not even started by then
    assert len(pids.read_text().split()) == 2
    for pid in pids.read_text().split():
        await dead(int(pid))


async def test_cancelled_everything_of_it_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    running = asyncio.ensure_future(sh(f"sleep 600 & echo $! $$ > {pids}; wait"))
    while not pids.exists() or not pids.read_text():
        await asyncio.sleep(0.005)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for pid in pids.read_text().split():
        await dead(int(pid))


async def test_cancelled_while_it_is_being_started_nothing_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    running = asyncio.ensure_future(sh(f"echo $$ > {mark}; sleep 600"))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    if mark.exists() and mark.read_text():
        await dead(int(mark.read_text()))


async def test_descriptors_are_not_kept() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        await sh("true")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
