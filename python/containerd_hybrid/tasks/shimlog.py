"""The shim's log: a FIFO in the bundle whose lines we copy into our own log.

We open it for reading *and* writing: the shim's open for writing then never waits, and its end does
not make the FIFO readable for ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat

from containerd_hybrid.errors import FailedPreconditionError
from containerd_hybrid.tasks.bundle import Bundle

log = logging.getLogger(__name__)

_CHUNK = 64 << 10
_LEVEL = re.compile(r"\blevel=(\w+)")
_GOS_LAST_WORDS = ("panic:", "fatal error:")
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}


class ShimLog:
    """Reads one shim's log until it is closed. Belongs to the event loop.

    ``last_words`` is the latest line of an error, for the message that tells of the shim's end.
    """

    @classmethod
    async def open(cls, bundle: Bundle) -> ShimLog:
        """Make the FIFO, or take the one that is there, and begin to read.

        Raises:
            FailedPreconditionError: something else is in its place.
        """
        return cls(bundle, await asyncio.to_thread(_open, bundle))

    def __init__(self, bundle: Bundle, descriptor: int) -> None:
        self._bundle = bundle
        self._descriptor = descriptor
        self._rest = b""
        self.last_words = ""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Copy what is there and stop."""
        if self._descriptor < 0:
            return
        self._read()
        self._write(self._rest)
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._write(line)
        # A line without an end is not collected for ever.
        if len(rest) > _CHUNK:
            self._write(rest)
            rest = b""
        self._rest = rest

    def _write(self, line: bytes) -> None:
        if not line.strip():
            return
        text = line.decode(errors="replace")
        level = _level(text)
        if level >= logging.ERROR:
            self.last_words = text
        log.log(level, "%s", text, extra={"namespace": self._bundle.namespace, "container": self._bundle.id})


def _open(bundle: Bundle) -> int:
    path = bundle.path / "log"
    try:
        os.mkfifo(path, 0o700)
    except FileExistsError:
        if not stat.S_ISFIFO(path.lstat().st_mode):
            raise FailedPreconditionError(f"{path} is not a FIFO") from None
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def _level(line: str) -> int:
    if line.startswith(_GOS_LAST_WORDS):
        return logging.CRITICAL
    found = _LEVEL.search(line)
    return _LEVELS.get(found[1], logging.INFO) if found else logging.INFO
