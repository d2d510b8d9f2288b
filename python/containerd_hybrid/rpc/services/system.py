"""containerd_hybrid.v1.System: what this daemon is, and why it does what it does."""

from __future__ import annotations

import os
from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from containerd_hybrid.app.api import (
    IgnoredKey,
    KeyExplanation,
    PluginCatalog,
    PluginStatus,
    PluginType,
    SkipPlugin,
    SystemInformer,
)
from containerd_hybrid.proto.hybrid import system_pb2 as pb
from containerd_hybrid.registry.api import HostExplanation, RegistryExplainer
from containerd_hybrid.rpc.api import CallContext


class SystemService:
    """Explains; changes nothing."""

    descriptor: ClassVar[ServiceDescriptor] = pb.DESCRIPTOR.services_by_name["System"]

    def __init__(
        self, catalog: PluginCatalog, informer: SystemInformer, registries: RegistryExplainer
    ) -> None:
        self._catalog = catalog
        self._informer = informer
        self._registries = registries

    async def info(self, request: pb.InfoRequest, call: CallContext) -> pb.InfoResponse:
        info = await self._informer.info()
        statuses = self._catalog.statuses()
        return pb.InfoResponse(
            version=info.version,
            api_version=info.api_version,
            revision=info.revision,
            libraries=info.libraries,
            kernel=info.kernel,
            architecture=info.architecture,
            cgroups=info.cgroups,
            kernel_features=info.kernel_features,
            implementations=info.implementations,
            runtimes=info.runtimes,
            snapshotters=[
                status.plugin.id
                for status in statuses
                if status.plugin.type == PluginType.SNAPSHOTTER and status.error is None
            ],
            plugins=[_plugin(status) for status in statuses],
            root=info.root,
            state=info.state,
            pid=os.getpid(),
        )

    async def explain_key(self, request: pb.ExplainKeyRequest, call: CallContext) -> pb.ExplainKeyResponse:
        found = self._catalog.explainer.explain(request.key)
        return pb.ExplainKeyResponse(
            keys=[_key(key) for key in found.keys],
            files=found.files,
            ignored=[_ignored(one) for one in found.ignored],
        )

    async def explain_reference(
        self, request: pb.ExplainReferenceRequest, call: CallContext
    ) -> pb.ExplainReferenceResponse:
        found = await self._registries.explain(request.reference)
        return pb.ExplainReferenceResponse(
            reference=found.reference,
            configuration=found.configuration,
            hosts=[_host(host) for host in found.hosts],
        )


def _plugin(status: PluginStatus) -> pb.PluginState:
    error = status.error
    return pb.PluginState(
        name=status.plugin.uri,
        error=error.message if error is not None else "",
        skipped=isinstance(error, SkipPlugin),
    )


def _key(key: KeyExplanation) -> pb.KeyExplanation:
    sources = [pb.KeySource(place=one.place, line=one.line, value=one.value) for one in key.sources]
    return pb.KeyExplanation(key=key.key, value=key.value, default=key.default, sources=sources)


def _ignored(ignored: IgnoredKey) -> pb.IgnoredKey:
    return pb.IgnoredKey(key=ignored.key, file=ignored.file, reason=ignored.reason)


def _host(host: HostExplanation) -> pb.RegistryHostExplanation:
    return pb.RegistryHostExplanation(
        url=host.url,
        capabilities=[str(flag.name).lower() for flag in host.capabilities],
        mirror=host.is_mirror,
        credential_host=host.credential_host,
        headers=host.headers,
        tls=host.tls,
        proxy=host.proxy,
    )
