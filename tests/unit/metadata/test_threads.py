"""Work in threads, and callers that are cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from containerd_hybrid.metadata.threads import settled


async def test_the_result_and_the_error_are_the_works() -> None:
    assert await settled(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        await settled(lambda: 1 // 0)


async def test_a_cancelled_caller_waits_for_the_end_and_the_result_is_undone() -> None:
    begun, go_on = threading.Event(), threading.Event()
    undone: list[str] = []

    def work() -> str:
        begun.set()
        go_on.wait()
        return "result"

    task = asyncio.create_task(settled(work, undone.append))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):  # impatient callers cancel more than once
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["result"]


async def test_nothing_is_undone_when_the_work_failed() -> None:
    begun, go_on = threading.Event(), threading.Event()
    undone: list[object] = []

    def work() -> None:
        begun.set()
        go_on.wait()
        raise ValueError("too late")

    task = asyncio.create_task(settled(work, undone.append))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == []


async def test_an_undo_that_fails_does_not_hide_the_cancellation() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        go_on.wait()
        return 0

    task = asyncio.create_task(settled(work, lambda number: 1 // number))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
