"""A zstd stream that arrives in pieces, decompressed by Rust between two pipes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from containerd_hybrid._native import CancelToken, unpack_layer
from containerd_hybrid.images.api import ArchiveSource
from containerd_hybrid.workers import ended

_CHUNK = 1 << 20
T = TypeVar("T")


class ZstdSource:
    """Implements :class:`containerd_hybrid.images.api.ArchiveSource`; has to be closed.

    The threads are its own, since each may wait for another one of them.
    """

    def __init__(self, source: ArchiveSource) -> None:
        self._source = source
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="zstd")
        self._cancel = CancelToken()
        self._packed, self._input = os.pipe2(os.O_CLOEXEC)
        self._output, self._unpacked = os.pipe2(os.O_CLOEXEC)
        self._working = self._run(self._work)
        self._feeding = asyncio.ensure_future(self._feed())

    async def read(self, size: int) -> bytes:
        """At most ``size`` bytes; empty at the end.

        Raises:
            InvalidArgumentError: the stream is damaged or cut short.
        """
        # Without the stop it might never see an end.
        data = await ended(self._run(lambda: os.read(self._output, min(size, _CHUNK))), self._stop)
        if not data:
            # What the source has to say comes before what its missing bytes look like.
            await self._feeding
            await self._working
        return data

    async def close(self) -> None:
        """Let go of everything, whatever is left to read."""
        self._stop()
        os.close(self._output)
        await asyncio.wait({self._feeding, self._working})
        for one in (self._feeding, self._working):
            if not one.cancelled():
                one.exception()  # who reads was told
        self._threads.shutdown(wait=False)

    def _stop(self) -> None:
        self._cancel.cancel()
        self._feeding.cancel()

    def _work(self) -> None:
        try:
            unpack_layer(self._packed, self._unpacked, compression="zstd", cancel=self._cancel)
        finally:
            # Who reads sees the end, and who writes that nobody takes any more.
            os.close(self._unpacked)
            os.close(self._packed)

    async def _feed(self) -> None:
        try:
            while data := await self._source.read(_CHUNK):
                await ended(self._run(partial(_write_all, self._input, data)))
        except BrokenPipeError:
            pass  # the worker knows why
        finally:
            os.close(self._input)

    def _run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
