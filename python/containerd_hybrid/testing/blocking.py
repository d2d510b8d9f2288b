"""Finds blocking calls that code of ours makes on an event loop.

A file opened, a process started or a lock waited for inside a coroutine stops every other call of the
daemon. Python tells an audit hook of most such calls before they happen; the others are wrapped while
a guard is active. A call counts when it is made in a thread whose event loop is running and the stack
leads from it to a coroutine or loop callback of ours before it reaches a test: so a test may call a
blocking method itself, and an import may read its files.

The hook stays in the process (Python has no way to remove one) and does nothing without a guard.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from unittest import mock

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_KIT = str(Path(__file__).resolve().parent)
_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE

_AUDITED = frozenset(
    {
        "fcntl.flock",
        "fcntl.lockf",
        "open",
        "os.chmod",
        "os.chown",
        "os.fork",
        "os.link",
        "os.listdir",
        "os.mkdir",
        "os.posix_spawn",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.symlink",
        "os.system",
        "os.truncate",
        "shutil.copyfile",
        "shutil.rmtree",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "sqlite3.connect",
        "subprocess.Popen",
    }
)
_WRAPPED: tuple[tuple[ModuleType, str], ...] = (
    *((os, name) for name in ("fsync", "fdatasync", "pread", "pwrite", "waitpid", "waitid", "sendfile")),
    (time, "sleep"),
)
# Modules that read files on behalf of Python itself: imports, source lines for tracebacks.
_HARMLESS = ("<frozen importlib", "<frozen zipimport", "linecache.py", "tokenize.py")
_HARMLESS_PATHS = ("/proc/self/", "/dev/null", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class BlockingCall:
    """What was called, with what, and from where (innermost frame last)."""

    name: str
    argument: str
    stack: str

    def __str__(self) -> str:
        return f"{self.name}({self.argument}) on the event loop:\n{self.stack}"


class BlockingGuard:
    """Collects the blocking calls made while it is active.

    With ``slow_seconds``, a callback that uses more processor time than that counts too. It is
    processor time, not the clock's, so that a busy machine blames nobody.
    """

    def __init__(self, *, slow_seconds: float | None = None) -> None:
        self.found: list[BlockingCall] = []
        self._slow_seconds = slow_seconds

    @contextmanager
    def active(self) -> Iterator[BlockingGuard]:
        """Watch until the end of the block."""
        _install_hook()
        _guards.append(self)
        try:
            with _wrapped_calls(), self._watching_callbacks():
                yield self
        finally:
            _guards.remove(self)

    def check(self) -> None:
        """AssertionError that shows every call found."""
        if self.found:
            raise AssertionError("\n".join(str(call) for call in self.found))

    @contextmanager
    def _watching_callbacks(self) -> Iterator[None]:
        if self._slow_seconds is None:
            yield
            return
        original: Callable[[Any], None] = asyncio.Handle._run
        limit = self._slow_seconds

        def run(handle: Any) -> None:
            started = time.thread_time()
            original(handle)
            used = time.thread_time() - started
            if used > limit:
                self.found.append(BlockingCall("slow callback", f"{used:.3f} s", repr(handle)))

        with mock.patch.object(asyncio.Handle, "_run", run):
            yield


_guards: list[BlockingGuard] = []
_hooked = False


def _install_hook() -> None:
    global _hooked  # noqa: PLW0603 (a process has one set of audit hooks)
    if not _hooked:
        _hooked = True
        sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _guards and event in _AUDITED:
        _report(event, args[0] if args else "")


@contextmanager
def _wrapped_calls() -> Iterator[None]:
    patches = [
        mock.patch.object(module, name, _reporting(f"{module.__name__}.{name}", getattr(module, name)))
        for module, name in _WRAPPED
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()


def _reporting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        _report(name, args[0] if args else "")
        return original(*args, **kwargs)

    return call


def _report(name: str, argument: Any) -> None:
    if asyncio._get_running_loop() is None:
        return
    text = str(argument)
    if text.startswith(_HARMLESS_PATHS):
        return
    frame: FrameType | None = sys._getframe(2)
    if not _is_ours(frame):
        return
    # The same call from the same line once is enough.
    call = BlockingCall(name, text, "".join(traceback.format_list(traceback.extract_stack(frame, limit=8))))
    for guard in _guards:
        if call not in guard.found:
            guard.found.append(call)


def _is_ours(frame: FrameType | None) -> bool:
    """Whether the stack leads to a coroutine or loop callback of the package before anything of a test."""
    seen_ours = False
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if any(part in file for part in _HARMLESS):
            return False
        if file.startswith(_KIT) and not file.endswith("blocking.py"):
            return False
        if file.startswith(_PACKAGE) and not file.startswith(_KIT):
            if code.co_flags & _ASYNC:
                return True
            seen_ours = True
        elif file.endswith("asyncio/events.py") and code.co_name == "_run":
            return seen_ours
        elif "/tests/" in file or "/benches/" in file:
            return False
        frame = frame.f_back
    return False
