"""Stream processors: programs that turn a layer of one media type into another (``ctd-decoder``).

containerd's contract: the program has the layer on its standard input and writes the result to its
standard output; ``STREAM_PROCESSOR_MEDIATYPE`` is the type it gets; a payload that the client sent for the
processor is on descriptor 3, as a serialised ``google.protobuf.Any``; what it says on its standard error is
the message when it fails. Programs follow one another by pipes, until nobody takes the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from containerd_hybrid.errors import FailedPreconditionError, UnknownError

MEDIA_TYPE_VARIABLE = "STREAM_PROCESSOR_MEDIATYPE"
_PAYLOAD_DESCRIPTOR = 3
# Above what the program gets, so that no copy overwrites what is still to be copied.
_FIRST_OWN_DESCRIPTOR = 10
# A chain that goes on for longer leads in a circle.
_MOST_PROGRAMS = 8
_MESSAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class StreamProcessor:
    """``accepts`` media types, of which it makes ``returns``."""

    name: str
    accepts: tuple[str, ...]
    returns: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(slots=True)
class Processed:
    """A layer as the last program writes it: ``stream`` is a pipe's end, closed by who opened it."""

    stream: int
    media_type: str
    running: list[_Program] = field(default_factory=list)

    async def check(self) -> None:
        """Wait until all programs have ended.

        Raises:
            UnknownError: one failed; the message is what it said.
        """
        for program in self.running:
            await asyncio.to_thread(program.wait)
        for program in self.running:
            program.check()


class StreamProcessors:
    """The configured programs; the last that takes a media type gets it, so that defaults yield."""

    def __init__(self, processors: Sequence[StreamProcessor] = ()) -> None:
        self._processors = tuple(processors)

    def accepts(self, media_type: str) -> bool:
        """Whether a program takes layers of that type."""
        return self._next(media_type) is not None

    @asynccontextmanager
    async def opened(
        self, blob: int, media_type: str, payloads: Mapping[str, bytes] | None = None
    ) -> AsyncIterator[Processed]:
        """The layer behind the descriptor ``blob``, read by programs until none takes what comes out.

        ``payloads`` are by the names of processors. At the end nothing of them runs any more.

        Raises:
            FailedPreconditionError: a program is not installed, or the configuration leads in a circle.
        """
        chain = self._chain(media_type)
        processed = Processed(-1, chain[-1].returns)
        source = os.dup(blob)
        try:
            for processor in chain:
                payload = (payloads or {}).get(processor.name, b"")
                program = await asyncio.to_thread(_start, processor, media_type, source, payload)
                processed.running.append(program)
                os.close(source)
                source = program.output
                media_type = processor.returns
            processed.stream = source
            yield processed
        finally:
            os.close(source)
            for program in processed.running:
                await asyncio.shield(asyncio.to_thread(program.end))

    def _chain(self, media_type: str) -> list[StreamProcessor]:
        chain: list[StreamProcessor] = []
        while (processor := self._next(media_type)) is not None:
            chain.append(processor)
            media_type = processor.returns
            if len(chain) > _MOST_PROGRAMS:
                names = " → ".join(one.name for one in chain)
                raise FailedPreconditionError(f"stream_processors lead in a circle: {names}")
        return chain

    def _next(self, media_type: str) -> StreamProcessor | None:
        return next((one for one in reversed(self._processors) if media_type in one.accepts), None)


class _Program:
    """One that runs. It leads a process group of its own, so that its children end with it."""

    def __init__(self, processor: StreamProcessor, pid: int, output: int, errors: BinaryIO) -> None:
        self.output = output
        self._processor = processor
        self._pid = pid
        self._errors = errors
        self._status: int | None = None

    def wait(self) -> None:
        """Wait for its end. Its number stays taken until :meth:`end`, which may kill it meanwhile."""
        ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        if ended is not None:
            self._status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def check(self) -> None:
        if self._status in (0, None):
            return
        self._errors.seek(0)
        said = self._errors.read(_MESSAGE_BYTES).decode(errors="replace").strip()
        how = f"exit code {self._status}" if self._status > 0 else f"signal {-self._status}"
        raise UnknownError(
            f"stream processor {self._processor.name} ({self._processor.path}) failed: {said or how}"
        )

    def end(self) -> None:
        """Kill what still runs of it and of its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._errors.close()


def _start(processor: StreamProcessor, media_type: str, source: int, payload: bytes) -> _Program:
    path = shutil.which(processor.path)
    if path is None:
        raise FailedPreconditionError(
            f"the stream processor {processor.name} is needed for {media_type}, but its program "
            f"{processor.path} is not installed"
        )
    environment = {**os.environ, **dict(entry.partition("=")[::2] for entry in processor.env)}
    environment[MEDIA_TYPE_VARIABLE] = media_type
    errors: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the program has ended)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    owned = [writing]
    try:
        given = {0: source, 1: writing, 2: errors.fileno()}
        if payload:
            # A file in memory: nobody has to feed a pipe, and the program reads to its end either way.
            owned.append(os.memfd_create("payload", os.MFD_CLOEXEC))
            os.write(owned[-1], payload)
            os.lseek(owned[-1], 0, os.SEEK_SET)
            given[_PAYLOAD_DESCRIPTOR] = owned[-1]
        actions = []
        for number, descriptor in given.items():
            owned.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN_DESCRIPTOR))
            actions.append((os.POSIX_SPAWN_DUP2, owned[-1], number))
        pid = os.posix_spawn(
            path, [processor.path, *processor.args], environment, file_actions=actions, setpgroup=0
        )
    except OSError as error:
        os.close(reading)
        errors.close()
        raise FailedPreconditionError(
            f"cannot run the stream processor {processor.name} ({path}): {error.strerror}"
        ) from error
    finally:
        for descriptor in owned:
            os.close(descriptor)
    return _Program(processor, pid, reading, errors)
