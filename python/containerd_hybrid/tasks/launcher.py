"""The life of a shim from start to clean-up, whoever asks for it: a client, or a starting daemon.

A shim leaves in one of three ways:

* its task was deleted (:meth:`Launcher.dismiss`): it is told to shut down;
* its task could not be made (:meth:`Launcher.abandon`): whatever there is of it is taken away by force;
* it died (:meth:`Launcher.watch`): its program's ``delete`` action cleans up after it, and the exit and
  delete events that it can no longer publish are published for it, with status 137.

In each case the bundle goes last. What cannot be cleaned up stays on disk, is logged, and is tried
again when a task of that name is created or the daemon starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.errors import HybridError, NotFoundError, UnavailableError
from containerd_hybrid.events.api import EventExchange, TaskDelete, TaskExit
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.mounts.api import Mounter
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2 as pb
from containerd_hybrid.tasks import bootstrap
from containerd_hybrid.tasks.api import Exit
from containerd_hybrid.tasks.bootstrap import Endpoint
from containerd_hybrid.tasks.bundle import Bundle, Bundles, mounts_below
from containerd_hybrid.tasks.program import ShimPrograms
from containerd_hybrid.tasks.settings import ShimSettings
from containerd_hybrid.tasks.shim import Shim
from containerd_hybrid.tasks.shimlog import ShimLog
from containerd_hybrid.tasks.strays import find_strays
from containerd_hybrid.tasks.table import TaskTable
from containerd_hybrid.ttrpc.api import Connector

log = logging.getLogger(__name__)

UNKNOWN_STATUS = 255

_OURS = "containerd-shim-hybrid-v2"

# What a shim that tells of a delete after it has answered gets for that, in seconds.
_FAREWELL = 0.5

# Their Delete leaves nothing for the program's own delete action, which costs a process or two.
_THOROUGH = frozenset({_OURS, "containerd-shim-runc-v2"})


class Launcher:
    """Starts shims, reconnects to them, and takes them away."""

    def __init__(
        self,
        bundles: Bundles,
        table: TaskTable,
        events: EventExchange,
        mounter: Mounter,
        connect: Connector,
        settings: ShimSettings,
    ) -> None:
        self.bundles = bundles
        self.table = table
        self.programs = ShimPrograms(settings)
        self._events = events
        self._mounter = mounter
        self._connect = connect
        self.timeouts = settings.timeouts
        self._live: set[Shim] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def start(self, program: Path, bundle: Bundle, options: AnyValue | None) -> Shim:
        """Start the bundle's shim and connect to it. The caller cleans up when this fails.

        Raises:
            HybridError: the program failed, took too long, or its shim cannot be reached.
        """
        # Before the start, so that a daemon killed during it knows what to clean up with.
        await asyncio.to_thread(bundle.record_shim_path, program)
        shim_log = await ShimLog.open(bundle)
        try:
            endpoint = await self.programs.start(program, bundle, options)
            await asyncio.to_thread(bootstrap.save, bundle, endpoint)
            return await self._meet(program, bundle, endpoint, shim_log)
        except BaseException:
            shim_log.close()
            raise

    async def join(
        self, program: Path | None, bundle: Bundle, endpoint: Endpoint, sandbox: str, *, guest: bool = False
    ) -> Shim:
        """Connect to the shim of a sandbox, which takes the bundle's task as another one of its own.

        As a ``guest`` of a shim that this daemon did not start, the task never shuts it down.
        """
        await asyncio.to_thread(bundle.record_sandbox, sandbox)
        if guest:
            await asyncio.to_thread(bundle.record_guest)
        await asyncio.to_thread(bootstrap.save, bundle, endpoint)
        return await self.reconnect(program, bundle, endpoint)

    async def reconnect(self, program: Path | None, bundle: Bundle, endpoint: Endpoint) -> Shim:
        """Connect to a shim that runs.

        Raises:
            UnavailableError: it does not.
        """
        shim_log = await ShimLog.open(bundle)
        try:
            return await self._meet(program, bundle, endpoint, shim_log)
        except BaseException:
            shim_log.close()
            raise

    def watch(self, shim: Shim) -> None:
        """From now on clean up after the shim when it dies."""
        shim.on_lost(lambda: self._lost(shim))

    @asynccontextmanager
    async def farewell(self, shim: Shim) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """To delete a task in; gives a function that waits until the shim's event of it has come.

        Go's shims answer Delete before they publish the event, and a Shutdown that comes quickly takes
        them away before they could (one event in five, with the shim of containerd 2.4). Ours do not.
        """
        if shim.program is not None and shim.program.name == _OURS:
            yield _nothing
            return
        namespace, task = shim.key
        wanted = f'topic=="{TaskDelete.topic}",namespace=={namespace},event.container_id=={task}'
        async with self._events.subscribe([wanted]) as events:

            async def told() -> None:
                with contextlib.suppress(TimeoutError, StopAsyncIteration):
                    async with asyncio.timeout(_FAREWELL):
                        await anext(events)

            yield told

    async def dismiss(self, shim: Shim, ended: Exit) -> None:
        """Take away the shim of a deleted task, and its bundle. Not undone by cancelling the caller."""
        self.table.hide(shim)
        shim.end(ended)
        if shim.leave():
            self.spawn(self._dismiss(shim))
        await shim.gone.wait()

    async def abandon(self, shim: Shim) -> None:
        """Take away a shim whose task could not be made or is not known, with all it may have started."""
        shim.leave()
        request = pb.DeleteRequest(id=shim.bundle.id)
        deleted = await self._tell(shim, "Delete", request, self.timeouts.cleanup)
        await self._shut(shim)
        if not deleted:
            await self._delete_action(shim.program, shim.bundle)
        await self._sweep(shim.bundle)

    async def clear(self, bundle: Bundle, program: Path | None) -> Exit:
        """Take away a bundle whose shim is gone, and what is left of its container.

        The result is what the program's ``delete`` action says, or status 255 when it could not.
        """
        await self._kill_strays(bundle)
        ended = await self._delete_action(program, bundle)
        await asyncio.to_thread(_remove_socket, bundle)
        await self._sweep(bundle)
        return ended

    async def remove(self, bundle: Bundle) -> None:
        """Unmount and delete a bundle.

        Raises:
            HybridError, OSError: it could not be deleted.
        """
        await self._unmount(bundle.path)
        await asyncio.to_thread(self.bundles.remove, bundle)

    async def remove_rubbish(self, path: Path) -> None:
        """Delete a folder that an interrupted removal or a reboot left.

        Raises:
            HybridError, OSError: it could not be deleted.
        """
        await self._unmount(path)
        await asyncio.to_thread(self.bundles.remove_rubbish, path)

    async def _unmount(self, bundle: Path) -> None:
        """Take down the root file system, and what else a dead shim left mounted in its bundle."""
        await self._mounter.unmount(bundle / "rootfs")
        # Innermost first: parts of a root file system, a sandbox's /dev/shm.
        for point in reversed(await asyncio.to_thread(mounts_below, bundle)):
            log.info("unmounting %s, which its shim left", point)
            await self._mounter.unmount(Path(point))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that must come to its end though nobody waits for it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """Leave the shims to themselves; clean-ups in progress are brought to their end."""
        for shim in list(self._live):
            if shim.leave():
                shim.give_up(UnavailableError("the daemon is stopping; its containers go on"))
                await shim.close()
                shim.gone.set()
        while self._background:
            await asyncio.wait(self._background)

    async def _meet(
        self, program: Path | None, bundle: Bundle, endpoint: Endpoint, shim_log: ShimLog
    ) -> Shim:
        address = endpoint.address
        if "://" not in address:
            # Shims before containerd 1.4 listened in the abstract namespace and gave the bare name.
            address = f"@{address}"
        client = await self._connect(address, timeout=self.timeouts.load)
        shim = Shim(bundle, program, endpoint, client, shim_log)
        shim.is_guest = await asyncio.to_thread(bundle.is_guest)
        self._live.add(shim)
        shim.on_lost(lambda: self._live.discard(shim))
        return shim

    def _lost(self, shim: Shim) -> None:
        if shim.leave():
            self.spawn(self._bury(shim))

    async def _bury(self, shim: Shim) -> None:
        namespace, task = shim.key
        log.warning("the shim disconnected", extra=_names(shim.bundle))
        await shim.close()
        ended = await self.clear(shim.bundle, shim.program)
        if self.table.hide(shim):
            self._events.publish(namespace, TaskExit(task, task, ended.pid, ended.status, ended.exited_at))
            self._events.publish(namespace, TaskDelete(task, ended.pid, ended.status, ended.exited_at))
        shim.end(ended)
        self._gone(shim)

    async def _dismiss(self, shim: Shim) -> None:
        await self._shut(shim)
        if shim.program is not None and shim.program.name not in _THOROUGH:
            await self._delete_action(shim.program, shim.bundle)
        await self._sweep(shim.bundle)
        self._gone(shim)

    async def _shut(self, shim: Shim) -> None:
        """Tell the shim to shut down, and see to it unless it has other tasks."""
        if self._hosted(shim):
            # Some shims only count their tasks, and would take the sandbox down with the last of them.
            await shim.close()
            return
        request = pb.ShutdownRequest(id=shim.bundle.id)
        told = await self._tell(shim, "Shutdown", request, self.timeouts.shutdown)
        if not self._shared(shim.bundle, shim.endpoint.address):
            # The shim still needs the bundle, to find its socket and remove it.
            if not (await shim.lost_within(self.timeouts.shutdown) and told):
                await self._kill_strays(shim.bundle)
            await asyncio.to_thread(_remove_socket, shim.bundle)
        await shim.close()

    def _gone(self, shim: Shim) -> None:
        self.table.release(shim.key)
        shim.gone.set()

    def _shared(self, bundle: Bundle, address: str) -> bool:
        """Whether the shim there has other tasks too, be they only in the making."""
        return any(s.endpoint.address == address and s.bundle != bundle and not s.leaving for s in self._live)

    def _hosted(self, shim: Shim) -> bool:
        """Whether the shim is that of a sandbox, which lives on without tasks."""
        address = shim.endpoint.address
        return shim.is_guest or any(
            s.is_sandbox and s is not shim and s.endpoint.address == address for s in self._live
        )

    async def _tell(
        self, shim: Shim, method: str, request: pb.DeleteRequest | pb.ShutdownRequest, timeout: float | None
    ) -> bool:
        """Whether the shim says that it did it, or that there was nothing to do."""
        try:
            await shim.call(method, request, Empty, timeout)
        except NotFoundError:
            return True
        except UnavailableError:
            # Some shims close the connection before they answer Shutdown.
            return False
        except HybridError as error:
            log.warning("shim %s failed: %s", method, error.message, extra=_names(shim.bundle))
            return False
        return True

    async def _delete_action(self, program: Path | None, bundle: Bundle) -> Exit:
        unknown = Exit(0, UNKNOWN_STATUS, time.time_ns())
        if program is None:
            return unknown
        try:
            return await self.programs.delete(program, bundle)
        except HybridError as error:
            log.warning("failed to clean up after a shim: %s", error.message, extra=_names(bundle))
            return unknown

    async def _sweep(self, bundle: Bundle) -> None:
        try:
            await self.remove(bundle)
        except (HybridError, OSError) as error:
            log.error("failed to delete the bundle %s: %s", bundle.path, error, extra=_names(bundle))

    async def _kill_strays(self, bundle: Bundle) -> None:
        """End shims of this bundle that do not listen to us: hung, or started when the daemon was killed."""
        with contextlib.suppress(HybridError):
            if self._shared(bundle, (await asyncio.to_thread(bootstrap.load, bundle)).address):
                return
        for stray in await asyncio.to_thread(find_strays, bundle):
            with contextlib.closing(stray):
                log.warning("killing the stray shim %d", stray.pid, extra=_names(bundle))
                await stray.kill()


async def _nothing() -> None:
    pass


def _remove_socket(bundle: Bundle) -> None:
    """Delete the socket file of a dead shim. Nobody listens there, or we would have reached it."""
    try:
        address = bootstrap.load(bundle).address
    except HybridError:
        return
    path = Path(address.removeprefix("unix://"))
    if not path.is_absolute():
        return
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode) and not _listening(path):
            path.unlink()


def _listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.1)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
    return True


def _names(bundle: Bundle) -> dict[str, str]:
    return {"namespace": bundle.namespace, "container": bundle.id}
