"""What ``/proc`` tells of processes that tests started, without a race against their end."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"


def runs(pid: int) -> bool:
    """Whether the process is there and has not ended: one that nobody has waited for yet does not run."""
    return _state(pid) not in ("", "Z", "X")


def is_stopped(pid: int) -> bool:
    """Whether a SIGSTOP has taken effect."""
    return _state(pid) == "T"


def arguments(pid: int) -> list[str]:
    """Its command line, which is another one as soon as it executes a program; empty when it is gone."""
    return _read(pid, "cmdline").rstrip("\0").split("\0")


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether it has a handler for the signal. A container's first process ignores what it does not catch."""
    for line in _read(pid, "status").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def open_files(pid: int) -> dict[int, Path]:
    """What its descriptors lead to."""
    found = {}
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found[int(link.name)] = link.readlink()
    return found


def listening_ports(pid: int) -> set[int]:
    """The TCP ports that it listens on."""
    sockets = {str(link) for link in open_files(pid).values()}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in _read(pid, f"net/{table}").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and f"socket:[{fields[9]}]" in sockets:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def _state(pid: int) -> str:
    return _read(pid, "stat").rpartition(") ")[2][:1]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""  # it is gone
