"""A terminal with a program on it, and the hands and eyes of the person before it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, WaitedInVainError

_AGAIN_SECONDS = 0.1


class Terminal:
    """The test keeps the program's side open too: what was written before an end can still be read."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(columns, rows)
        self._before: list[Any] = termios.tcgetattr(self._slave)
        self._programs: list[subprocess.Popen[bytes]] = []
        self.seen = ""

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Run a program whose controlling terminal this is."""
        program = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=self._slave, stdout=self._slave, stderr=self._slave
        )
        self._programs.append(program)
        return program

    def resize(self, columns: int, rows: int) -> None:
        """Make it another size; the kernel tells the program."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def expect(self, text: str, again: Callable[[], object] | None = None) -> None:
        """Read until ``text`` comes, and forget all up to its end; ``again`` is called meanwhile.

        Raises:
            WaitedInVainError: it did not come.
        """
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while text not in self.seen:
            if time.monotonic() > give_up:
                raise WaitedInVainError(f"{text!r} did not come; the terminal shows {self.seen!r}")
            if select.select([self._master], [], [], _AGAIN_SECONDS)[0]:
                self.seen += os.read(self._master, 65536).decode(errors="replace")
            elif again is not None:
                again()
        self.seen = self.seen.partition(text)[2]

    def is_as_before(self) -> bool:
        """Whether its settings are what they were before any program."""
        return termios.tcgetattr(self._slave) == self._before

    def close(self) -> None:
        """End what still runs on it."""
        for program in self._programs:
            program.kill()
            program.wait(GIVE_UP_SECONDS)
        os.close(self._master)
        os.close(self._slave)


@contextmanager
def terminal(columns: int = 80, rows: int = 24) -> Iterator[Terminal]:
    """One for a block."""
    opened = Terminal(columns, rows)
    try:
        yield opened
    finally:
        opened.close()
