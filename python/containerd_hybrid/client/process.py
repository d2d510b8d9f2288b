"""A process in a container: its init process, or one that was started beside it."""

from __future__ import annotations

import asyncio
import signal as signals
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.stdio import ProcessStreams
from containerd_hybrid.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.proto.services.tasks.v1 import tasks_pb2
from containerd_hybrid.tasks.api import Status

_TASKS = tasks_pb2.DESCRIPTOR.services_by_name["Tasks"]
# A killed process that is not gone by then waits for the kernel, for a dead disk perhaps.
_KILL_SECONDS = 30.0
# How long a daemon may be away while somebody waits for a process, how often it is looked for, and
# after how long of a call it counts as having been there.
_RESTART_SECONDS = 30.0
_RETRY_SECONDS = 0.25
_STABLE_SECONDS = 5.0
_ALIVE = frozenset({Status.RUNNING, Status.PAUSED, Status.PAUSING})


@dataclass(frozen=True, slots=True)
class Exited:
    """How a process ended: ``status`` as a shell shows it, ``exited_at`` in Unix nanoseconds."""

    status: int
    exited_at: int


def signal_number(signal: int | str) -> int:
    """The number of ``9``, ``"9"``, ``"KILL"``, ``"SIGKILL"`` or ``"RTMIN+3"``.

    Raises:
        InvalidArgumentError: there is no such signal.
    """
    text = str(signal).upper().removeprefix("SIG")
    base, plus, offset = text.partition("+")
    number = 0
    if text.isdecimal():
        number = int(text)
    elif not plus or offset.isdecimal():
        found = getattr(signals.Signals, f"SIG{base}", None)
        number = int(found) + int(offset or 0) if found is not None else 0
    if not 1 <= number <= signals.SIGRTMAX:
        raise InvalidArgumentError(f"there is no signal {signal!r}")
    return number


