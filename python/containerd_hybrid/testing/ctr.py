"""``ctr``, containerd's own client, as tests and benchmarks call it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any


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
