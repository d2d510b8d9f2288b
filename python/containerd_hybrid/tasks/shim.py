"""A shim we are connected to: the calls of its task service, and who waits for what.

The messages of the task service are the same in version 2 and 3; only the service's name tells them
apart, so the v3 classes serve both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from containerd_hybrid.errors import HybridError, UnavailableError, UnimplementedError, UnknownError
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2 as pb
from containerd_hybrid.tasks.api import Exit
from containerd_hybrid.tasks.bootstrap import Endpoint
from containerd_hybrid.tasks.bundle import Bundle
from containerd_hybrid.tasks.shimlog import ShimLog
from containerd_hybrid.tasks.times import from_wire
from containerd_hybrid.tracing.api import Kind, headers, span
from containerd_hybrid.ttrpc.api import TtrpcClient

M = TypeVar("M", bound=Message)

NAMESPACE_HEADER: Final = "containerd-namespace-ttrpc"
OLDEST_VERSION: Final = 2

# Between a call's failure and the news that its connection is gone.
_NEWS_SECONDS = 1.0


class Shim:
    """One task's connection to the shim that runs it; tasks of a group have one each.

    ``program`` is None for a task that joined the shim of a sandbox whose program is not known.
    ``lost`` says that the connection is gone, ``gone`` that everything was cleaned up.
    """

    def __init__(
        self, bundle: Bundle, program: Path | None, endpoint: Endpoint, client: TtrpcClient, log: ShimLog
    ) -> None:
        self.bundle = bundle
        self.program = program
        self.endpoint = endpoint
        self.version = endpoint.version
        self.lost = asyncio.Event()
        self.gone = asyncio.Event()
        self.pids: dict[str, int] = {}
        # As the container has it; empty until somebody wanted to know.
        self.runtime_name = ""
        # One that runs a sandbox is no task, though tasks may join it.
        self.is_sandbox = False
        # From a checkpoint that was unpacked for it.
        self.restored = False
        # A task in a shim that somebody else started, and will end.
        self.is_guest = False
        self._leaving = False
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._client = client
        self._log = log
        self._metadata = {NAMESPACE_HEADER: bundle.namespace}
        self._waits: dict[str, asyncio.Task[Exit]] = {}
        self._watching = asyncio.create_task(self._watch(), name=f"watch {bundle.id}")

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and id."""
        return self.bundle.namespace, self.bundle.id

    @property
    def last_words(self) -> str:
        """The latest error in the shim's log."""
        return self._log.last_words

    @property
    def leaving(self) -> bool:
        """Whether somebody is taking the shim away."""
        return self._leaving

    async def call(self, method: str, request: Message, response: type[M], timeout: float | None = None) -> M:
        """Call the task service.

        Raises:
            HybridError: what the shim answered.
            UnavailableError: the shim is gone.
            DeadlineExceededError: no answer within ``timeout`` seconds.
        """
        service = f"containerd.task.v{self.version}.Task"
        return await self.ask(service, method, request, response, timeout)

    async def ask(
        self, service: str, method: str, request: Message, response: type[M], timeout: float | None = None
    ) -> M:
        """Call any service of the shim; raises as :meth:`call`."""
        with span(f"{service}/{method}", Kind.CLIENT, rpc__system="ttrpc", container__id=self.bundle.id):
            payload = await self._client.call(
                service,
                method,
                request.SerializeToString(),
                timeout=timeout,
                metadata={**self._metadata, **headers()},
            )
        try:
            return response.FromString(payload)
        except DecodeError as error:
            raise UnknownError(f"the shim of {self.bundle.id} answered {method} with rubbish") from error

    async def call_downgrading(
        self, method: str, request: Message, response: type[M], timeout: float | None = None
    ) -> M:
        """Like :meth:`call`, for the first call to a shim: falls back to the older version of the API.

        A newer program can lead to the older shim of a running group, and then says it is version 3.
        """
        try:
            return await self.call(method, request, response, timeout)
        except UnimplementedError:
            if self.version <= OLDEST_VERSION:
                raise
            self.version -= 1
            return await self.call(method, request, response, timeout)

    async def wait(self, exec_id: str) -> Exit:
        """How a process ends. All who wait for it share one call.

        Raises:
            HybridError: what the shim answered.
            UnavailableError: the shim died, and with it what is known about an exec's end.
        """
        waiting = self._waits.get(exec_id)
        if waiting is None:
            waiting = asyncio.create_task(self._wait(exec_id), name=f"wait {self.bundle.id} {exec_id}")
            waiting.add_done_callback(lambda done: self._forget(exec_id, done))
            self._waits[exec_id] = waiting
        return await asyncio.shield(waiting)

    async def over(self) -> Exit | None:
        """How the task ended if its shim is gone, after it was cleaned up; None while the shim is there."""
        lost = await self.lost_within(_NEWS_SECONDS)
        return await asyncio.shield(self._ended) if lost else None

    async def lost_within(self, seconds: float | None) -> bool:
        """Whether the connection is gone, waiting for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.lost.wait()
        return self.lost.is_set()

    def leave(self) -> bool:
        """Whether the caller is the first who wants to take the shim away, so that only one does."""
        first, self._leaving = not self._leaving, True
        return first

    def end(self, ended: Exit) -> None:
        """The task is over, by a delete or by the death of the shim."""
        if not self._ended.done():
            self._ended.set_result(ended)

    def give_up(self, error: HybridError) -> None:
        """Nobody will learn how the task ends from us."""
        if not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()

    def on_lost(self, action: Callable[[], None]) -> None:
        """Run ``action`` when the connection is gone, soon if it is already."""
        self._watching.add_done_callback(lambda _: action())

    async def close(self) -> None:
        """Close connection and log; the shim lives on."""
        await self._client.close()
        self._log.close()

    async def _watch(self) -> None:
        await self._client.wait_closed()
        self.lost.set()

    async def _wait(self, exec_id: str) -> Exit:
        request = pb.WaitRequest(id=self.bundle.id, exec_id=exec_id)
        try:
            response = await self.call("Wait", request, pb.WaitResponse)
        except UnavailableError as error:
            ended = await self.over()
            if ended is None:
                raise
            if not exec_id:
                return ended
            raise UnavailableError(
                f"the shim of task {self.bundle.id} died before process {exec_id} was seen to end"
            ) from error
        return Exit(self.pids.get(exec_id, 0), response.exit_status, from_wire(response.exited_at))

    def _forget(self, exec_id: str, done: asyncio.Task[Exit]) -> None:
        self._waits.pop(exec_id, None)
        # Looked at here, because everybody who waited may be gone.
        if not done.cancelled():
            done.exception()
