"""What every thread and task of the process is doing, for SIGUSR1."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path

logger = logging.getLogger(__name__)


def dump(loop: asyncio.AbstractEventLoop | None) -> None:
    """Write all stacks to the log and to ``containerd.PID.stacks.log`` in the temporary folder."""
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
    """The stacks as text: threads first, then the tasks of ``loop``."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for identity, frame in sys._current_frames().items():
        lines = "".join(traceback.format_stack(frame))
        parts.append(f"thread {identity} [{names.get(identity, 'unknown')}]:\n{lines}")
    for task in asyncio.all_tasks(loop) if loop is not None else ():
        out = io.StringIO()
        task.print_stack(file=out)
        parts.append(f"task {task.get_name()}:\n{out.getvalue()}")
    return "\n".join(parts)


def _write(path: Path, text: str) -> None:
    """The folder is everybody's: a link that somebody put there is not followed."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
