"""Blocking work off the event loop that a cancelled caller does not leave behind running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


async def settled(work: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Run ``work`` in a thread and return its result.

    A caller that is cancelled meanwhile waits for the thread's end before ``CancelledError`` arrives,
    so that nothing it cleans up is still in use; ``undo`` then gets the result that nobody will see.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if future.exception() is None and undo is not None:
            result = future.result()
            try:
                await asyncio.shield(loop.run_in_executor(None, lambda: undo(result)))
            except Exception:
                log.exception("undoing what a cancelled caller began failed")
        raise
