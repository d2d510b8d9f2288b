"""The terminal that a person sits at, while a container has it."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Every key goes through as it is, until the block ends, however it ends."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        # A terminal that is gone has nothing to be put right.
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


def window(descriptor: int) -> tuple[int, int] | None:
    """Columns and rows; None for what is no terminal or does not know them."""
    try:
        answer = fcntl.ioctl(descriptor, termios.TIOCGWINSZ, b"\0" * 8)
    except OSError:
        return None
    rows, columns, _, _ = struct.unpack("HHHH", answer)
    return (columns, rows) if rows and columns else None


def is_terminal(descriptor: int) -> bool:
    """Whether it is open and a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
