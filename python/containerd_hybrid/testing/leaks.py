"""Finds what a test left behind: mounts, network namespaces, cgroups, processes, temporary files.

Other things run on the machine, so only what can be told to belong to the test is looked at: mounts
and files below its folders, cgroups and network namespaces whose name has its token, processes that
descend from it or have the token in their environment. And only what was not there before counts.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from containerd_hybrid.testing.waiting import until

TOKEN_VARIABLE = "CONTAINERD_HYBRID_TEST_TOKEN"  # noqa: S105 (a name, not a secret)
_CGROUPS = Path("/sys/fs/cgroup")
_NETWORK_NAMESPACES = (Path("/run/netns"), Path("/var/run/netns"))
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, order=True)
class Leak:
    """``kind`` is mount, netns, cgroup, process or file; ``what`` names the thing."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} {self.what}"


def remove_cgroups(name: str) -> None:
    """The cgroups of that name at the top of every hierarchy, which have no others in them.

    A namespace's, that its containers have in common, outlives them, as with runc. Its last processes
    may still be on their way out.
    """
    for cgroup in (_CGROUPS / name, *_CGROUPS.glob(f"*/{name}")):
        until(partial(_rmdir, cgroup), lambda cgroup=cgroup: f"{cgroup} with {_below(cgroup)} removed")


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def _below(folder: Path) -> list[str]:
    return [entry.name for entry in folder.glob("*") if entry.is_dir()]


class LeakCheck:
    """Compares what belongs to a test now with what did when the check was made.

    ``paths`` are the test's folders; ``temporary`` is one that must be empty in the end; ``token``
    is a word that the names the test makes contain, and the value of CONTAINERD_HYBRID_TEST_TOKEN in
    the environment of the programs it starts.
    """

    def __init__(self, token: str, paths: Sequence[Path], temporary: Path | None = None) -> None:
        self.token = token
        self._paths = [os.path.realpath(path) for path in paths]
        self._temporary = temporary
        self._before = self._now()

    def watch(self, folder: Path) -> None:
        """Look for mounts below this folder too, of which there are none yet."""
        self._paths.append(os.path.realpath(folder))

    def leaks(self) -> list[Leak]:
        """What appeared and is still there."""
        return sorted(self._now() - self._before)

    def wait_clean(self, seconds: float = 60.0) -> list[Leak]:
        """As :meth:`leaks`, after giving clean-up that is still going on some time to end."""
        give_up = time.monotonic() + seconds
        while (leaks := self.leaks()) and time.monotonic() < give_up:
            time.sleep(0.05)
        return leaks

    def _now(self) -> set[Leak]:
        return {
            *(Leak("mount", mount) for path in self._paths for mount in mounts_below(path)),
            *(Leak("netns", str(path)) for path in self._network_namespaces()),
            *(Leak("cgroup", str(path)) for path in self._cgroups()),
            *(Leak("process", text) for text in self._processes()),
            *(Leak("file", str(path)) for path in (self._temporary.iterdir() if self._temporary else ())),
        }

    def _network_namespaces(self) -> Iterator[Path]:
        for folder in _NETWORK_NAMESPACES:
            if folder.is_dir():
                yield from (path for path in folder.iterdir() if self.token in path.name)

    def _cgroups(self) -> Iterator[Path]:
        for folder, names, _ in os.walk(_CGROUPS):
            found = [name for name in names if self.token in name]
            yield from (Path(folder) / name for name in found)
            names[:] = [name for name in names if name not in found]

    def _processes(self) -> Iterator[str]:
        parents = {pid: stat.parent for pid, stat in _stats()}
        mark = f"{TOKEN_VARIABLE}={self.token}".encode()
        for pid, stat in _stats():
            if stat.state != "Z" and pid != os.getpid():
                environment = _read(Path(f"/proc/{pid}/environ")).split(b"\0")
                if mark in environment or _descends(pid, os.getpid(), parents):
                    command = (
                        _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode(errors="replace")
                    )
                    yield f"{pid} (started {stat.started}) {command.strip() or stat.name}"


def mounts_below(folder: str | Path) -> list[str]:
    """The mount points at and below a folder, in the order in which they were mounted."""
    root = os.path.realpath(folder)
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = (_OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4]) for line in lines)
    return [target for target in targets if target == root or target.startswith(root + "/")]


@dataclass(frozen=True, slots=True)
class _Stat:
    name: str
    state: str
    parent: int
    started: int


def _stats() -> Iterator[tuple[int, _Stat]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # pid (name) state ppid …; the name may hold spaces and brackets.
            head, _, tail = _read(entry / "stat").decode(errors="replace").rpartition(") ")
            fields = tail.split()
            if head and len(fields) > 19:
                yield (
                    int(entry.name),
                    _Stat(head.partition("(")[2], fields[0], int(fields[1]), int(fields[19])),
                )


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == ancestor:
            return True
    return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # the process has ended meanwhile
