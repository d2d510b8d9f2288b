"""What was read lately, as long as nothing is written.

A look-up takes some five microseconds, to hand it to a thread and back ten times that, and on a busy
machine whatever the scheduler takes to let the thread run. So what was read stays until the next
transaction begins, whatever it writes: nothing has to know which rows it touches.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

_MOST = 1024


class Recall:
    """Results by key. The writer's thread says when it writes; all else is for those who read.

    The state has a number: even while nothing is written, odd while a transaction may be about to be
    durable. A result counts only under the even number that was there before its read began, so none is
    older than what the last acknowledged write left.
    """

    def __init__(self) -> None:
        self._state = 0
        self._kept: dict[Hashable, Any] = {}
        self._kept_in = 0

    def begin_write(self) -> None:
        """From here on nothing is known."""
        self._state += 1

    def end_write(self) -> None:
        """What is read from here on may be kept; committed or not, it is what will be there."""
        self._state += 1

    @property
    def state(self) -> int:
        """To be asked before a read, and given with its result."""
        return self._state

    def get(self, key: Hashable) -> Any:
        """What is known now; None for nothing."""
        return self._kept.get(key) if self._kept_in == self._state else None

    def keep(self, key: Hashable, result: Any, state: int) -> None:
        """Note what was read, unless something was written since ``state``."""
        if state % 2 or state != self._state:
            return
        if self._kept_in != state:
            # A dictionary of its own: another thread's event loop may be looking into the old one.
            self._kept, self._kept_in = {}, state
        elif len(self._kept) >= _MOST:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[key] = result
