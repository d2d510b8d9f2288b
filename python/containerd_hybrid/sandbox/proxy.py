"""A sandbox controller in another process, behind containerd.services.sandbox.v1 on a socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from containerd_hybrid.client.api import Transport
from containerd_hybrid.model import Platform, Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.services.sandbox.v1 import sandbox_pb2 as pb
from containerd_hybrid.sandbox.api import (
    CreateSandbox,
    Sandbox,
    SandboxEnd,
    SandboxInstance,
    SandboxStatus,
)
from containerd_hybrid.tasks.api import Metric
from containerd_hybrid.wire import (
    any_from_wire,
    any_to_wire,
    mount_to_wire,
    platform_from_wire,
    sandbox_to_wire,
)

_SERVICE = "containerd.services.sandbox.v1.Controller"

M = TypeVar("M", bound=Message)


class ProxySandboxController:
    """A :class:`~containerd_hybrid.sandbox.api.SandboxController`; ``sandboxer`` is its name over there.

    UnavailableError: nobody answers.
    """

    def __init__(self, sandboxer: str, transport: Transport) -> None:
        self._sandboxer = sandboxer
        self._transport = transport

    async def create(self, scope: Scope, sandbox: Sandbox, request: CreateSandbox) -> None:
        message = pb.ControllerCreateRequest(
            sandbox_id=sandbox.id,
            rootfs=[mount_to_wire(mount) for mount in request.rootfs],
            options=any_to_wire(request.options),
            netns_path=request.netns_path,
            annotations=dict(request.annotations),
            sandbox=sandbox_to_wire(sandbox),
            sandboxer=self._sandboxer,
        )
        await self._call(scope, "Create", message, pb.ControllerCreateResponse)

    async def start(self, scope: Scope, id: str) -> SandboxInstance:
        request = pb.ControllerStartRequest(sandbox_id=id, sandboxer=self._sandboxer)
        answer = await self._call(scope, "Start", request, pb.ControllerStartResponse)
        return SandboxInstance(
            answer.sandbox_id,
            answer.pid,
            _nanoseconds(answer.created_at),
            answer.address,
            answer.version,
            any_from_wire(answer.spec),
        )

    async def platform(self, scope: Scope, id: str) -> Platform:
        request = pb.ControllerPlatformRequest(sandbox_id=id, sandboxer=self._sandboxer)
        answer = await self._call(scope, "Platform", request, pb.ControllerPlatformResponse)
        return platform_from_wire(answer.platform)

    async def stop(self, scope: Scope, id: str, timeout: int = 0) -> None:
        request = pb.ControllerStopRequest(sandbox_id=id, timeout_secs=timeout, sandboxer=self._sandboxer)
        await self._call(scope, "Stop", request, pb.ControllerStopResponse)

    async def wait(self, scope: Scope, id: str) -> SandboxEnd:
        request = pb.ControllerWaitRequest(sandbox_id=id, sandboxer=self._sandboxer)
        answer = await self._call(scope, "Wait", request, pb.ControllerWaitResponse)
        return SandboxEnd(answer.exit_status, _nanoseconds(answer.exited_at))

    async def status(self, scope: Scope, id: str, *, verbose: bool = False) -> SandboxStatus:
        request = pb.ControllerStatusRequest(sandbox_id=id, verbose=verbose, sandboxer=self._sandboxer)
        answer = await self._call(scope, "Status", request, pb.ControllerStatusResponse)
        return SandboxStatus(
            id=answer.sandbox_id,
            pid=answer.pid,
            state=answer.state,
            info=dict(answer.info),
            created_at=_nanoseconds(answer.created_at),
            exited_at=_nanoseconds(answer.exited_at),
            extra=any_from_wire(answer.extra),
            address=answer.address,
            version=answer.version,
        )

    async def shutdown(self, scope: Scope, id: str) -> None:
        request = pb.ControllerShutdownRequest(sandbox_id=id, sandboxer=self._sandboxer)
        await self._call(scope, "Shutdown", request, pb.ControllerShutdownResponse)

    async def metrics(self, scope: Scope, id: str) -> Metric:
        request = pb.ControllerMetricsRequest(sandbox_id=id, sandboxer=self._sandboxer)
        answer = await self._call(scope, "Metrics", request, pb.ControllerMetricsResponse)
        metrics = answer.metrics
        data = AnyValue(metrics.data.type_url, metrics.data.value)
        return Metric(_nanoseconds(metrics.timestamp), metrics.id, data)

    async def update(self, scope: Scope, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        request = pb.ControllerUpdateRequest(
            sandbox_id=sandbox.id,
            sandboxer=self._sandboxer,
            sandbox=sandbox_to_wire(sandbox),
            fields=fieldpaths,
        )
        await self._call(scope, "Update", request, pb.ControllerUpdateResponse)

    async def _call(self, scope: Scope, method: str, request: Message, response: type[M]) -> M:
        metadata = {"containerd-namespace": scope.namespace}
        return await self._transport.unary(_SERVICE, method, request, response, metadata=metadata)


def _nanoseconds(message: Timestamp) -> int:
    return message.ToNanoseconds()
