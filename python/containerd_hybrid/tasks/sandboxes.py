"""Sandboxes in shims: the controller ``shim``, which speaks containerd.runtime.sandbox.v1.Sandbox to them.

A sandbox's shim is started like a task's, on a bundle of its own, and stands in the same table, so that a
container which names the sandbox finds the shim to join. It leaves when the sandbox is shut down or could
not be started; when it dies, the clean-up is that of a task's shim.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from containerd_hybrid.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    HybridError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
    error_for_code,
)
from containerd_hybrid.model import Platform, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.runtime.sandbox.v1 import sandbox_pb2 as pb
from containerd_hybrid.sandbox.api import (
    CreateSandbox,
    Sandbox,
    SandboxEnd,
    SandboxInstance,
    SandboxStatus,
)
from containerd_hybrid.tasks import bootstrap
from containerd_hybrid.tasks.api import AdoptionReport, Exit, Metric
from containerd_hybrid.tasks.bounded import each
from containerd_hybrid.tasks.bundle import Bundle, Bundles
from containerd_hybrid.tasks.launcher import Launcher
from containerd_hybrid.tasks.runtimes import Runtimes
from containerd_hybrid.tasks.shim import Shim
from containerd_hybrid.tasks.times import from_wire
from containerd_hybrid.wire import any_from_wire, any_to_wire, mount_to_wire, platform_from_wire

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
T = TypeVar("T")

SERVICE = "containerd.runtime.sandbox.v1.Sandbox"


class ShimSandboxController:
    """Implements :class:`containerd_hybrid.sandbox.api.SandboxController`."""

    def __init__(self, runtimes: Runtimes, launcher: Launcher, bundles: Bundles) -> None:
        self._runtimes = runtimes
        self._launcher = launcher
        self._bundles = bundles
        self._table = launcher.table
        self._working: set[asyncio.Task[Any]] = set()

    async def create(self, scope: Scope, sandbox: Sandbox, request: CreateSandbox) -> None:
        """Start a shim for it. Nothing is left of one that fails or whose caller goes away."""
        key = (scope.namespace, sandbox.id)
        if self._table.find(*key) is not None:
            raise AlreadyExistsError(f"sandbox {sandbox.id} already running: already exists")
        self._table.reserve(key)
        await self._undone_if_left(self._create(scope.namespace, sandbox, request))

    async def start(self, scope: Scope, id: str) -> SandboxInstance:
        """Start what was created."""
        shim = self._find(scope, id)
        response = await self._undone_if_left(self._start(shim))
        return SandboxInstance(
            id=id,
            pid=response.pid,
            created_at=from_wire(response.created_at),
            address=shim.endpoint.address,
            version=shim.endpoint.version,
            spec=any_from_wire(response.spec),
        )

    async def platform(self, scope: Scope, id: str) -> Platform:
        """What its shim says."""
        request = pb.PlatformRequest(sandbox_id=id)
        response = await self._ask(
            self._find(scope, id), "Platform", request, pb.PlatformResponse, "get sandbox platform"
        )
        return platform_from_wire(response.platform)

    async def stop(self, scope: Scope, id: str, timeout: int = 0) -> None:
        """Stop it; one that is gone already has stopped."""
        shim = self._sandbox(scope, id)
        if shim is None:
            return
        request = pb.StopSandboxRequest(sandbox_id=id, timeout_secs=timeout)
        try:
            await self._ask(shim, "StopSandbox", request, pb.StopSandboxResponse, "stop sandbox")
        except (NotFoundError, UnavailableError) as error:
            log.debug("sandbox %s has stopped: %s", id, error.message)

    async def wait(self, scope: Scope, id: str) -> SandboxEnd:
        """Return when it has ended."""
        request = pb.WaitSandboxRequest(sandbox_id=id)
        response = await self._ask(
            self._find(scope, id), "WaitSandbox", request, pb.WaitSandboxResponse, f"wait sandbox {id}"
        )
        return SandboxEnd(response.exit_status, from_wire(response.exited_at))

    async def status(self, scope: Scope, id: str, *, verbose: bool = False) -> SandboxStatus:
        """What its shim says; without a shim it has ended."""
        shim = self._sandbox(scope, id)
        if shim is None:
            return SandboxStatus(id, exited_at=time.time_ns())
        request = pb.SandboxStatusRequest(sandbox_id=id, verbose=verbose)
        status = await self._ask(
            shim, "SandboxStatus", request, pb.SandboxStatusResponse, f"query sandbox {id} status"
        )
        return SandboxStatus(
            id=status.sandbox_id,
            pid=status.pid,
            state=status.state,
            info=dict(status.info),
            created_at=from_wire(status.created_at),
            exited_at=from_wire(status.exited_at),
            extra=any_from_wire(status.extra),
            address=shim.endpoint.address,
            version=shim.endpoint.version,
        )

    async def shutdown(self, scope: Scope, id: str) -> None:
        """Have the shim end everything in the sandbox, then take it away."""
        shim = self._find(scope, id)
        request = pb.ShutdownSandboxRequest(sandbox_id=id)
        try:
            await self._ask(shim, "ShutdownSandbox", request, pb.ShutdownSandboxResponse, "shutdown sandbox")
        except UnavailableError:
            # Some shims are gone before they have answered.
            if not await shim.lost_within(self._launcher.timeouts.shutdown):
                raise
        await self._launcher.dismiss(shim, Exit(0, 0, time.time_ns()))

    async def metrics(self, scope: Scope, id: str) -> Metric:
        """What its shim measures."""
        request = pb.SandboxMetricsRequest(sandbox_id=id)
        response = await self._ask(
            self._find(scope, id), "SandboxMetrics", request, pb.SandboxMetricsResponse, "get metrics"
        )
        metrics = response.metrics
        return Metric(
            from_wire(metrics.timestamp), metrics.id, AnyValue(metrics.data.type_url, metrics.data.value)
        )

    async def update(self, scope: Scope, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        """Nothing to do: no shim's API has a way to hear of it."""

    async def adopt(self) -> AdoptionReport:
        """At a start: take over the shims that outlived the daemon before, clear away what is left of others.

        To be called before tasks are adopted, which may have joined them.
        """
        await asyncio.to_thread(self._bundles.prepare)
        adopted: list[str] = []
        cleaned: list[str] = []

        def name(bundle: Bundle) -> str:
            return f"{bundle.namespace}/{bundle.id}"

        async def look(bundle: Bundle) -> None:
            (adopted if await self._adopt(bundle) else cleaned).append(name(bundle))

        limit = self._launcher.timeouts.of_adoption
        bundles = await asyncio.to_thread(lambda: list(self._bundles.all()))
        failed = await each(bundles, look, name, limit=limit)
        rubbish = await asyncio.to_thread(self._rubbish)
        failed |= await each(rubbish, self._launcher.remove_rubbish, str, limit=limit)
        return AdoptionReport(tuple(sorted(adopted)), tuple(sorted(cleaned)), failed)

    async def close(self) -> None:
        """Give up what is in the making, and wait until it is undone; sandboxes run on."""
        for task in list(self._working):
            if not task.cancelling():
                task.cancel()
        if self._working:
            await asyncio.wait(self._working)

    # --- steps ---------------------------------------------------------------------------------

    async def _create(self, namespace: str, sandbox: Sandbox, request: CreateSandbox) -> None:
        shim = await self._start_shim(namespace, sandbox)
        message = pb.CreateSandboxRequest(
            sandbox_id=sandbox.id,
            bundle_path=str(shim.bundle.path),
            rootfs=[mount_to_wire(mount) for mount in request.rootfs],
            options=any_to_wire(request.options),
            netns_path=request.netns_path,
            annotations=dict(request.annotations),
        )
        try:
            await self._ask(
                shim, "CreateSandbox", message, pb.CreateSandboxResponse, f"create sandbox {sandbox.id}"
            )
        except BaseException:
            await self._take_away(shim)
            raise
        self._register(shim)

    async def _start_shim(self, namespace: str, sandbox: Sandbox) -> Shim:
        bundle: Bundle | None = None
        program: Path | None = None
        try:
            program = await asyncio.to_thread(self._runtimes.resolve, sandbox.runtime_name)
            bundle = await asyncio.to_thread(self._bundles.create, namespace, sandbox.id, sandbox.spec)
            shim = await self._launcher.start(program, bundle, sandbox.runtime_options)
        except BaseException as error:
            if bundle is not None:
                await self._launcher.clear(bundle, program)
            self._table.release((namespace, sandbox.id))
            if isinstance(error, HybridError):
                raise _prefixed(f"failed to start new shim for sandbox {sandbox.id}", error) from error
            raise
        shim.is_sandbox = True
        return shim

    async def _start(self, shim: Shim) -> pb.StartSandboxResponse:
        name = shim.bundle.id
        request = pb.StartSandboxRequest(sandbox_id=name)
        try:
            return await self._ask(
                shim, "StartSandbox", request, pb.StartSandboxResponse, f"start sandbox {name}"
            )
        except BaseException:
            await self._take_away(shim)
            raise

    async def _take_away(self, shim: Shim) -> None:
        """Of a sandbox that could not be made: the shim may let go of what it has, then it goes."""
        request = pb.ShutdownSandboxRequest(sandbox_id=shim.bundle.id)
        timeout = self._launcher.timeouts.shutdown
        try:
            await shim.ask(SERVICE, "ShutdownSandbox", request, pb.ShutdownSandboxResponse, timeout)
        except (UnimplementedError, NotFoundError):
            pass
        except HybridError as error:
            log.warning("failed to shut down sandbox %s: %s", shim.bundle.id, error.message)
        await self._launcher.dismiss(shim, Exit(0, 0, time.time_ns()))

    async def _adopt(self, bundle: Bundle) -> bool:
        launcher = self._launcher
        program = await asyncio.to_thread(bundle.shim_path)
        try:
            endpoint = await asyncio.to_thread(bootstrap.load, bundle)
            shim = await launcher.reconnect(program, bundle, endpoint)
        except (NotFoundError, UnavailableError) as error:
            log.info("clearing the sandbox %s: %s", bundle.id, error.message)
            await launcher.clear(bundle, program)
            return False
        shim.is_sandbox = True
        self._table.reserve(shim.key)
        request = pb.SandboxStatusRequest(sandbox_id=bundle.id)
        try:
            await shim.ask(
                SERVICE, "SandboxStatus", request, pb.SandboxStatusResponse, launcher.timeouts.load
            )
        except DeadlineExceededError as error:
            log.warning("the sandbox %s is adopted, but does not answer: %s", bundle.id, error.message)
        except HybridError as error:
            # The daemon was killed while it made it.
            log.info("taking away the shim of sandbox %s: %s", bundle.id, error.message)
            await self._take_away(shim)
            return False
        self._register(shim)
        return True

    def _register(self, shim: Shim) -> None:
        self._table.add(shim)
        self._launcher.watch(shim)

    def _rubbish(self) -> list[Path]:
        return [*self._bundles.rubbish(), *self._bundles.unused_works()]

    def _sandbox(self, scope: Scope, id: str) -> Shim | None:
        shim = self._table.find(scope.namespace, id)
        return shim if shim is not None and shim.is_sandbox else None

    def _find(self, scope: Scope, id: str) -> Shim:
        shim = self._sandbox(scope, id)
        if shim is None:
            raise NotFoundError(f'unable to find sandbox "{id}": it does not run: not found')
        return shim

    async def _ask(self, shim: Shim, method: str, request: Message, response: type[M], doing: str) -> M:
        try:
            return await shim.ask(SERVICE, method, request, response)
        except UnimplementedError as error:
            why = f"its shim {shim.program or shim.endpoint.address} does not run sandboxes: {error.message}"
            raise UnimplementedError(f"failed to {doing}: {why}") from error
        except HybridError as error:
            raise _prefixed(f"failed to {doing}", error) from error

    async def _undone_if_left(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work that undoes itself when it is cancelled; who goes away does not wait for that."""
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_look_at)
            task.cancel()
            raise


def _prefixed(prefix: str, error: HybridError) -> HybridError:
    return error_for_code(error.code, f"{prefix}: {error.message}")


def _look_at(done: asyncio.Task[Any]) -> None:
    # Nobody else will, and asyncio complains about errors that nobody looked at.
    if not done.cancelled() and (error := done.exception()) is not None:
        log.warning("a sandbox whose client went away: %s", error)
