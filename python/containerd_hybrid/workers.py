"""Work side by side, and long work in threads of its own: those of the loop are few, for what ends soon."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def in_own_thread(work: Callable[[], T], stop: Callable[[], object]) -> T:
    """Run ``work`` in a new thread; a caller that is cancelled calls ``stop`` and waits until it ended.

    The wait matters: the caller unmounts and closes what the thread still uses.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T has it
        else:
            future.set_exception(error)

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = work(), None
        except BaseException as error:
            outcome = None, error
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="worker", daemon=True).start()
    return await ended(future, stop)


async def ended(future: asyncio.Future[T], stop: Callable[[], object] | None = None) -> T:
    """Its result. Who is cancelled calls ``stop`` and waits for its end first.

    For a thread uses what the caller then lets go of.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({future})
        future.exception()  # nobody wants to know any more
        raise


async def together(work: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Run all of it; when one fails or the caller is cancelled, end the others, wait for them, and raise.

    Other than a TaskGroup it raises the first error itself and no group of them.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)
    failed = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    if failed:
        raise failed[0]
    if any(task.cancelled() for task in tasks):
        raise asyncio.CancelledError


async def in_turn(work: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Run one after the other; those behind one that fails are never begun."""
    waiting = list(work)
    try:
        while waiting:
            await waiting.pop(0)
    finally:
        for one in waiting:
            one.close()
