"""Running a short program from the event loop without holding a thread while it runs.

The three streams are anonymous files (memfd_create(2)): nothing can block on a full pipe, and a daemon
that the program leaves behind with our descriptors open does not keep us waiting for an end of file.
The end of the program is the readability of its pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from containerd_hybrid.errors import DeadlineExceededError, HybridError, NotFoundError, UnknownError

_OUTPUT_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Finished:
    """A program's end; ``status`` is negative for a signal. Output beyond 1 MiB is cut off."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def reason(self) -> str:
        """What it said and how it ended, as containerd words it: ``…: exit status 1``."""
        end = f"exit status {self.status}" if self.status >= 0 else f"signal {-self.status}"
        said = (self.stderr.strip() or self.stdout.strip()).decode(errors="replace")
        return f"{said}: {end}" if said else end


async def run_program(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: bytes = b"",
    timeout: float | None = None,
) -> Finished:
    """Run in a process group of its own and wait; cancelling or running out of time kills the group.

    Raises:
        NotFoundError: the program or the folder does not exist.
        DeadlineExceededError: ``timeout`` seconds passed.
        UnknownError: it could not be started.
    """
    files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
    try:
        os.write(files[0], stdin)
        os.lseek(files[0], 0, os.SEEK_SET)
        process = await _spawn(argv, cwd, env, files)
        try:
            async with asyncio.timeout(timeout):
                await _ended(process)
        except TimeoutError as error:
            raise DeadlineExceededError(f"{argv[0]} did not end within {timeout} seconds") from error
        finally:
            if process.returncode is None:
                await _kill(process)
        return Finished(process.returncode or 0, _content(files[1]), _content(files[2]))
    finally:
        for file in files:
            os.close(file)


async def _spawn(
    argv: Sequence[str], cwd: Path, env: Mapping[str, str], files: Sequence[int]
) -> subprocess.Popen[bytes]:
    spawning = asyncio.ensure_future(asyncio.to_thread(_start, argv, cwd, env, [os.dup(f) for f in files]))
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        # The thread cannot be called back; whatever it starts must not outlive this call.
        with contextlib.suppress(HybridError):
            await _kill(await spawning)
        raise


def _start(
    argv: Sequence[str], cwd: Path, env: Mapping[str, str], files: Sequence[int]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env),
            stdin=files[0],
            stdout=files[1],
            stderr=files[2],
            process_group=0,
        )
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot run {argv[0]}: {error.strerror}: {error.filename}") from error
    except OSError as error:
        raise UnknownError(f"cannot run {argv[0]}: {error.strerror or error}") from error
    finally:
        for file in files:
            os.close(file)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.poll()


async def _kill(process: subprocess.Popen[bytes]) -> None:
    # Not reaped yet, so the number cannot have been given to another process.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await _ended(process)


def _content(file: int) -> bytes:
    # Memory, so reading it here keeps nobody waiting.
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, _OUTPUT_LIMIT)
