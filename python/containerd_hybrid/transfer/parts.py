"""A part of a blob that waits in memory for those before it."""

from __future__ import annotations

import asyncio
import os

from containerd_hybrid import _native
from containerd_hybrid.workers import in_own_thread


class Part:
    """``length`` bytes from ``start`` of a blob; a sink for the body that brings them."""

    def __init__(self, start: int, length: int) -> None:
        self.start = start
        self.length = length
        self.whole = asyncio.Event()
        self._fd = -1
        self._ingest: _native.Ingest | None = None

    @property
    def position(self) -> int:
        """Where the next byte belongs in the blob."""
        return self.start + (self._ingest.arrived if self._ingest is not None else 0)

    @property
    def missing(self) -> int:
        return self.start + self.length - self.position

    async def write(self, data: bytes) -> int:
        ingest = self._opened()
        await in_own_thread(lambda: ingest.write(data), _nothing)
        return self.position

    async def receive(self, body: _native.HttpBody, limit: int) -> int:
        ingest = self._opened()
        await in_own_thread(lambda: ingest.receive(body, limit), body.close)
        return self.position

    def rewound(self) -> int:
        """The descriptor, at its beginning."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        return self._fd

    def close(self) -> None:
        """Let go of the memory; twice is harmless."""
        if self._ingest is not None:
            self._ingest.close()
            os.close(self._fd)
            self._fd, self._ingest = -1, None

    def _opened(self) -> _native.Ingest:
        if self._ingest is None:
            self._fd = os.memfd_create("part", os.MFD_CLOEXEC)
            self._ingest = _native.Ingest(self._fd)
        return self._ingest


def _nothing() -> None:
    """A write to memory needs no hurry."""
