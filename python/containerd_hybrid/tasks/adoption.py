"""A starting daemon takes over the shims that outlived the one before.

What it finds of each bundle, and what it does:

* its shim answers and has the task: the task is adopted, running or not. One that exited meanwhile is
  a stopped task like any other: its shim knows the exit code.
* its shim answers and has no such task (the daemon was killed while it made one): the shim goes.
* its shim accepts a connection but does not answer in time: the task is adopted, so that it can be
  reached when the shim recovers, and reported. (containerd kills the container here.)
* nobody listens, or no shim was reached before the daemon was killed: the program's ``delete`` action
  takes away what there is, then the bundle goes. No events are published: nobody has subscribed yet.

Bundles are looked at side by side (:mod:`~containerd_hybrid.tasks.bounded`), each within a bounded time.
Interrupted removals are finished and working folders without a bundle are removed. What fails is reported
and stays for the next start.
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
from containerd_hybrid.tasks.bounded import PARALLEL, each
from containerd_hybrid.tasks.bundle import Bundle
from containerd_hybrid.tasks.launcher import Launcher
from containerd_hybrid.tasks.runtimes import Runtimes
from containerd_hybrid.tasks.shim import Shim

log = logging.getLogger(__name__)


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
        self._parallel = parallel

    async def run(self) -> AdoptionReport:
        """Adopt and clean up; names in the report are ``namespace/id``, or paths."""
        bundles = self._launcher.bundles
        found = _Findings()
        await asyncio.to_thread(bundles.prepare)
        everything = await asyncio.to_thread(lambda: list(bundles.all()))

        async def look(bundle: Bundle) -> None:
            name = _name(bundle)
            if await self._adopt(bundle, name, found):
                found.adopted.append(name)
            elif await asyncio.to_thread(bundle.path.exists):
                found.failed[name] = f"{bundle.path} could not be removed"
            else:
                found.cleaned.append(name)

        limit = self._launcher.timeouts.of_adoption
        found.failed |= await each(everything, look, _name, limit=limit, parallel=self._parallel)
        await self._remove_rubbish(found, limit)
        return AdoptionReport(tuple(sorted(found.adopted)), tuple(sorted(found.cleaned)), found.failed)

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

    async def _remove_rubbish(self, found: _Findings, limit: float | None) -> None:
        bundles = self._launcher.bundles
        paths = await asyncio.to_thread(lambda: [*bundles.rubbish(), *bundles.unused_works()])

        async def remove(path: Path) -> None:
            await self._launcher.remove_rubbish(path)
            found.cleaned.append(str(path))

        found.failed |= await each(paths, remove, str, limit=limit, parallel=self._parallel)


def _name(bundle: Bundle) -> str:
    return f"{bundle.namespace}/{bundle.id}"
