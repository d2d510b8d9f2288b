"""The guard finds what blocks the loop in code of the package, and blames nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

import containerd_hybrid
from containerd_hybrid.testing.blocking import BlockingGuard

pytestmark = pytest.mark.may_block


def as_ours(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as if it were written in a module of the package."""
    ours = str(Path(containerd_hybrid.__file__).parent / "content" / "local.py")

    def moved(code: CodeType) -> CodeType:
        constants = tuple(moved(c) if isinstance(c, CodeType) else c for c in code.co_consts)
        return code.replace(co_filename=ours, co_consts=constants)

    assert isinstance(function, FunctionType)
    function.__code__ = moved(function.__code__)
    return function


@as_ours
def read_file(path: Path) -> bytes:
    return path.read_bytes()


@as_ours
async def reads_on_the_loop(path: Path) -> bytes:
    return read_file(path)  # type: ignore[no-any-return]


@as_ours
async def reads_in_a_thread(path: Path) -> bytes:
    return await asyncio.to_thread(read_file, path)


@as_ours
async def sleeps() -> None:
    time.sleep(0)


@as_ours
async def syncs(descriptor: int) -> None:
    os.fsync(descriptor)


@as_ours
async def spins() -> None:
    started = time.thread_time()
    while time.thread_time() - started < 0.05:
        pass


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    return path


async def test_a_file_read_by_a_coroutine_of_ours_is_found(file: Path) -> None:
    with BlockingGuard().active() as guard:
        await reads_on_the_loop(file)
    assert [call.name for call in guard.found] == ["open"]
    with pytest.raises(AssertionError, match=str(file)) as caught:
        guard.check()
    assert "reads_on_the_loop" in str(caught.value)


async def test_a_callback_of_ours_counts_as_well(file: Path) -> None:
    with BlockingGuard().active() as guard:
        asyncio.get_running_loop().call_soon(read_file, file)
        await asyncio.sleep(0.01)
    assert [call.name for call in guard.found] == ["open"]


async def test_sleep_and_sync_are_found(file: Path) -> None:
    with file.open() as opened, BlockingGuard().active() as guard:
        await sleeps()
        await syncs(opened.fileno())
    assert [call.name for call in guard.found] == ["time.sleep", "os.fsync"]


async def test_threads_and_tests_may_block(file: Path) -> None:
    with BlockingGuard().active() as guard:
        await reads_in_a_thread(file)
        read_file(file)
        file.read_bytes()
    guard.check()


def test_without_a_loop_nothing_blocks_it(file: Path) -> None:
    with BlockingGuard().active() as guard:
        read_file(file)
    guard.check()


async def test_an_import_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "just_made.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    @as_ours
    async def imports() -> None:
        import just_made  # type: ignore[import-not-found] # noqa: F401

    with BlockingGuard().active() as guard:
        await imports()
    guard.check()


async def test_a_callback_that_computes_for_long_is_found_when_asked() -> None:
    with BlockingGuard(slow_seconds=0.03).active() as guard:
        await asyncio.create_task(spins())
    assert {call.name for call in guard.found} == {"slow callback"}
    with BlockingGuard().active() as guard:
        await asyncio.create_task(spins())
    guard.check()


async def test_nothing_is_watched_outside(file: Path) -> None:
    guard = BlockingGuard()
    with guard.active():
        pass
    await reads_on_the_loop(file)
    guard.check()
