"""The same for several names: one that fails does not keep the others from being done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from containerd_hybrid.cli.failures import say
from containerd_hybrid.errors import HybridError


async def for_each(names: Sequence[str], work: Callable[[str], Awaitable[str]]) -> int:
    """Print what each came to; 1 when one failed."""
    code = 0
    for name in names:
        try:
            print(await work(name))
        except HybridError as error:
            say(error.message, error)
            code = 1
    return code
