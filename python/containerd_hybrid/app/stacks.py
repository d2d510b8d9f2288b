"""What every thread and task of the process is doing, for SIGUSR1."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

logger = logging.getLogger(__name__)


def dump(loop: asyncio.AbstractEventLoop | None) -> None:
    """Write all stacks to the log and to ``containerd.PID.stacks.log`` in the temporary folder."""
    import tempfile

    text = stacks(loop)
    logger.info("=== BEGIN stack dump ===\n%s\n=== END stack dump ===", text)
    path = Path(tempfile.gettempdir()) / f"containerd.{os.getpid()}.stacks.log"
    try:
        _write(path, text)
    except OSError as error:
        logger.warning("stack dump was not written", extra={"path": str(path), "error": str(error)})
    else:
        logger.info("stack dump written to %s", path)


def stacks(loop: asyncio.AbstractEventLoop | None) -> str:
    """The stacks as text, innermost call last: threads first, then the tasks of ``loop``.

    Source lines are left out: to read them, a process that is stuck would need its disk.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for identity, frame in sys._current_frames().items():
        title = f"thread {identity} [{names.get(identity, 'unknown')}]"
        parts.append(_shown(title, reversed(list(_callers(frame)))))
    tasks = asyncio.all_tasks(loop) if loop is not None else ()
    parts += [_shown(f"task {task.get_name()}", _awaited(task.get_coro())) for task in tasks]
    return "\n".join(parts)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaited(awaitable: object) -> Iterator[FrameType]:
    """The frames of a coroutine and of what it waits for, in turn."""
    while awaitable is not None:
        for kind, following in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(awaitable, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                awaitable = getattr(awaitable, following)
                break
        else:
            return


def _shown(title: str, frames: Iterable[FrameType]) -> str:
    lines = [f'  File "{f.f_code.co_filename}", line {f.f_lineno}, in {f.f_code.co_qualname}' for f in frames]
    return "\n".join((f"{title}:", *lines, ""))


def _write(path: Path, text: str) -> None:
    """The folder is everybody's: a link that somebody put there is not followed."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
