"""containerd.services.sandbox.v1.Store and .Controller"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import ServiceDescriptor

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.events.api import EventPublisher, SandboxCreate, SandboxExit, SandboxStart
from containerd_hybrid.proto.services.sandbox.v1 import sandbox_pb2 as pb
from containerd_hybrid.proto.types import metrics_pb2, sandbox_pb2
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.sandbox.api import CreateSandbox, Sandbox, SandboxController, SandboxStore
from containerd_hybrid.wire import (
    any_from_wire,
    any_to_wire,
    mounts_from_wire,
    platform_to_wire,
    sandbox_to_wire,
    timestamp,
)


class SandboxStoreService:
    """Sandbox records."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Store"]

    def __init__(self, store: SandboxStore) -> None:
        self._store = store

    async def create(self, request: pb.StoreCreateRequest, call: CallContext) -> pb.StoreCreateResponse:
        created = await self._store.create(call.scope, _from_wire(request.sandbox))
        return pb.StoreCreateResponse(sandbox=sandbox_to_wire(created))

    async def update(self, request: pb.StoreUpdateRequest, call: CallContext) -> pb.StoreUpdateResponse:
        updated = await self._store.update(call.scope, _from_wire(request.sandbox), tuple(request.fields))
        return pb.StoreUpdateResponse(sandbox=sandbox_to_wire(updated))

    async def delete(self, request: pb.StoreDeleteRequest, call: CallContext) -> pb.StoreDeleteResponse:
        await self._store.delete(call.scope, request.sandbox_id)
        return pb.StoreDeleteResponse()

    async def list(self, request: pb.StoreListRequest, call: CallContext) -> pb.StoreListResponse:
        found = await self._store.list(call.scope, tuple(request.filters))
        return pb.StoreListResponse(list=[sandbox_to_wire(sandbox) for sandbox in found])

    async def get(self, request: pb.StoreGetRequest, call: CallContext) -> pb.StoreGetResponse:
        return pb.StoreGetResponse(
            sandbox=sandbox_to_wire(await self._store.get(call.scope, request.sandbox_id))
        )


class SandboxControllerService:
    """Sandboxes that run, each by the controller that the request names."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Controller"]

    def __init__(self, controllers: Mapping[str, SandboxController], events: EventPublisher) -> None:
        self._controllers = controllers
        self._events = events

    async def create(
        self, request: pb.ControllerCreateRequest, call: CallContext
    ) -> pb.ControllerCreateResponse:
        controller = self._controller(request.sandboxer)
        sandbox = (
            _from_wire(request.sandbox) if request.HasField("sandbox") else Sandbox(id=request.sandbox_id)
        )
        options = CreateSandbox(
            rootfs=mounts_from_wire(request.rootfs),
            options=any_from_wire(request.options),
            netns_path=request.netns_path,
            annotations=dict(request.annotations),
        )
        await controller.create(call.scope, sandbox, options)
        self._events.publish(call.scope.namespace, SandboxCreate(request.sandbox_id))
        return pb.ControllerCreateResponse(sandbox_id=request.sandbox_id)

    async def start(
        self, request: pb.ControllerStartRequest, call: CallContext
    ) -> pb.ControllerStartResponse:
        """Like containerd's it keeps address, version and spec, which only it needs, to itself."""
        started = await self._controller(request.sandboxer).start(call.scope, request.sandbox_id)
        self._events.publish(call.scope.namespace, SandboxStart(request.sandbox_id))
        return pb.ControllerStartResponse(
            sandbox_id=started.id, pid=started.pid, created_at=timestamp(started.created_at)
        )

    async def platform(
        self, request: pb.ControllerPlatformRequest, call: CallContext
    ) -> pb.ControllerPlatformResponse:
        platform = await self._controller(request.sandboxer).platform(call.scope, request.sandbox_id)
        return pb.ControllerPlatformResponse(platform=platform_to_wire(platform))

    async def stop(self, request: pb.ControllerStopRequest, call: CallContext) -> pb.ControllerStopResponse:
        controller = self._controller(request.sandboxer)
        await controller.stop(call.scope, request.sandbox_id, request.timeout_secs)
        return pb.ControllerStopResponse()

    async def wait(self, request: pb.ControllerWaitRequest, call: CallContext) -> pb.ControllerWaitResponse:
        """Everyone who waits publishes the end, as in containerd."""
        ended = await self._controller(request.sandboxer).wait(call.scope, request.sandbox_id)
        event = SandboxExit(request.sandbox_id, ended.status, ended.exited_at)
        self._events.publish(call.scope.namespace, event)
        return pb.ControllerWaitResponse(exit_status=ended.status, exited_at=timestamp(ended.exited_at))

    async def status(
        self, request: pb.ControllerStatusRequest, call: CallContext
    ) -> pb.ControllerStatusResponse:
        controller = self._controller(request.sandboxer)
        status = await controller.status(call.scope, request.sandbox_id, verbose=request.verbose)
        return pb.ControllerStatusResponse(
            sandbox_id=status.id,
            pid=status.pid,
            state=status.state,
            info=dict(status.info),
            created_at=timestamp(status.created_at),
            exited_at=timestamp(status.exited_at),
            # Never unset; clients of containerd rely on that.
            extra=any_to_wire(status.extra) or AnyMessage(),
        )

    async def shutdown(
        self, request: pb.ControllerShutdownRequest, call: CallContext
    ) -> pb.ControllerShutdownResponse:
        await self._controller(request.sandboxer).shutdown(call.scope, request.sandbox_id)
        return pb.ControllerShutdownResponse()

    async def metrics(
        self, request: pb.ControllerMetricsRequest, call: CallContext
    ) -> pb.ControllerMetricsResponse:
        metric = await self._controller(request.sandboxer).metrics(call.scope, request.sandbox_id)
        return pb.ControllerMetricsResponse(
            metrics=metrics_pb2.Metric(
                timestamp=timestamp(metric.timestamp), id=metric.id, data=any_to_wire(metric.data)
            )
        )

    async def update(
        self, request: pb.ControllerUpdateRequest, call: CallContext
    ) -> pb.ControllerUpdateResponse:
        controller = self._controller(request.sandboxer)
        if not request.HasField("sandbox"):
            raise InvalidArgumentError("sandbox can not be nil: invalid argument")
        await controller.update(call.scope, _from_wire(request.sandbox), tuple(request.fields))
        return pb.ControllerUpdateResponse()

    def _controller(self, name: str) -> SandboxController:
        if not name:
            raise InvalidArgumentError("invalid argument: sandbox controller name can not be empty")
        try:
            return self._controllers[name]
        except KeyError:
            raise NotFoundError(
                f"not found: failed to get sandbox controller by {name};"
                f" there is {', '.join(self._controllers) or 'none'}"
            ) from None


def _from_wire(message: sandbox_pb2.Sandbox) -> Sandbox:
    extensions = {name: any_from_wire(value) for name, value in message.extensions.items()}
    return Sandbox(
        id=message.sandbox_id,
        runtime_name=message.runtime.name,
        runtime_options=any_from_wire(message.runtime.options),
        spec=any_from_wire(message.spec),
        sandboxer=message.sandboxer,
        labels=dict(message.labels),
        extensions={name: value for name, value in extensions.items() if value is not None},
    )
