"""hyctl -it in a real terminal: echo, keys, resize, exit, and the terminal as it was before."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.integration.client_worlds import world
from tests.integration.test_hyctl_commands import Hyctl, hyctl

from containerd_hybrid.testing.terminal import Terminal, terminal
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS

pytestmark = pytest.mark.root
__all__ = ["hyctl", "world"]  # fixtures


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
        person.expect("# ")
        person.type("echo st''ill\r")
        person.expect("still\r\n")
        assert not person.is_as_before()
        person.type("exit 7\r")
        assert program.wait(GIVE_UP_SECONDS) == 7
        assert person.is_as_before()


def test_the_end_of_input_ends_a_shell(hyctl: Hyctl) -> None:
    with terminal() as person:
        program = person.start([*hyctl.command, "run", "--rm", "-it", "busybox", "sh"])
        person.expect("# ")
        person.type("\x04")
        assert program.wait(GIVE_UP_SECONDS) == 0
        assert person.is_as_before()


def test_the_terminal_is_put_right_whatever_happens(hyctl: Hyctl) -> None:
    for command, code in ((["nope"], 127), (["sh", "-c", "kill -9 $$; exit 5"], 5)):
        with terminal() as person:
            program = person.start([*hyctl.command, "run", "--rm", "-it", "busybox", *command])
            assert program.wait(GIVE_UP_SECONDS) == code
            assert person.is_as_before()
    with terminal() as person:
        script = "trap 'echo no' TERM; echo ready; while true; do sleep 0.05; done"
        program = person.start([*hyctl.command, "run", "--rm", "-it", "busybox", "sh", "-c", script])
        person.expect("ready\r\n")
        for _ in range(2):
            # One after the other: signals that nobody has taken yet are one.
            program.send_signal(signal.SIGTERM)
            person.expect("no\r\n")
        program.send_signal(signal.SIGTERM)
        assert program.wait(GIVE_UP_SECONDS) == 137
        assert person.is_as_before()


def test_output_alone_on_a_terminal(hyctl: Hyctl, tmp_path: Path) -> None:
    with terminal(90, 20) as person:
        # It ends when all has come: containerd 1.6's shim loses what a process wrote last to a terminal.
        script = "tty; stty size < /dev/tty; until test -e /seen/it; do sleep 0.02; done; exit 3"
        volume = ("-v", f"{tmp_path}:/seen:ro")
        program = person.start([*hyctl.command, "run", "--rm", "-t", *volume, "busybox", "sh", "-c", script])
        person.expect("/dev/pts/0")
        person.expect("20 90")
        (tmp_path / "it").touch()
        assert program.wait(GIVE_UP_SECONDS) == 3
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
            person.type("exit 4\r")
            assert program.wait(GIVE_UP_SECONDS) == 4
            assert person.is_as_before()
    hyctl("rm", "-f", "host")


def test_control_c_without_a_terminal_inside(hyctl: Hyctl) -> None:
    """The terminal sends the signal to hyctl, which sends it on."""
    with terminal() as person:
        script = "trap 'echo caught; exit 8' INT; echo ready; while true; do sleep 0.05; done"
        program = person.start([*hyctl.command, "run", "--rm", "busybox", "sh", "-c", script])
        person.expect("ready")
        person.type("\x03")
        assert program.wait(GIVE_UP_SECONDS) == 8
        person.expect("caught")
