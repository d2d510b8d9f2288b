"""Waiting for something to become true, and giving up at the same time everywhere.

A wait is for a condition that is only seen when the thing is really so, never for a time; the limit is
there so that a test which waits in vain says for what.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

GIVE_UP_SECONDS = 120.0
"""No wait for a helper process, a thread or a condition takes longer."""

_PAUSE_SECONDS = 0.02


class WaitedInVainError(AssertionError):
    """It did not become true; the message says what, and what was there instead."""


def until(what: Callable[[], T], told: object = None) -> T:
    """The first answer of ``what`` that is true. ``told`` is for the error; a function is called for it.

    Raises:
        WaitedInVainError: there was none.
    """
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while not (answer := what()):
        if time.monotonic() > give_up:
            raise _in_vain(what, told)
        time.sleep(_PAUSE_SECONDS)
    return answer


async def until_async(what: Callable[[], T | Awaitable[T]], told: object = None) -> T:
    """As :func:`until`, on an event loop; ``what`` may be a coroutine function."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while not (answer := await _result(what)):
        if time.monotonic() > give_up:
            raise _in_vain(what, told)
        await asyncio.sleep(_PAUSE_SECONDS)
    return answer


async def _result(what: Callable[[], T | Awaitable[T]]) -> T:
    answer = what()
    return await answer if inspect.isawaitable(answer) else answer


def _in_vain(what: Callable[[], object], told: object) -> WaitedInVainError:
    shown = told() if callable(told) else told
    return WaitedInVainError(f"{what} stayed false" if shown is None else f"waited in vain: {shown}")