class AsyncProcess:
    """A process that was created; ``exec_id`` is empty for the init process, ``pid`` 0 while not known."""

    container_id: str
    exec_id: str
    pid: int

    def __init__(
        self, calls: Calls, container_id: str, exec_id: str, streams: ProcessStreams | None = None
    ) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self.pid = 0
        self._calls = calls
        self._streams = streams

    async def start(self) -> None:
        """Let it run.

        Raises:
            FailedPreconditionError: it runs already, or has run.
        """
        request = tasks_pb2.StartRequest(container_id=self.container_id, exec_id=self.exec_id)
        self.pid = (await self._calls.unary(_TASKS, "Start", request, tasks_pb2.StartResponse)).pid

    async def status(self) -> Status:
        """Its state now."""
        request = tasks_pb2.GetRequest(container_id=self.container_id, exec_id=self.exec_id)
        answer = await self._calls.unary(_TASKS, "Get", request, tasks_pb2.GetResponse)
        self.pid = answer.process.pid
        return Status(answer.process.status)

    async def wait(self) -> Exited:
        """Wait until it has ended and all of its output has been handed over.

        What it left running and still holds its streams is waited for while it writes. A daemon that is
        started anew meanwhile is waited for too, for half a minute.

        Raises:
            Exception: what the function raised that was given for its output.
        """
        exited = await self._wait()
        if self._streams is not None:
            try:
                await self._streams.drained()
            finally:
                await self.detach()
        return exited

    async def kill(self, signal: int | str = signals.SIGTERM, *, all: bool = False) -> None:
        """Send a signal, with ``all`` to every process of the container.

        Raises:
            NotFoundError: it has ended.
        """
        request = tasks_pb2.KillRequest(
            container_id=self.container_id, exec_id=self.exec_id, signal=signal_number(signal), all=all
        )
        await self._calls.unary(_TASKS, "Kill", request, Empty)

    async def stop(self, signal: int | str = signals.SIGTERM, *, timeout: float = 10) -> None:
        """Ask it to end with ``signal``, and kill it when it has not after ``timeout`` seconds.

        Raises:
            DeadlineExceededError: it is not gone even then.
        """
        ended = asyncio.ensure_future(self._wait())
        try:
            with suppress(NotFoundError):
                await self.kill(signal)
            await asyncio.wait({ended}, timeout=timeout)
            if not ended.done():
                await self._kill_now()
                await asyncio.wait({ended}, timeout=_KILL_SECONDS)
            if not ended.done():
                raise DeadlineExceededError(
                    f"{self._name} was killed but does not end: see whether it waits for a device or a disk"
                )
            ended.result()
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def pause(self) -> None:
        """Let no process of the container go on until :meth:`resume`."""
        await self._calls.unary(
            _TASKS, "Pause", tasks_pb2.PauseTaskRequest(container_id=self.container_id), Empty
        )

    async def resume(self) -> None:
        """Let the processes of a paused container go on."""
        request = tasks_pb2.ResumeTaskRequest(container_id=self.container_id)
        await self._calls.unary(_TASKS, "Resume", request, Empty)

    async def resize(self, width: int, height: int) -> None:
        """Tell its terminal how many columns and rows there are."""
        request = tasks_pb2.ResizePtyRequest(
            container_id=self.container_id, exec_id=self.exec_id, width=width, height=height
        )
        await self._calls.unary(_TASKS, "ResizePty", request, Empty)

    async def close_stdin(self) -> None:
        """Let it see the end of its input, once what was written has been read."""
        request = tasks_pb2.CloseIORequest(container_id=self.container_id, exec_id=self.exec_id, stdin=True)
        await self._calls.unary(_TASKS, "CloseIO", request, Empty)

    async def delete(self) -> Exited:
        """Forget it; for the init process this ends the task. What still runs is not deleted.

        Raises:
            FailedPreconditionError: it still runs.
        """
        exited = await self._delete()
        await self.detach()
        return exited

    async def detach(self) -> None:
        """Stop following its streams; it goes on."""
        streams, self._streams = self._streams, None
        if streams is not None:
            await streams.close()

    async def discard(self) -> None:
        """End it, whatever state it is in, and forget it. Nothing is raised when it is gone already."""
        try:
            with suppress(NotFoundError):
                await self._end()
        finally:
            await self.detach()

    async def _end(self) -> None:
        status = await self.status()
        # An exec that was never started has no process that could be waited for.
        if status is not Status.STOPPED and not (status is Status.CREATED and self.exec_id):
            await self.stop(signals.SIGKILL, timeout=0)
        await self._delete()

    async def _kill_now(self) -> None:
        with suppress(NotFoundError):
            await self.kill(signals.SIGKILL, all=not self.exec_id)
        with suppress(HybridError):
            if await self.status() in {Status.PAUSED, Status.PAUSING}:
                await self.resume()  # the signal only arrives when the process runs

    async def _wait(self) -> Exited:
        """Also across a restart of the daemon, which finds the process again."""
        request = tasks_pb2.WaitRequest(container_id=self.container_id, exec_id=self.exec_id)
        clock = asyncio.get_running_loop().time
        give_up: float | None = None
        while True:
            begun = clock()
            try:
                answer = await self._calls.unary(_TASKS, "Wait", request, tasks_pb2.WaitResponse)
            except UnavailableError:
                # The time counts from the first failure, and anew when the daemon was there in between.
                if give_up is None or clock() - begun > _STABLE_SECONDS:
                    give_up = clock() + _RESTART_SECONDS
                if clock() > give_up:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return Exited(answer.exit_status, answer.exited_at.ToNanoseconds())

    async def _delete(self) -> Exited:
        if self.exec_id:
            request: tasks_pb2.DeleteTaskRequest | tasks_pb2.DeleteProcessRequest = (
                tasks_pb2.DeleteProcessRequest(container_id=self.container_id, exec_id=self.exec_id)
            )
            method = "DeleteProcess"
        else:
            request = tasks_pb2.DeleteTaskRequest(container_id=self.container_id)
            method = "Delete"
        try:
            answer = await self._calls.unary(_TASKS, method, request, tasks_pb2.DeleteResponse)
        except (FailedPreconditionError, UnknownError) as error:
            # Older daemons have no code of their own for this.
            if await self.status() not in _ALIVE:
                raise
            raise FailedPreconditionError(f"{self._name} still runs: stop it first") from error
        return Exited(answer.exit_status, answer.exited_at.ToNanoseconds())

    @property
    def _name(self) -> str:
        process = f"process {self.exec_id!r} of " if self.exec_id else ""
        return f"{process}container {self.container_id!r}"
