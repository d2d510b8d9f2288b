"""Work on many things at a start: side by side, each within its time, what fails reported."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from containerd_hybrid.errors import HybridError

T = TypeVar("T")

PARALLEL = 16


async def each(
    items: Iterable[T],
    work: Callable[[T], Awaitable[None]],
    name: Callable[[T], str],
    *,
    limit: float | None,
    parallel: int = PARALLEL,
) -> dict[str, str]:
    """Do ``work`` on every item, ``parallel`` at once; why it failed, by the names of those where it did.

    ``limit`` is in seconds for one item; None waits for ever.
    """
    failed: dict[str, str] = {}
    places = asyncio.Semaphore(parallel)

    async def one(item: T) -> None:
        async with places:
            try:
                async with asyncio.timeout(limit):
                    await work(item)
            except TimeoutError:
                failed[name(item)] = f"not done within {limit} seconds"
            except (HybridError, OSError) as error:
                failed[name(item)] = str(error)

    await asyncio.gather(*(one(item) for item in items))
    return failed
