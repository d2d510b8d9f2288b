"""``ctr``, containerd's own client, as tests and benchmarks call it."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.testing.waiting import until

_DEBIAN_CTR = "/usr/bin/ctr"


class CtrError(Exception):
    """``ctr`` failed; the message has its arguments, exit code and what it wrote."""


@dataclass(frozen=True, slots=True)
class Ctr:
    """``ctr`` for one daemon and namespace."""

    address: str
    namespace: str = "default"
    program: str = "ctr"

    def command(self, *args: str) -> list[str]:
        """The whole command line."""
        return [self.program, "--address", self.address, "--namespace", self.namespace, *args]

    def __call__(self, *args: str, **options: Any) -> str:
        """Run to the end and give what it wrote to stdout.

        Raises:
            CtrError: it did not exit with 0.
        """
        done = self.run(*args, **options)
        if done.returncode:
            raise CtrError(f"ctr {' '.join(args)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def run(self, *args: str, input: str | None = "", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end; without ``input`` its input is at its end from the start."""
        return subprocess.run(
            self.command(*args), input=input, capture_output=True, text=True, check=False, **options
        )

    def start(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start without waiting."""
        return subprocess.Popen(self.command(*args), **options)

    @contextmanager
    def watch(self) -> Iterator[Callable[[str], list[str]]]:
        """``ctr events``, seen to listen. Gives a function that reads on up to the first line with a text in
        it, and has these lines.

        The namespace must exist. It is labelled until an event of that arrives, so more of those
        events may come.
        """
        with self.start("events", stdout=subprocess.PIPE, bufsize=0) as watcher:
            output = watcher.stdout
            assert output is not None

            def lines_until(text: str) -> list[str]:
                lines = [""]
                while text not in lines[-1]:
                    lines.append(output.readline().decode())
                    assert lines[-1], f"ctr events ended before {text}, after {lines}"
                return lines[1:]

            def listens() -> bool:
                self("namespace", "label", self.namespace, f"watched={time.monotonic_ns()}")
                return bool(select.select([output], [], [], 0.1)[0])

            try:
                until(listens, "an event of the namespace")
                yield lines_until
            finally:
                watcher.terminate()


def topics(lines: Iterable[str]) -> list[str]:
    """The topics of what ``ctr events`` wrote."""
    return [next(word for word in line.split() if word.startswith("/")) for line in lines]


def find_ctr(major: int) -> str:
    """The path of an installed ctr of that major version: ``CTR2`` (for 2), PATH, then Debian's.

    Raises:
        NotFoundError: there is none.
    """
    named = os.environ.get("CTR2") if major == 2 else None
    for program in filter(None, (named, shutil.which("ctr"), shutil.which(_DEBIAN_CTR))):
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"\bv?(\d+)\.\d+\.\d+", told)
        if found is not None and int(found[1]) == major:
            return program
    where = "name one by CTR2" if major == 2 else "apt-get install containerd"
    raise NotFoundError(f"no ctr of containerd {major}.x is installed: {where}")


def end_ctr(process: subprocess.Popen[bytes]) -> None:
    """Wait for a ctr whose daemon was killed under it; it may wait for ever, and is killed then."""
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
