"""The streams of a process: FIFOs that its shim writes to and reads from, served by threads.

A FIFO's reading end is opened before the shim opens the other, without waiting. The shim closes its
end after the last byte, so when a thread comes to the end of a stream, that stream is whole.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from containerd_hybrid.client.pumps import Gate, Sink, Source, pump_input, pump_output

NOWHERE = "/dev/null"
# Output that nobody takes (a pager that is left alone) must not keep a caller who has finished.
_CLOSING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Streams:
    """What the caller wants of a process's streams. With a terminal all output is in ``stdout``."""

    stdin: Source = None
    stdout: Sink = None
    stderr: Sink = None


class ProcessStreams:
    """The FIFOs of one process and the threads that serve them."""

    def __init__(self, streams: Streams, *, terminal: bool, stdin_ended: Callable[[], None]) -> None:
        self._streams = streams
        self._stdin_ended = stdin_ended
        self._loop = asyncio.get_running_loop()
        self._gate = Gate()
        self._folder: Path | None = None
        self._outputs: list[tuple[int, Sink]] = []
        self._threads: list[asyncio.Future[None]] = []
        self._input: asyncio.Future[None] | None = None
        self.terminal = terminal
        self.stdin = ""
        self.stdout = ""
        self.stderr = ""

    @classmethod
    async def open(
        cls, streams: Streams, *, terminal: bool, stdin_ended: Callable[[], None]
    ) -> ProcessStreams:
        """Make the FIFOs. ``stdin_ended`` is called on the event loop when all input was handed over."""
        opened = cls(streams, terminal=terminal, stdin_ended=stdin_ended)
        try:
            await asyncio.to_thread(opened._make_all)
        except BaseException:
            await opened.close()
            raise
        return opened

    def start(self) -> None:
        """Begin to copy; call it once the shim has the FIFOs, and an end of the input counts."""
        for descriptor, sink in self._outputs:
            self._threads.append(self._in_thread(pump_output, descriptor, sink, self._gate.watch()))
        self._outputs = []
        if self.stdin and self._streams.stdin is not None:
            self._input = self._in_thread(
                self._pump_input, self.stdin, self._streams.stdin, self._gate.watch()
            )

    async def drained(self) -> None:
        """The process has ended: wait until its output is whole and was handed over.

        Raises:
            Exception: what a sink of the caller's raised.
        """
        self._gate.end_when_silent()
        if self._threads:
            await asyncio.wait(self._threads)
        for thread in self._threads:
            thread.result()

    async def close(self) -> None:
        """Stop what still runs and remove the FIFOs."""
        self._gate.shut()
        running = [*self._threads, *((self._input,) if self._input else ())]
        if running:
            await asyncio.wait(running, timeout=_CLOSING_SECONDS)
        for descriptor, _ in self._outputs:
            os.close(descriptor)
        self._outputs = []
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _make_all(self) -> None:
        """Without any wish there are none, and the shim uses /dev/null; with one, shims want both outputs."""
        wanted = self._streams
        if wanted.stdin is None and wanted.stdout is None and wanted.stderr is None and not self.terminal:
            return
        folder = _fifo_root() / f"containerd-hybrid-fifo-{os.getpid()}-{os.urandom(6).hex()}"
        folder.mkdir(0o700)
        self._folder = folder
        if wanted.stdin is not None:
            self.stdin = self._make("stdin")
        # A terminal that nobody reads would fill up, so there its output is always taken.
        self.stdout = self._output("stdout", wanted.stdout, always=self.terminal)
        if not self.terminal:
            self.stderr = self._output("stderr", wanted.stderr)

    def _make(self, name: str) -> str:
        assert self._folder is not None
        path = self._folder / name
        os.mkfifo(path, 0o600)
        return str(path)

    def _output(self, name: str, sink: Sink, *, always: bool = False) -> str:
        if sink is None and not always:
            return NOWHERE
        path = self._make(name)
        self._outputs.append((os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), sink))
        return path

    def _pump_input(self, path: str, source: int | bytes, watched: int) -> None:
        if pump_input(path, source, watched):
            self._loop.call_soon_threadsafe(self._stdin_ended)

    def _in_thread(self, work: Callable[..., None], *args: object) -> asyncio.Future[None]:
        """Run ``work`` in a thread of its own: it may take as long as the process lives.

        A daemon thread: a terminal that blocks must not keep the interpreter from ending.
        """
        done: asyncio.Future[None] = self._loop.create_future()

        def settle(error: Exception | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
                done.exception()  # seen: who does not wait for the end does not care how it came

        def run() -> None:
            failure: Exception | None = None
            try:
                work(*args)
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(settle, failure)

        threading.Thread(target=run, name=f"stdio-{work.__name__}", daemon=True).start()
        return done


def _fifo_root() -> Path:
    """/run is in memory and only root's; who may not write there has the temp folder."""
    return Path("/run" if os.access("/run", os.W_OK) else os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
