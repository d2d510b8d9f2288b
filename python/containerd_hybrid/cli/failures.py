"""Failures become one line that says what to do, and an exit code; tracebacks are for HYCTL_DEBUG=1."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable

from containerd_hybrid.errors import HybridError

# Docker's codes for a command that cannot be started, by what OCI runtimes say.
CANNOT_INVOKE = 126
NOT_FOUND = 127
_NOT_FOUND = re.compile(
    r"\bexec(?:utable|:).*(?:not found|no such file or directory)", re.IGNORECASE | re.DOTALL
)
_CANNOT_INVOKE = re.compile(
    r"\bexec(?:utable|ve|:| ).*(?:permission denied|exec format error|is a directory)",
    re.IGNORECASE | re.DOTALL,
)


class NotStartedError(Exception):
    """A process could not be started: that has exit codes of its own."""

    def __init__(self, error: HybridError) -> None:
        super().__init__(error.message)
        self.error = error


def report(work: Callable[[], int], failure: int) -> int:
    """Run a command; what it returns, or the code for what it raised. ``failure`` is for most of that."""
    try:
        code = work()
        sys.stdout.flush()
    except NotStartedError as failed:
        say(failed.error.message, failed.error)
        return start_code(failed.error, failure)
    except HybridError as error:
        say(error.message, error)
        return failure
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads on; what is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        say(f"{error.filename}: {error.strerror}" if error.filename else str(error), error)
        return failure
    except Exception as error:
        say(f"unexpected {type(error).__name__}: {error} (HYCTL_DEBUG=1 shows where)", error)
        return failure
    return code


def say(message: str, error: BaseException | None = None) -> None:
    """One line to stderr, the traceback before it when it is wanted."""
    if error is not None and os.environ.get("HYCTL_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    print(f"hyctl: {message}", file=sys.stderr)


def start_code(error: HybridError, otherwise: int) -> int:
    """The exit code for a process that could not be started."""
    if _NOT_FOUND.search(error.message):
        return NOT_FOUND
    return CANNOT_INVOKE if _CANNOT_INVOKE.search(error.message) else otherwise
