"""Making a task: name, bundle, shim, container; undone in that order backwards when a step fails."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from google.protobuf.message import DecodeError

from containerd_hybrid.containers.api import Container
from containerd_hybrid.errors import (
    AlreadyExistsError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
    error_for_code,
)
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.model.deprecations import Deprecation, Warn
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2 as pb
from containerd_hybrid.proto.types.runc import options_pb2
from containerd_hybrid.sandbox.api import SandboxStore
from containerd_hybrid.tasks import features
from containerd_hybrid.tasks.api import CreateTask
from containerd_hybrid.tasks.bootstrap import CURRENT_VERSION, Endpoint
from containerd_hybrid.tasks.bundle import Bundle
from containerd_hybrid.tasks.launcher import Launcher
from containerd_hybrid.tasks.rootfs import RootFilesystems
from containerd_hybrid.tasks.runtimes import Runtimes
from containerd_hybrid.tasks.shim import Shim
from containerd_hybrid.wire import any_to_wire, mount_to_wire

log = logging.getLogger(__name__)

_RUNC_OPTIONS = options_pb2.Options.DESCRIPTOR.full_name


class Creation:
    """Makes tasks."""

    def __init__(
        self,
        runtimes: Runtimes,
        launcher: Launcher,
        rootfs: RootFilesystems,
        sandboxes: SandboxStore | None = None,
        warn: Warn = lambda _: None,
    ) -> None:
        self._runtimes = runtimes
        self._sandboxes = sandboxes
        self._warn = warn
        self._rootfs = rootfs
        self._launcher = launcher
        self._table = launcher.table
        self._making: set[asyncio.Task[int]] = set()

    async def run(self, namespace: str, container: Container, request: CreateTask) -> int:
        """Make the task and give its pid.

        Raises:
            AlreadyExistsError: the container has a task.
            NotFoundError: its runtime is not installed.
            InvalidArgumentError: there is no spec, or no such runtime can be.
            HybridError: what the shim said.
        """
        spec = container.spec
        if spec is None or not spec.value:
            raise InvalidArgumentError(f"container {container.id} has no spec to run")
        self._table.reserve((namespace, container.id))
        making = asyncio.create_task(self._make(namespace, container, spec, request))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            # Undoing takes a while; the caller that went away does not wait for it.
            making.add_done_callback(_look_at)
            making.cancel()
            raise

    async def close(self) -> None:
        """Give up what is in the making, and wait until it is undone."""
        for making in self._making:
            making.cancel()
        if self._making:
            await asyncio.wait(self._making)

    async def _make(self, namespace: str, container: Container, spec: AnyValue, request: CreateTask) -> int:
        bundle: Bundle | None = None
        program: Path | None = None
        scope = Scope(namespace)
        runtime = request.runtime_path or container.runtime_name
        try:
            program = await asyncio.to_thread(self._runtimes.resolve, runtime)
            request = await self._rootfs.activate(scope, request, runtime, program)
            await self._check_features(program, spec, _options(container, request))
            bundle = await self._bundle(namespace, container.id, spec, program)
            shim = await self._shim(program, bundle, container, request)
        except BaseException as error:
            if bundle is not None:
                await self._launcher.clear(bundle, program)
            await self._rootfs.deactivate(scope, container.id)
            self._table.release((namespace, container.id))
            if isinstance(error, HybridError):
                raise _prefixed("failed to start shim", error) from error
            raise
        try:
            request = await _with_checkpoint(shim.bundle, request)
            shim.restored = request.fill_checkpoint is not None
            pid = await self._create(shim, container, request)
        except BaseException as error:
            await self._launcher.abandon(shim)
            await self._rootfs.deactivate(scope, container.id)
            self._table.release(shim.key)
            if isinstance(error, HybridError):
                raise _prefixed("failed to create shim task", error) from error
            raise
        shim.pids[""] = pid
        self._table.add(shim)
        self._launcher.watch(shim)
        return pid

    async def _bundle(self, namespace: str, id: str, spec: AnyValue, program: Path) -> Bundle:
        bundles = self._launcher.bundles
        try:
            return await asyncio.to_thread(bundles.create, namespace, id, spec)
        except AlreadyExistsError:
            # Nobody has the name, so this is what an earlier clean-up could not take away.
            left = bundles.get(namespace, id)
            log.warning("clearing the left bundle %s", left.path)
            await self._launcher.clear(left, await asyncio.to_thread(left.shim_path) or program)
            return await asyncio.to_thread(bundles.create, namespace, id, spec)

    async def _shim(self, program: Path, bundle: Bundle, container: Container, request: CreateTask) -> Shim:
        if container.sandbox:
            endpoint, guest = await self._host(bundle.namespace, container.sandbox, request)
            # An older shim groups by itself: its start action leads to the one that runs.
            if endpoint is not None and endpoint.version >= CURRENT_VERSION:
                return await self._launcher.join(program, bundle, endpoint, container.sandbox, guest=guest)
        return await self._launcher.start(program, bundle, _options(container, request))

    async def _host(self, namespace: str, sandbox: str, request: CreateTask) -> tuple[Endpoint | None, bool]:
        """Where the shim of a sandbox serves tasks, and whether it is somebody else's.

        A sandbox that is on record but does not run cannot be joined, nor be replaced by one container.
        """
        endpoint = self._given_endpoint(request)
        host = self._table.find(namespace, sandbox) if endpoint is None else None
        if host is not None:
            return Endpoint(host.endpoint.address, host.version, host.endpoint.protocol), False
        if self._sandboxes is None:
            return None, False
        try:
            await self._sandboxes.get(Scope(namespace), sandbox)
        except NotFoundError:
            log.warning("sandbox %s of task %s is not on record", sandbox, request.container_id)
            return None, False
        if endpoint is None:
            raise NotFoundError(f"can't find shim for sandbox {sandbox}: it does not run: not found")
        return endpoint, True

    def _given_endpoint(self, request: CreateTask) -> Endpoint | None:
        """What the request says about the sandbox's shim, or, as it was done once, runc's options in it."""
        address, version = request.task_api_address, request.task_api_version
        options = _runc_options(request.options)
        if options is not None:
            if not address and options.task_api_address:
                self._warn(Deprecation.RUNC_OPTIONS_TASK_API_ADDRESS)
                address = options.task_api_address
            if not version and options.task_api_version:
                self._warn(Deprecation.RUNC_OPTIONS_TASK_API_VERSION)
                version = options.task_api_version
        if not address:
            return None
        protocol, plus, place = address.partition("+")
        if not plus:
            raise InvalidArgumentError(
                f"sandbox address {address!r}: must have the form PROTOCOL+unix://PATH, like ttrpc+unix://…"
            )
        if protocol != "ttrpc":
            raise UnimplementedError(f"sandbox address {address!r}: this daemon speaks ttrpc with shims")
        return Endpoint(place, version, protocol)

    async def _check_features(self, program: Path, spec: AnyValue, options: AnyValue | None) -> None:
        if not features.wants_idmapped_mounts(spec):
            return
        try:
            info = await self._launcher.programs.info(program, options)
            features.check_idmapped_mounts(AnyValue(info.features.type_url, info.features.value))
        except HybridError as error:
            raise _prefixed("failed to validate OCI runtime features", error) from error

    async def _create(self, shim: Shim, container: Container, request: CreateTask) -> int:
        message = pb.CreateTaskRequest(
            id=shim.bundle.id,
            bundle=str(shim.bundle.path),
            rootfs=[mount_to_wire(mount) for mount in request.rootfs],
            terminal=request.stdio.terminal,
            stdin=request.stdio.stdin,
            stdout=request.stdio.stdout,
            stderr=request.stdio.stderr,
            checkpoint=request.checkpoint or _checkpoint_of(request.options),
            options=any_to_wire(_options(container, request)),
        )
        try:
            response = await shim.call_downgrading("Create", message, pb.CreateTaskResponse)
            if response.pid:
                return response.pid
            # A shim may say it only when asked.
            connected = await shim.call("Connect", pb.ConnectRequest(id=shim.bundle.id), pb.ConnectResponse)
        except UnavailableError as error:
            said = f" (it said: {shim.last_words})" if shim.last_words else ""
            raise UnavailableError(f"the shim ended or does not answer: {error.message}{said}") from error
        return connected.task_pid


async def _with_checkpoint(bundle: Bundle, request: CreateTask) -> CreateTask:
    if request.fill_checkpoint is None:
        return request
    await asyncio.to_thread(bundle.checkpoint.mkdir, mode=0o700)
    await request.fill_checkpoint(bundle.checkpoint)
    return replace(request, checkpoint=str(bundle.checkpoint))


def _options(container: Container, request: CreateTask) -> AnyValue | None:
    """The task's own options, or else those of the container's runtime."""
    if request.options is not None and request.options.value:
        return request.options
    return container.runtime_options


def _checkpoint_of(options: AnyValue | None) -> str:
    """Where runc's options say a checkpoint to restore lies."""
    found = _runc_options(options)
    return found.criu_image_path if found is not None else ""


def _runc_options(options: AnyValue | None) -> options_pb2.Options | None:
    if options is None or options.type_name != _RUNC_OPTIONS:
        return None
    try:
        return options_pb2.Options.FromString(options.value)
    except DecodeError as error:
        raise InvalidArgumentError(f"invalid task create option: {error}") from error


def _prefixed(prefix: str, error: HybridError) -> HybridError:
    return error_for_code(error.code, f"{prefix}: {error.message}")


def _look_at(done: asyncio.Task[int]) -> None:
    # Nobody else will, and asyncio complains about errors that nobody looked at.
    if not done.cancelled() and (error := done.exception()) is not None:
        log.warning("a task whose client went away was not made: %s", error)
