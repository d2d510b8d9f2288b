"""Shim processes that nobody is connected to, found by what they are: started for one bundle, in it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from pathlib import Path

from containerd_hybrid.tasks.bundle import Bundle


class Stray:
    """A process held by a pidfd, so that its number cannot come to mean another one."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    async def kill(self, timeout: float = 5.0) -> bool:
        """SIGKILL, and whether it was gone within ``timeout`` seconds."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._pidfd, gone.set)
        try:
            async with asyncio.timeout(timeout):
                await gone.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._pidfd)
        return True

    def close(self) -> None:
        os.close(self._pidfd)


def find_strays(bundle: Bundle) -> list[Stray]:
    """Processes whose working folder is the bundle and whose arguments say ``-id <id>``.

    That is how containerd's shims run (and ours), and neither a container's process nor somebody's
    shell is like it. Blocks: call it in a thread. Close what you get.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _is_shim_of(entry, bundle):
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(int(entry.name))
                # Looked at again, now that it can be held on to.
                if _is_shim_of(entry, bundle):
                    found.append(Stray(int(entry.name), pidfd))
                else:
                    os.close(pidfd)
    return found


def _is_shim_of(process: Path, bundle: Bundle) -> bool:
    try:
        if (process / "cwd").readlink() != bundle.path:
            return False
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return (b"-id", bundle.id.encode()) in itertools.pairwise(arguments)
