"""A starting daemon takes over the shims that outlived the one before.

What it finds of each bundle, and what it does:

* its shim answers and has the task: the task is adopted, running or not. One that exited meanwhile is
  a stopped task like any other: its shim knows the exit code.
* its shim answers and has no such task (the daemon was killed while it made one): the shim goes.
* its shim accepts a connection but does not answer in time: the task is adopted, so that it can be
  reached when the shim recovers, and reported. (containerd kills the container here.)
* nobody listens, or no shim was reached before the daemon was killed: the program's ``delete`` action
  takes away what there is, then the bundle goes. No events are published: nobody has subscribed yet.

Bundles are looked at side by side, each within a bounded time. Interrupted removals are finished and
working folders without a bundle are removed. What fails is reported and stays for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

from containerd_hybrid.containers.api import ContainerStore
from containerd_hybrid.errors import DeadlineExceededError, HybridError, NotFoundError, UnavailableError
from containerd_hybrid.model import Scope
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2 as pb
from containerd_hybrid.tasks import bootstrap
from containerd_hybrid.tasks.api import AdoptionReport
from containerd_hybrid.tasks.bundle import Bundle
from containerd_hybrid.tasks.launcher import Launcher
from containerd_hybrid.tasks.runtimes import Runtimes
from containerd_hybrid.tasks.shim import Shim

log = logging.getLogger(__name__)

PARALLEL = 16


@dataclass(slots=True)
class _Findings:
    adopted: list[str] = field(default_factory=list)
    cleaned: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Adoption:
    """Run once, before the first client is served."""

    def __init__(
        self,
        containers: ContainerStore,
        runtimes: Runtimes,
        launcher: Launcher,
        *,
        parallel: int = PARALLEL,
    ) -> None:
        self._containers = containers
        self._runtimes = runtimes
        self._launcher = launcher
        self._parallel = asyncio.Semaphore(parallel)

    async def run(self) -> AdoptionReport:
        """Adopt and clean up; names in the report are ``namespace/id``, or paths."""
        bundles = self._launcher.bundles
        found = _Findings()
        await asyncio.to_thread(bundles.prepare)
        everything = await asyncio.to_thread(lambda: list(bundles.all()))
        await asyncio.gather(*(self._within_limits(bundle, found) for bundle in everything))
        await self._remove_rubbish(found)
        return AdoptionReport(tuple(sorted(found.adopted)), tuple(sorted(found.cleaned)), found.failed)

    async def _within_limits(self, bundle: Bundle, found: _Findings) -> None:
        name = f"{bundle.namespace}/{bundle.id}"
        limit = self._limit()
        async with self._parallel:
            try:
                async with asyncio.timeout(limit):
                    if await self._adopt(bundle, name, found):
                        found.adopted.append(name)
                    elif await asyncio.to_thread(bundle.path.exists):
                        found.failed[name] = f"{bundle.path} could not be removed"
                    else:
                        found.cleaned.append(name)
            except TimeoutError:
                found.failed[name] = f"not done within {limit} seconds"
            except (HybridError, OSError) as error:
                found.failed[name] = str(error)

    def _limit(self) -> float | None:
        timeouts = self._launcher.timeouts
        if timeouts.load is None or timeouts.cleanup is None or timeouts.shutdown is None:
            return None
        # Reconnecting and asking; then Delete, Shutdown, its effect, the delete action, unmounting.
        return 2 * timeouts.load + 3 * timeouts.cleanup + 2 * timeouts.shutdown

    async def _adopt(self, bundle: Bundle, name: str, found: _Findings) -> bool:
        """Whether the bundle's task was adopted; it was cleared away otherwise."""
        self._launcher.bundles.get(bundle.namespace, bundle.id)
        program = await self._program(bundle)
        try:
            endpoint = await asyncio.to_thread(bootstrap.load, bundle)
            shim = await self._launcher.reconnect(program, bundle, endpoint)
        except (NotFoundError, UnavailableError) as error:
            log.info("clearing %s: %s", name, error.message)
            await self._launcher.clear(bundle, program)
            return False
        request = pb.StateRequest(id=bundle.id)
        try:
            state = await shim.call_downgrading(
                "State", request, pb.StateResponse, self._launcher.timeouts.load
            )
            shim.pids[""] = state.pid
        except NotFoundError:
            log.info("clearing %s: its shim has no such task", name)
            await self._launcher.abandon(shim)
            return False
        except UnavailableError as error:
            log.info("clearing %s: %s", name, error.message)
            await shim.close()
            await self._launcher.clear(bundle, program)
            return False
        except DeadlineExceededError as error:
            found.failed[name] = f"adopted, but its shim does not answer: {error.message}"
        except BaseException:
            await shim.close()
            raise
        self._register(shim)
        return True

    def _register(self, shim: Shim) -> None:
        table = self._launcher.table
        table.reserve(shim.key)
        table.add(shim)
        self._launcher.watch(shim)

    async def _program(self, bundle: Bundle) -> Path | None:
        """What the shim was started with, or else what its container's runtime is now."""
        recorded = await asyncio.to_thread(bundle.shim_path)
        if recorded is not None and await asyncio.to_thread(recorded.is_file):
            return recorded
        with contextlib.suppress(HybridError):
            container = await self._containers.get(Scope(bundle.namespace), bundle.id)
            return await asyncio.to_thread(self._runtimes.resolve, container.runtime_name)
        return None

    async def _remove_rubbish(self, found: _Findings) -> None:
        bundles = self._launcher.bundles
        paths = await asyncio.to_thread(lambda: [*bundles.rubbish(), *bundles.unused_works()])
        for path in paths:
            try:
                await self._launcher.remove_rubbish(path)
                found.cleaned.append(str(path))
            except (HybridError, OSError) as error:
                found.failed[str(path)] = str(error)
