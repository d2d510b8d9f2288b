"""A process in a container: its init process, or one that was started beside it."""

from __future__ import annotations

import asyncio
import signal as signals
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.stdio import ProcessStreams
from containerd_hybrid.errors import HybridError, InvalidArgumentError, NotFoundError
from containerd_hybrid.proto.services.tasks.v1 import tasks_pb2
from containerd_hybrid.tasks.api import Status

_TASKS = tasks_pb2.DESCRIPTOR.services_by_name["Tasks"]


@dataclass(frozen=True, slots=True)
class Exited:
    """How a process ended: ``status`` as a shell shows it, ``exited_at`` in Unix nanoseconds."""

    status: int
    exited_at: int


def signal_number(signal: int | str) -> int:
    """The number of ``9``, ``"9"``, ``"KILL"`` or ``"SIGKILL"``.

    Raises:
        InvalidArgumentError: there is no such signal.
    """
    text = str(signal).upper()
    if text.isdecimal():
        number = int(text)
    else:
        name = text if text.startswith("SIG") else f"SIG{text}"
        found = getattr(signals.Signals, name, None)
        number = int(found) if found is not None else 0
    if not 1 <= number <= signals.SIGRTMAX:
        raise InvalidArgumentError(f"there is no signal {signal!r}")
    return number


class AsyncProcess:
    """A process that was created; ``exec_id`` is empty for the init process."""

    def __init__(
        self, calls: Calls, container_id: str, exec_id: str, streams: ProcessStreams | None = None
    ) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self.pid = 0
        self._calls = calls
        self._streams = streams

    async def start(self) -> None:
        """Let it run."""
        request = tasks_pb2.StartRequest(container_id=self.container_id, exec_id=self.exec_id)
        self.pid = (await self._calls.unary(_TASKS, "Start", request, tasks_pb2.StartResponse)).pid

    async def status(self) -> Status:
        """Its state now."""
        request = tasks_pb2.GetRequest(container_id=self.container_id, exec_id=self.exec_id)
        answer = await self._calls.unary(_TASKS, "Get", request, tasks_pb2.GetResponse)
        return Status(answer.process.status)

    async def wait(self) -> Exited:
        """Wait until it has ended and all of its output has been handed over."""
        request = tasks_pb2.WaitRequest(container_id=self.container_id, exec_id=self.exec_id)
        answer = await self._calls.unary(_TASKS, "Wait", request, tasks_pb2.WaitResponse)
        if self._streams is not None:
            await self._streams.drained()
        return Exited(answer.exit_status, answer.exited_at.ToNanoseconds())

    async def kill(self, signal: int | str = signals.SIGTERM, *, all: bool = False) -> None:
        """Send a signal, with ``all`` to every process of the container.

        Raises:
            NotFoundError: it has ended.
        """
        request = tasks_pb2.KillRequest(
            container_id=self.container_id, exec_id=self.exec_id, signal=signal_number(signal), all=all
        )
        await self._calls.unary(_TASKS, "Kill", request, Empty)

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
        answer = await self._calls.unary(_TASKS, *self._deletion(), tasks_pb2.DeleteResponse)
        await self.detach()
        return Exited(answer.exit_status, answer.exited_at.ToNanoseconds())

    async def detach(self) -> None:
        """Stop following its streams; it goes on."""
        if self._streams is not None:
            await self._streams.close()
            self._streams = None

    async def discard(self) -> None:
        """End it, whatever state it is in, and forget it. Nothing is raised when it is gone already."""
        try:
            with suppress(NotFoundError):
                await self._end()
        finally:
            await self.detach()

    async def _end(self) -> None:
        with suppress(HybridError):  # it ended, or never started; deleting it tells
            await self.kill(signals.SIGKILL, all=not self.exec_id)
        for _ in range(100):
            status = await self.status()
            if status in {Status.STOPPED, Status.CREATED}:
                break
            await asyncio.sleep(0.02)
        await self._calls.unary(_TASKS, *self._deletion(), tasks_pb2.DeleteResponse)

    def _deletion(self) -> tuple[str, tasks_pb2.DeleteTaskRequest | tasks_pb2.DeleteProcessRequest]:
        if self.exec_id:
            return "DeleteProcess", tasks_pb2.DeleteProcessRequest(
                container_id=self.container_id, exec_id=self.exec_id
            )
        return "Delete", tasks_pb2.DeleteTaskRequest(container_id=self.container_id)
