"""The debug socket: what containerd has pprof at, with what helps with a Python program.

``GET /debug/stacks`` shows what every thread and task is doing; ``GET`` and ``PUT /debug/loglevel`` show
and change the log's level while the daemon runs. A loop that hangs answers nobody: SIGUSR1 is for that.
What ``ctr pprof`` asks for is below ``/debug/pprof``, as text.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from containerd_hybrid.app import logs, profiles, stacks
from containerd_hybrid.errors import InvalidArgumentError, error_for_os
from containerd_hybrid.metrics.http import HttpServer, Request, Response
from containerd_hybrid.rpc import sockets
from containerd_hybrid.workers import in_own_thread

logger = logging.getLogger(__name__)

MODE = 0o600
# As Go's profiler has it, and one that nobody waits for any longer.
_PROFILE_SECONDS = 30.0
_LONGEST_PROFILE = 3600.0


class DebugServer:
    """HTTP on a Unix socket that only its owner can use."""

    def __init__(self, address: str, owner: sockets.SocketOwner) -> None:
        self._address = address
        self._owner = owner
        self._identity: tuple[int, int] | None = None
        self._stopping = threading.Event()
        self._http = HttpServer(
            {
                "/debug/stacks": {"GET": self._stacks},
                "/debug/loglevel": {"GET": self._level, "PUT": self._set_level},
                "/debug/pprof/goroutine": {"GET": self._stacks},
                "/debug/pprof/heap": {"GET": self._heap},
                "/debug/pprof/profile": {"GET": self._profile},
                "/debug/pprof/threadcreate": {"GET": self._threads},
            }
        )

    async def start(self) -> None:
        """Listen and serve, in the background.

        Raises:
            HybridError: the path is no socket's, or somebody listens there.
        """
        try:
            listener = await asyncio.to_thread(sockets.bind, self._address, self._owner, MODE)
        except OSError as error:
            raise error_for_os(error, f"listen for debugging on {self._address}") from error
        self._identity = sockets.identity(self._address)
        await self._http.serve(listener)
        logger.info("serving debugging", extra={"address": self._address})

    async def drain(self, timeout: float) -> None:
        """See :class:`HttpServer`."""
        self._stopping.set()  # else a profile would be waited for
        await self._http.drain(timeout)

    async def close(self) -> None:
        """End it, and take the socket away."""
        self._stopping.set()
        await self._http.close()
        await asyncio.to_thread(sockets.remove, self._address, self._identity)

    async def _stacks(self, _: Request) -> Response:
        return Response(stacks.stacks(asyncio.get_running_loop()).encode())

    async def _heap(self, _: Request) -> Response:
        return Response((await asyncio.to_thread(profiles.heap)).encode())

    async def _threads(self, _: Request) -> Response:
        return Response((await asyncio.to_thread(profiles.threads)).encode())

    async def _profile(self, request: Request) -> Response:
        text = request.query.get("seconds", str(_PROFILE_SECONDS))
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= _LONGEST_PROFILE:
            raise InvalidArgumentError(f"seconds={text}: a number up to {_LONGEST_PROFILE:.0f} is needed")
        told = await in_own_thread(lambda: profiles.sample(seconds, self._stopping), self._stopping.set)
        return Response(told.encode())

    async def _level(self, _: Request) -> Response:
        return Response(f"{logs.level()}\n".encode())

    async def _set_level(self, request: Request) -> Response:
        try:
            name = request.body.decode("ascii").strip()
        except UnicodeDecodeError:
            raise InvalidArgumentError("send the name of a level, such as debug") from None
        logs.set_level(name)
        logger.warning("log level changed over the debug socket", extra={"to": logs.level()})
        return await self._level(request)
