"""Reading a tar archive that arrives in pieces, with the standard library in a thread of its own.

``tarfile`` wants a file to read from; :class:`_Pulled` gives it one whose ``read`` asks the event
loop for the next piece. What the thread finds is handed to sinks, on the loop again, so at most
one piece is on its way at any time.
"""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Protocol, TypeVar, cast

from containerd_hybrid.errors import CallCancelledError, InvalidArgumentError
from containerd_hybrid.images.api import ArchiveSource

T = TypeVar("T")
_CHUNK = 1 << 20


class EntrySink(Protocol):
    """Where the bytes of one regular file go."""

    async def write(self, data: bytes) -> None: ...

    async def finish(self) -> None: ...


class EntryHandler(Protocol):
    """Told what is in the archive, in its order, on the event loop."""

    async def file(self, name: str, size: int) -> EntrySink:
        """A regular file begins."""
        ...

    async def link(self, name: str, target: str) -> None:
        """A symbolic link, as old ``docker save`` makes for layers that are there twice."""
        ...


async def read_archive(source: ArchiveSource, handler: EntryHandler) -> None:
    """Hand every entry of the archive to ``handler``.

    Raises:
        InvalidArgumentError: not a tar archive, plain or compressed with gzip, or cut short.
    """
    loop = asyncio.get_running_loop()
    # A pool of its own: the thread lives as long as the sender sends, and would starve the shared one.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive") as pool:
        walker = _Walker(source, handler, loop)
        task = asyncio.ensure_future(loop.run_in_executor(pool, walker.run))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            walker.stop()
            await asyncio.wait({task})
            raise


class _Walker:
    """The thread's side."""

    def __init__(self, source: ArchiveSource, handler: EntryHandler, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._handler = handler
        self._loop = loop
        self._stopped = False
        self._waiting_for: asyncio.Task[Any] | None = None

    def stop(self) -> None:
        """Called on the loop: end the step that is under way, and with it the thread."""
        self._stopped = True
        if self._waiting_for is not None:
            self._waiting_for.cancel()

    def run(self) -> None:
        pulled = _Pulled(lambda: self._on_loop(self._source.read(_CHUNK)))
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", pulled), mode="r|*", bufsize=_CHUNK) as archive:
                for member in archive:
                    self._handle(archive, member)
            while pulled.read(_CHUNK):
                pass  # a sender that is not read to its end would wait for ever
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InvalidArgumentError(f"not an image archive: {error}") from error

    def _handle(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if member.issym():
            self._on_loop(self._handler.link(member.name, member.linkname))
        content = archive.extractfile(member) if member.isreg() else None
        if content is None:
            return
        sink = self._on_loop(self._handler.file(member.name, member.size))
        while data := content.read(_CHUNK):
            self._on_loop(sink.write(data))
        self._on_loop(sink.finish())

    def _on_loop(self, step: Coroutine[Any, Any, T]) -> T:
        async def run() -> T:
            if self._stopped:
                step.close()
                raise CallCancelledError("reading the archive was cancelled")
            self._waiting_for = asyncio.current_task()
            try:
                return await step
            except asyncio.CancelledError:
                raise CallCancelledError("reading the archive was cancelled") from None
            finally:
                self._waiting_for = None

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()


class _Pulled:
    """The read side of a file, filled by a callable that gives the next piece."""

    def __init__(self, pull: Callable[[], bytes]) -> None:
        self._pull = pull
        self._buffer = bytearray()
        self._ended = False

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and not self._ended:
            piece = self._pull()
            self._ended = not piece
            self._buffer += piece
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
