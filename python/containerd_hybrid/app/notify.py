"""Tells a service manager how the daemon is (sd_notify(3)); without one, nothing is sent."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time

logger = logging.getLogger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"


class Notifier:
    """Takes ``NOTIFY_SOCKET`` from the environment, so that children do not speak for the daemon."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def send(self, state: str) -> None:
        """Send a state; that nobody listens is logged and no failure."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.connect(address)
                sender.sendall(state.encode())
        except OSError as error:
            logger.warning("service manager was not told", extra={"state": state, "error": str(error)})

    def reloading(self) -> contextlib.AbstractContextManager[None]:
        """RELOADING before the block and READY after it."""
        return _Reloading(self)


class _Reloading(contextlib.AbstractContextManager[None]):
    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    def __enter__(self) -> None:
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.send(f"RELOADING=1\nMONOTONIC_USEC={microseconds}")

    def __exit__(self, *_: object) -> None:
        self._notifier.send(READY)
