"""containerd.services.introspection.v1.Introspection"""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path
from typing import ClassVar

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.rpc import code_pb2, status_pb2

from containerd_hybrid.app.api import InformingPlugin, PluginCatalog, PluginStatus, SeenDeprecations
from containerd_hybrid.errors import FailedPreconditionError, NotFoundError, UnimplementedError
from containerd_hybrid.model import filters
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.services.introspection.v1 import introspection_pb2 as pb
from containerd_hybrid.rpc.api import CallContext
from containerd_hybrid.wire import any_from_wire, any_to_wire, platform_to_wire, timestamp


class IntrospectionService:
    """What this daemon is made of."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["Introspection"]

    def __init__(self, catalog: PluginCatalog, uuid_file: Path, deprecations: SeenDeprecations) -> None:
        self._catalog = catalog
        self._deprecations = deprecations
        self._uuid_file = uuid_file
        self._pid_namespace = Path("/proc/self/ns/pid").stat().st_ino

    async def plugins(self, request: pb.PluginsRequest, call: CallContext) -> pb.PluginsResponse:
        wanted = filters.Filters.parse(tuple(request.filters))
        plugins = [_to_wire(status) for status in self._catalog.statuses()]
        return pb.PluginsResponse(plugins=[plugin for plugin in plugins if wanted.match(_fields(plugin))])

    async def server(self, request: Empty, call: CallContext) -> pb.ServerResponse:
        identity = await asyncio.to_thread(_server_uuid, self._uuid_file)
        deprecations = [
            pb.DeprecationWarning(id=one, message=one.advice, last_occurrence=timestamp(at))
            for one, at in self._deprecations.seen().items()
        ]
        return pb.ServerResponse(
            uuid=identity, pid=os.getpid(), pidns=self._pid_namespace, deprecations=deprecations
        )

    async def plugin_info(self, request: pb.PluginInfoRequest, call: CallContext) -> pb.PluginInfoResponse:
        asked = (request.type, request.id)
        options = any_from_wire(request.options)
        if options is not None:
            _require_known(options)
        for status in self._catalog.statuses():
            if (status.plugin.type, status.plugin.id) == asked:
                extra = await _extra(status, options) if options is not None else None
                return pb.PluginInfoResponse(plugin=_to_wire(status), extra=any_to_wire(extra))
        raise NotFoundError(f"plugin {request.type}.{request.id} not found: not found")


def _require_known(options: AnyValue) -> None:
    """A type that nobody here knows is told apart from one that the plug-in does not take."""
    try:
        descriptor_pool.Default().FindMessageTypeByName(options.type_name)
    except KeyError:
        raise NotFoundError(
            f"failed to unmarshal plugin info Options: type with url {options.type_url}: not found"
        ) from None


async def _extra(status: PluginStatus, options: AnyValue) -> AnyValue:
    if status.error is not None:
        raise FailedPreconditionError(
            f"cannot get extra info, plugin {status.plugin.uri} not successfully loaded"
            f" ({status.error.message}): failed precondition"
        )
    if not isinstance(status.instance, InformingPlugin):
        raise UnimplementedError(
            f"plugin {status.plugin.uri} does not provide extra information: not implemented"
        )
    return await status.instance.plugin_info(options)


def _to_wire(status: PluginStatus) -> pb.Plugin:
    plugin = status.plugin
    error = status.error
    return pb.Plugin(
        type=plugin.type,
        id=plugin.id,
        requires=[str(required) for required in plugin.requires],
        platforms=[platform_to_wire(platform) for platform in plugin.platforms],
        exports=dict(plugin.exports),
        capabilities=plugin.capabilities,
        init_err=status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
        if error is not None
        else None,
    )


def _fields(plugin: pb.Plugin) -> filters.FieldLookup:
    """The fields a filter may name: type, id, and whether a platform or capability is there."""

    def field(path: tuple[str, ...]) -> str | None:
        match path:
            case ("type",):
                return plugin.type
            case ("id",):
                return plugin.id
            case ("capabilities",):
                return ",".join(plugin.capabilities) or None
            case _:
                return None

    return field


def _server_uuid(file: Path) -> str:
    """The identity of this root folder, made at its first use and kept across restarts."""
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    identity = str(uuid.uuid4())
    fresh = file.with_suffix(f".{os.getpid()}")
    fresh.write_text(identity)
    try:
        os.link(fresh, file)  # unlike a rename, does not replace what another call wrote meanwhile
    except FileExistsError:
        return file.read_text().strip()
    finally:
        fresh.unlink()
    return identity
