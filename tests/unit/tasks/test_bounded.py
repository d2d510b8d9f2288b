"""Work at a start: bounded in number and in time."""

from __future__ import annotations

import asyncio

from containerd_hybrid.errors import UnavailableError
from containerd_hybrid.tasks.bounded import each


async def test_so_many_at_once_and_no_more() -> None:
    working, most, done = 0, 0, []

    async def work(number: int) -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        for _ in range(10):
            await asyncio.sleep(0)
        working -= 1
        done.append(number)

    assert await each(range(20), work, str, limit=None, parallel=4) == {}
    assert (most, sorted(done)) == (4, list(range(20)))


async def test_what_hangs_and_what_fails_is_named_and_the_rest_is_done() -> None:
    done = []

    async def work(name: str) -> None:
        if name == "hangs":
            await asyncio.Event().wait()
        if name == "refuses":
            raise UnavailableError("nobody answers")
        if name == "breaks":
            raise OSError(5, "Input/output error")
        done.append(name)

    failed = await each(["hangs", "a", "refuses", "breaks", "b"], work, str, limit=0.01, parallel=1)
    assert failed == {
        "hangs": "not done within 0.01 seconds",
        "refuses": "nobody answers",
        "breaks": "[Errno 5] Input/output error",
    }
    assert done == ["a", "b"]
