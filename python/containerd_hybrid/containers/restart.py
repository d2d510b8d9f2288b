"""The restart monitor: starts containers again, and stops them, as their labels ask.

Every interval it looks at the containers that have the status label, in every namespace. What is to be
done about a container runs beside the others: one whose shim hangs does not keep the rest down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from containerd_hybrid.containers.api import Container, ContainerStore
from containerd_hybrid.containers.restart_policy import (
    COUNT_LABEL,
    LOG_URI_LABEL,
    OLD_LOG_LABEL,
    POLICY_LABEL,
    STATUS_LABEL,
    RestartPolicy,
    restarts,
)
from containerd_hybrid.errors import HybridError, InvalidArgumentError, NotFoundError
from containerd_hybrid.metadata.api import NamespaceStore
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.snapshots.api import Snapshotter
from containerd_hybrid.tasks.api import CreateTask, Process, Status, Stdio, TaskManager

logger = logging.getLogger(__name__)

DEFAULT_INTERVAL: Final = 10.0
# At once, so that a machine full of containers does not start them all in one moment.
_CHANGES: Final = 16
_CHANGE_SECONDS: Final = 120.0
_KILL: Final = 9


@dataclass(frozen=True, slots=True)
class RestartServices:
    """What the monitor works with."""

    namespaces: NamespaceStore
    containers: ContainerStore
    snapshotters: Mapping[str, Snapshotter]
    tasks: TaskManager


class RestartMonitor:
    """One monitor. ``interval`` is in seconds, 0 for the default.

    ``ready`` is awaited before the first look: containers are started when shims can report to us.
    """

    def __init__(
        self,
        services: RestartServices,
        interval: float = DEFAULT_INTERVAL,
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._services = services
        self._interval = interval or DEFAULT_INTERVAL
        self._ready = ready
        self._changing: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_CHANGES)
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look after containers from now on, in the background."""
        self._looking = asyncio.create_task(self._look(), name="restart monitor")

    async def close(self) -> None:
        """Stop looking, and undo what is half done."""
        tasks = [*self._changing.values(), *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reconcile(self) -> None:
        """Look once, and begin what is to be done; :meth:`settled` waits for it."""
        names = [namespace.name for namespace in await self._services.namespaces.list()]
        for result in await asyncio.gather(*map(self._within, names), return_exceptions=True):
            if isinstance(result, HybridError):
                logger.error("restart monitor: %s", result.message)
            elif isinstance(result, BaseException):
                raise result

    async def settled(self) -> None:
        """Wait until nothing is being done."""
        while self._changing:
            await asyncio.wait(list(self._changing.values()))

    async def _look(self) -> None:
        if self._ready is not None:
            await self._ready()
        while True:
            try:
                await self.reconcile()
            except HybridError as error:
                logger.error("restart monitor: %s", error.message)
            except Exception:
                logger.exception("restart monitor")
            await asyncio.sleep(self._interval)

    async def _within(self, namespace: str) -> None:
        scope = Scope(namespace)
        for container in await self._services.containers.list(scope, [f'labels."{STATUS_LABEL}"']):
            key = (namespace, container.id)
            if key in self._changing:
                continue
            task = asyncio.create_task(self._change(scope, container), name=f"restart {container.id}")
            self._changing[key] = task
            task.add_done_callback(partial(self._changed, key))

    def _changed(self, key: tuple[str, str], _: asyncio.Task[None]) -> None:
        self._changing.pop(key, None)

    async def _change(self, scope: Scope, container: Container) -> None:
        fields = {"namespace": scope.namespace, "container": container.id}
        try:
            async with self._room, asyncio.timeout(_CHANGE_SECONDS):
                await self._keep(scope, container.id)
        except HybridError as error:
            logger.error("container was not restarted: %s", error.message, extra=fields)
        except TimeoutError:
            logger.error("container was not restarted: its shim does not answer", extra=fields)
        except Exception:
            logger.exception("container was not restarted", extra=fields)

    async def _keep(self, scope: Scope, id: str) -> None:
        """Do what the container's labels ask, as they are by now."""
        try:
            container = await self._services.containers.get(scope, id)
        except NotFoundError:
            return
        wanted = container.labels.get(STATUS_LABEL, "")
        process = await self._process(scope, id)
        status = process.status if process is not None else None
        if status is not None and status.name.lower() == wanted:
            return
        if wanted == "stopped" and status is not None:
            await self._remove(scope, id)
        elif wanted == "running" and not self._is_busy(container, status):
            policy = RestartPolicy.parse(container.labels.get(POLICY_LABEL, ""))
            exit_status = process.exit_status if process is not None else 0
            if policy.wants_restart(exit_status, container.labels):
                await self._start(scope, container)

    def _is_busy(self, container: Container, status: Status | None) -> bool:
        """Whether somebody wants the task as it is.

        A client that just made the container is about to create its task and start it; to do that for
        him would make his own attempt fail.
        """
        if status in (None, Status.CREATED):
            return 0 <= time.time_ns() - container.created_at < self._interval * 1e9
        return status in (Status.PAUSED, Status.PAUSING)

    async def _process(self, scope: Scope, id: str) -> Process | None:
        try:
            return await self._services.tasks.get(scope, id)
        except NotFoundError:
            return None

    async def _start(self, scope: Scope, container: Container) -> None:
        spec = _spec(container)
        request = CreateTask(
            container.id, await self._rootfs(scope, container, spec), _stdio(container, spec)
        )
        # Counted before the attempt, so that one which takes the daemon down is counted too. Nothing but
        # this label is written: the client may be changing the others.
        count = {COUNT_LABEL: str(_counted(container) + 1)}
        counted = replace(container, labels={**container.labels, **count})
        await self._services.containers.update(scope, counted, [f"labels.{COUNT_LABEL}"])
        with contextlib.suppress(HybridError):
            await self._remove(scope, container.id)
        await self._services.tasks.create(scope, request)
        try:
            await self._services.tasks.start(scope, container.id)
        except BaseException:
            with contextlib.suppress(HybridError):
                await self._remove(scope, container.id)
            raise
        fields = {"namespace": scope.namespace, "container": container.id, "count": count[COUNT_LABEL]}
        logger.info("container restarted", extra=fields)

    async def _rootfs(self, scope: Scope, container: Container, spec: Mapping[str, Any]) -> tuple[Mount, ...]:
        if not container.snapshot_key:
            return ()
        snapshotter = self._services.snapshotters.get(container.snapshotter)
        if snapshotter is None:
            raise NotFoundError(
                f"snapshotter {container.snapshotter!r} of container {container.id} is not loaded: not found"
            )
        mounts = await snapshotter.mounts(scope, container.snapshot_key)
        label = (spec.get("linux") or {}).get("mountLabel", "")
        context = (f'context="{label}"',) if label else ()
        return tuple(replace(mount, options=(*mount.options, *context)) for mount in mounts)

    async def _remove(self, scope: Scope, id: str) -> None:
        """Kill the task with all its processes, and take it away."""
        tasks = self._services.tasks
        waiting = asyncio.ensure_future(tasks.wait(scope, id))
        try:
            await tasks.kill(scope, id, _KILL, all=True)
            await asyncio.shield(waiting)
        except HybridError as error:
            # Most likely it has ended already; if it has not, deleting it says so.
            logger.debug("task %s was not killed: %s", id, error.message)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        with contextlib.suppress(NotFoundError):
            await tasks.delete(scope, id)


def _counted(container: Container) -> int:
    """As containerd: a number that is none begins anew; the policies that need it have refused by now."""
    try:
        return restarts(container.labels)
    except InvalidArgumentError:
        return 0


def _spec(container: Container) -> dict[str, Any]:
    try:
        spec = json.loads(container.spec.value) if container.spec is not None else None
    except ValueError:
        spec = None
    if not isinstance(spec, dict):
        raise InvalidArgumentError(f"container {container.id} has no OCI specification that can be read")
    return spec


def _stdio(container: Container, spec: Mapping[str, Any]) -> Stdio:
    if OLD_LOG_LABEL in container.labels:
        logger.warning(
            "container %s: the label %s is of no use since containerd 2.0: use %s",
            container.id,
            OLD_LOG_LABEL,
            LOG_URI_LABEL,
        )
    uri = container.labels.get(LOG_URI_LABEL, "")
    if not uri:
        return Stdio()
    try:
        urlsplit(uri)
    except ValueError as error:
        raise InvalidArgumentError(f"failed to parse {uri!r} of label {LOG_URI_LABEL}: {error}") from None
    if (spec.get("process") or {}).get("terminal"):
        return Stdio(stdout=uri, terminal=True)
    return Stdio(stdout=uri, stderr=uri)
