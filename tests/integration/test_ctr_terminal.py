"""``ctr run -t`` in a real terminal: echo, Ctrl-C, resize, exit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.terminal import Terminal, terminal
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS

pytestmark = pytest.mark.root
BUSYBOX = "docker.io/library/busybox:latest"


@contextmanager
def on_terminal(ctr: Ctr, *command: str, status: int = 0) -> Iterator[Terminal]:
    """ctr with this command, which ends with ``status`` when the block has ended."""
    with terminal() as person:
        program = person.start(ctr.command(*command))
        yield person
        assert program.wait(GIVE_UP_SECONDS) == status, person.seen


@contextmanager
def shell(ctr: Ctr, status: int = 0) -> Iterator[Terminal]:
    with on_terminal(ctr, "run", "-t", "--rm", BUSYBOX, "t", "sh", status=status) as person:
        person.expect("# ")
        yield person


def test_what_is_typed_is_echoed_by_the_terminal_and_read_by_the_program(ctr: Ctr) -> None:
    with on_terminal(ctr, "run", "-t", "--rm", BUSYBOX, "t", "sh", "-c", "echo ready; cat") as person:
        person.expect("ready")
        person.type("twice\n")
        person.expect("twice\r")
        person.expect("twice\r")
        person.type("\x04")


def test_a_shell_runs_what_is_typed(ctr: Ctr) -> None:
    with shell(ctr, status=6) as person:
        person.type("echo $((40 + 2))\n")
        person.expect("\n42")
        person.type("test -t 0 && test -t 1 && echo a terminal\n")
        person.expect("\na terminal")
        person.type("exit 6\n")


def test_ctrl_c_interrupts_what_runs_and_not_the_shell(ctr: Ctr) -> None:
    with shell(ctr) as person:
        # Who says it is what is to be interrupted, so it has the terminal by then.
        person.type("sh -c 'echo begin; exec sleep 1000'\n")
        person.expect("\nbegin")
        person.type("\x03")
        person.expect("# ")
        person.type("echo status $?\n")
        person.expect("\nstatus 130")
        person.type("exit\n")


def test_a_resize_reaches_the_container(ctr: Ctr) -> None:
    with terminal() as person:
        program = person.start(ctr.command("run", "-t", "--rm", BUSYBOX, "t", "sh"))
        person.expect("# ")
        person.resize(123, 45)
        person.type("until stty size | grep -q '45 123'; do sleep 0.05; done; echo got it\n")
        # ctr hears of a resize only once it listens, some time after the shell's first prompt.
        person.expect("\ngot it", again=lambda: program.send_signal(signal.SIGWINCH))
        person.type("exit\n")
        assert program.wait(GIVE_UP_SECONDS) == 0


def test_exec_with_a_terminal(ctr: Ctr) -> None:
    ctr("run", "-d", BUSYBOX, "t", "sleep", "1000")
    try:
        with on_terminal(ctr, "task", "exec", "-t", "--exec-id", "x", "t", "sh", status=9) as person:
            person.expect("# ")
            person.type("tty\n")
            person.expect("/dev/pts/")
            person.type("exit 9\n")
    finally:
        ctr("task", "delete", "--force", "t")
        ctr("container", "delete", "t")
