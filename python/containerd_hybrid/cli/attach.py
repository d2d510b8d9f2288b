"""A process in the foreground: its streams are ours, our signals are its, and so is our terminal."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from containerd_hybrid.cli import terminal
from containerd_hybrid.cli.failures import say
from containerd_hybrid.client.process import AsyncProcess, Exited
from containerd_hybrid.client.stdio import Streams
from containerd_hybrid.errors import HybridError, InvalidArgumentError

_STDIN, _STDOUT, _STDERR = 0, 1, 2
# Not those by which a shell, the kernel or Python itself looks after this very process.
_KEPT = {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH, signal.SIGURG),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP),
}
# A program that is the first of a container ignores signals that it does not ask for. Who asks so
# often wants it gone.
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Wish:
    """``interactive`` hands our input on, ``terminal`` gives the process one."""

    interactive: bool
    terminal: bool

    def check(self) -> None:
        """
        Raises:
            InvalidArgumentError: a terminal was asked for where there is none.
        """
        if self.interactive and self.terminal and not terminal.is_terminal(_STDIN):
            raise InvalidArgumentError(
                "the input is no terminal: leave out -t, or run hyctl in one (script -qc '…' gives one)"
            )


class Foreground:
    """Made by :func:`foreground`. Start the process with ``streams``, say so, then wait for it."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._loop = asyncio.get_running_loop()
        self._process: AsyncProcess | None = None
        self._early: list[int] = []
        self._interrupts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken = False

    @property
    def streams(self) -> Streams:
        """Ours."""
        return Streams(
            stdin=_STDIN if self._wish.interactive else None,
            stdout=self._output(_STDOUT),
            stderr=None if self._wish.terminal else self._output(_STDERR),
        )

    async def started(self, process: AsyncProcess) -> None:
        """It is there: hand it the size of our terminal, and the signals that came too early."""
        self._process = process
        await self._resize()
        for number in self._early:
            self._forward(number)
        self._early = []

    async def wait(self, process: AsyncProcess) -> int:
        """Wait for its end; the code to exit with."""
        exited: Exited = await process.wait()
        return 128 + signal.SIGPIPE if self._broken else exited.status

    def on_signal(self, number: int) -> None:
        if self._process is None:
            self._early.append(number)
        else:
            self._forward(number)

    def on_resize(self) -> None:
        self._soon(self._resize())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forward(self, number: int) -> None:
        if number in {signal.SIGINT, signal.SIGTERM}:
            self._interrupts += 1
            if self._interrupts == _PATIENCE:
                say(f"asked {_PATIENCE} times: killing it")
                number = signal.SIGKILL
        self._soon(self._kill(number))

    async def _kill(self, number: int) -> None:
        if self._process is not None:
            with suppress(HybridError):  # it has ended; who waits for it is told
                await self._process.kill(number)

    async def _resize(self) -> None:
        size = terminal.window(_STDOUT) or terminal.window(_STDIN)
        if self._wish.terminal and self._process is not None and size is not None:
            with suppress(HybridError):
                await self._process.resize(*size)

    def _soon(self, step: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(step)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _output(self, descriptor: int) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            if self._broken:
                return
            try:
                _write_all(descriptor, data)
            except BrokenPipeError:
                self._broken = True
                self._loop.call_soon_threadsafe(self._nobody_reads)

        return write

    def _nobody_reads(self) -> None:
        """Our reader left (``… | head``): end the process as the kernel would end one of ours."""
        self._soon(self._kill(signal.SIGKILL))


@asynccontextmanager
async def foreground(wish: Wish) -> AsyncIterator[Foreground]:
    """Signals and the terminal are handed over until the block ends."""
    wish.check()
    front = Foreground(wish)
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for number in sorted(signal.valid_signals() - _KEPT):
            # Some are kept by the C library for itself.
            with suppress(ValueError, OSError, RuntimeError):
                loop.add_signal_handler(number, front.on_signal, number)
                stack.callback(loop.remove_signal_handler, number)
        loop.add_signal_handler(signal.SIGWINCH, front.on_resize)
        stack.callback(loop.remove_signal_handler, signal.SIGWINCH)
        if wish.terminal and wish.interactive:
            stack.enter_context(terminal.raw(_STDIN))
        try:
            yield front
        finally:
            await front.close()


def _write_all(descriptor: int, data: bytes) -> None:
    """In a thread. Our output may be shared with a program that made it non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
