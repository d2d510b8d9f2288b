"""Work in threads that is always waited for: a thread that mounts cannot be stopped half-way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from containerd_hybrid.errors import HybridError

_log = logging.getLogger(__name__)

T = TypeVar("T")


async def to_the_end(work: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Run in a thread and wait for it even when cancelled; ``undo`` what it made in that case."""
    done = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait({done})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return done.result()
    if done.exception() is None and undo is not None:
        made = done.result()
        try:
            await to_the_end(lambda: undo(made))
        except HybridError:
            _log.warning("a mount that nobody waits for any more stays: %s", made, exc_info=True)
    raise cancelled
