"""hyctl -it in a real terminal: echo, keys, resize, exit, and the terminal as it was before."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from tests.integration.client_worlds import World, world
from tests.integration.test_hyctl_commands import Hyctl, hyctl

pytestmark = pytest.mark.root
__all__ = ["hyctl", "world"]  # fixtures


class Terminal:
    """A terminal with a program on it, and the hands and eyes of a person."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.before: list[Any] = termios.tcgetattr(self.slave)
        self.seen = ""

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str) -> None:
        give_up = time.monotonic() + 120
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, give_up - time.monotonic()))
            assert ready, f"{text!r} did not come; the terminal shows {self.seen!r}"
            self.seen += os.read(self.master, 65536).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        for descriptor in (self.master, self.slave):
            with suppress(OSError):
                os.close(descriptor)


@contextmanager
def terminal(columns: int = 80, rows: int = 24) -> Iterator[Terminal]:
    opened = Terminal(columns, rows)
    try:
        yield opened
    finally:
        opened.close()


def linger(world: World) -> str:
    return "sleep 0.3;" if world.name == "containerd" else ""


def size_becomes(person: Terminal, columns: int, rows: int) -> None:
    """The size travels beside what is typed, so it may come a moment later."""
    person.type(f"until stty size | grep -q '^{rows} {columns}$'; do sleep 0.02; done; echo r''ight\r")
    person.expect("right\r\n")


def test_a_session(hyctl: Hyctl) -> None:
    with terminal(100, 30) as person:
        program = person.start([*hyctl.command, "run", "--rm", "-it", "busybox", "sh"])
        person.expect("# ")
        person.type("stty size\r")
        person.expect("stty size\r\n30 100\r\n")
        person.resize(120, 40)
        size_becomes(person, 120, 40)
        # Quotes, because the terminal shows what is typed too.
        person.type("sh -c 'echo be''gun; exec sleep 1000'\r")
        person.expect("begun\r\n")
        person.type("\x03")
        person.type("echo st''ill\r")
        person.expect("still\r\n")
        assert not person.is_as_before()
        person.type(f"{linger(hyctl.world)} exit 7\r")
        assert program.wait() == 7
        assert person.is_as_before()


def test_the_end_of_input_ends_a_shell(hyctl: Hyctl) -> None:
    with terminal() as person:
        program = person.start([*hyctl.command, "run", "--rm", "-it", "busybox", "sh"])
        person.expect("# ")
        person.type("\x04")
        assert program.wait() == 0
        assert person.is_as_before()


def test_the_terminal_is_put_right_whatever_happens(hyctl: Hyctl) -> None:
    for command, code in ((["nope"], 127), (["sh", "-c", "kill -9 $$; exit 5"], 5)):
        with terminal() as person:
            program = person.start([*hyctl.command, "run", "--rm", "-it", "busybox", *command])
            assert program.wait() == code
            assert person.is_as_before()
    with terminal() as person:
        program = person.start([*hyctl.command, "run", "--rm", "-it", "--name", "killed", "busybox", "sh"])
        person.expect("# ")
        for _ in range(3):
            program.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert program.wait() == 137
        assert person.is_as_before()


def test_output_alone_on_a_terminal(hyctl: Hyctl) -> None:
    with terminal(90, 20) as person:
        script = f"tty; stty size < /dev/tty; {linger(hyctl.world)} exit 3"
        program = person.start([*hyctl.command, "run", "--rm", "-t", "busybox", "sh", "-c", script])
        assert program.wait() == 3
        person.expect("/dev/pts/0")
        person.expect("20 90")
        assert person.is_as_before()


def test_exec_in_a_terminal(hyctl: Hyctl) -> None:
    hyctl("run", "-d", "--name", "host", "busybox", "sleep", "1000")
    if hyctl.world.address:
        with terminal(70, 15) as person:
            program = person.start([*hyctl.command, "exec", "-it", "host", "sh"])
            person.expect("# ")
            size_becomes(person, 70, 15)
            person.type("tty\r")
            person.expect("/dev/pts/")
            person.type(f"{linger(hyctl.world)} exit 4\r")
            assert program.wait() == 4
            assert person.is_as_before()
    hyctl("rm", "-f", "host")


def test_control_c_without_a_terminal_inside(hyctl: Hyctl) -> None:
    """The terminal sends the signal to hyctl, which sends it on."""
    with terminal() as person:
        script = "trap 'echo caught; exit 8' INT; echo ready; while true; do sleep 0.05; done"
        program = person.start([*hyctl.command, "run", "--rm", "busybox", "sh", "-c", script])
        person.expect("ready")
        person.type("\x03")
        assert program.wait() == 8
        person.expect("caught")
