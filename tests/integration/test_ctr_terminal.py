"""``ctr run -t`` in a real terminal: echo, Ctrl-C, resize, exit."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from containerd_hybrid.testing.ctr import Ctr

pytestmark = pytest.mark.root
BUSYBOX = "docker.io/library/busybox:latest"


class Terminal:
    """A program on a terminal of ours."""

    def __init__(self, command: list[str]) -> None:
        self.master, slave = pty.openpty()
        self.resize(80, 24)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=_control
        )
        os.close(slave)
        self.seen = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str) -> None:
        """Read until ``text`` appears in what was not looked at yet."""
        deadline = time.monotonic() + 120
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} did not come; the terminal shows {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            except OSError as error:
                raise AssertionError(f"the program ended; the terminal shows {self.seen!r}") from error
        self.seen = self.seen.partition(text)[2]


def _control() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def shell(ctr: Ctr, id: str) -> Iterator[Terminal]:
    terminal = Terminal(ctr.command("run", "-t", "--rm", BUSYBOX, id, "sh"))
    try:
        terminal.expect("# ")
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


def test_what_is_typed_is_echoed_by_the_terminal_and_read_by_the_program(ctr: Ctr) -> None:
    terminal = Terminal(ctr.command("run", "-t", "--rm", BUSYBOX, "t", "sh", "-c", "echo ready; cat"))
    try:
        terminal.expect("ready")
        terminal.type("twice\n")
        terminal.expect("twice\r")
        terminal.expect("twice\r")
        terminal.type("\x04")
        assert terminal.process.wait() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


def test_a_shell_runs_what_is_typed(ctr: Ctr) -> None:
    with shell(ctr, "t") as terminal:
        terminal.type("echo $((40 + 2))\n")
        terminal.expect("\n42")
        terminal.type("test -t 0 && test -t 1 && echo a terminal\n")
        terminal.expect("\na terminal")
        terminal.type("exit 6\n")
        assert terminal.process.wait() == 6


def test_ctrl_c_interrupts_what_runs_and_not_the_shell(ctr: Ctr) -> None:
    with shell(ctr, "t") as terminal:
        terminal.type("echo begin; sleep 1000\n")
        terminal.expect("\nbegin")
        time.sleep(0.3)
        terminal.type("\x03")
        terminal.expect("# ")
        terminal.type("echo status $?\n")
        terminal.expect("\nstatus 130")
        terminal.type("exit\n")
        terminal.process.wait()


def test_a_resize_reaches_the_container(ctr: Ctr) -> None:
    with shell(ctr, "t") as terminal:
        terminal.resize(123, 45)
        terminal.type("until stty size | grep -q '45 123'; do sleep 0.05; done; echo got it\n")
        # ctr hears of a resize only once it listens, some time after the shell's first prompt.
        stop = threading.Event()

        def repeat() -> None:
            while not stop.wait(0.1):
                terminal.process.send_signal(signal.SIGWINCH)

        repeating = threading.Thread(target=repeat)
        repeating.start()
        try:
            terminal.expect("\ngot it")
        finally:
            stop.set()
            repeating.join()
        terminal.type("exit\n")
        terminal.process.wait()


def test_exec_with_a_terminal(ctr: Ctr) -> None:
    ctr("run", "-d", BUSYBOX, "t", "sleep", "1000")
    terminal = Terminal(ctr.command("task", "exec", "-t", "--exec-id", "x", "t", "sh"))
    try:
        terminal.expect("# ")
        terminal.type("tty\n")
        terminal.expect("/dev/pts/")
        terminal.type("exit 9\n")
        assert terminal.process.wait() == 9
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
        ctr("task", "delete", "--force", "t")
        ctr("container", "delete", "t")
