"""What a daemon is, and why it does what it does: the service containerd_hybrid.v1.System of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from containerd_hybrid.adopt.api import Adopted, Outcome
from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.registries import registry_end
from containerd_hybrid.fsck.api import Problem, Summary
from containerd_hybrid.proto.hybrid import adopt_pb2, fsck_pb2, system_pb2
from containerd_hybrid.registry.api import RegistryOptions

_ADOPTION = adopt_pb2.DESCRIPTOR.services_by_name["Adoption"]
_INTEGRITY = fsck_pb2.DESCRIPTOR.services_by_name["Integrity"]
_SYSTEM = system_pb2.DESCRIPTOR.services_by_name["System"]


@dataclass(frozen=True, slots=True)
class DaemonPlugin:
    """``error`` is why it does not run, empty when it does; ``skipped``: it cannot work here, no failure."""

    name: str
    error: str
    skipped: bool


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """``cgroups`` is v1, hybrid, v2 or none; ``runtimes`` has the path of each that was found."""

    version: str
    api_version: str
    revision: str
    pid: int
    root: str
    state: str
    kernel: str
    architecture: str
    cgroups: str
    libraries: Mapping[str, str]
    kernel_features: Mapping[str, bool]
    implementations: Mapping[str, str]
    runtimes: Mapping[str, str]
    snapshotters: tuple[str, ...]
    plugins: tuple[DaemonPlugin, ...]


@dataclass(frozen=True, slots=True)
class ConfiguredAt:
    """A place that gives a value, as TOML; ``line`` is 0 where it is not known."""

    place: str
    line: int
    value: str


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """``value`` and ``default`` are TOML; the last of ``sources`` gives the value, none: the default."""

    key: str
    value: str
    default: str
    sources: tuple[ConfiguredAt, ...]


@dataclass(frozen=True, slots=True)
class UnreadKey:
    """A key that ``file`` has and nothing reads."""

    key: str
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Configured:
    """Some keys; ``files`` in the order in which they were read, where a later one overrides."""

    keys: tuple[ConfiguredKey, ...]
    files: tuple[str, ...]
    ignored: tuple[UnreadKey, ...]


@dataclass(frozen=True, slots=True)
class PullHost:
    """A host that is asked; ``headers`` are names only, ``credential_host`` is whose credential is sent."""

    url: str
    capabilities: tuple[str, ...]
    mirror: bool
    credential_host: str
    headers: tuple[str, ...]
    tls: str
    proxy: str


@dataclass(frozen=True, slots=True)
class PullSources:
    """Where an image would come from, in the order of trying; ``configuration`` is the file that says so."""

    reference: str
    configuration: str
    hosts: tuple[PullHost, ...]


class AsyncDaemon:
    """A daemon of ours, or this process without one. Elsewhere every method raises UnimplementedError."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def info(self) -> DaemonInfo:
        """What it is made of and stands on."""
        found = await self._calls.unary(_SYSTEM, "Info", system_pb2.InfoRequest(), system_pb2.InfoResponse)
        return DaemonInfo(
            version=found.version,
            api_version=found.api_version,
            revision=found.revision,
            pid=found.pid,
            root=found.root,
            state=found.state,
            kernel=found.kernel,
            architecture=found.architecture,
            cgroups=found.cgroups,
            libraries=dict(found.libraries),
            kernel_features=dict(found.kernel_features),
            implementations=dict(found.implementations),
            runtimes=dict(found.runtimes),
            snapshotters=tuple(found.snapshotters),
            plugins=tuple(DaemonPlugin(one.name, one.error, one.skipped) for one in found.plugins),
        )

    async def adopt(
        self, folder: str, *, namespaces: Sequence[str] = (), verify: bool = False, dry_run: bool = False
    ) -> AsyncIterator[Adopted]:
        """Take over blobs, images, leases and namespaces of the containerd whose root is ``folder``.

        Each thing is told when it is done. That containerd must not be running; its own files are only
        read, and blobs become hard links where the file system allows. ``verify`` compares digests and not
        only sizes; ``dry_run`` changes nothing; no ``namespaces`` means all.

        Raises:
            NotFoundError: no containerd has that root, or it has no such namespace.
            FailedPreconditionError: that containerd is running.
            DataLossError: its metadata file is damaged.
        """
        request = adopt_pb2.AdoptRequest(folder=folder, namespaces=namespaces, verify=verify, dry_run=dry_run)
        async with self._calls.streaming(_ADOPTION, "Adopt", request, adopt_pb2.AdoptResponse) as answers:
            async for one in answers:
                yield Adopted(one.kind, one.namespace, one.name, Outcome(one.outcome), one.size)

    async def check(
        self,
        *,
        repair: bool = False,
        namespaces: Sequence[str] = (),
        registry: RegistryOptions | None = None,
    ) -> AsyncIterator[Problem | Summary]:
        """Whether metadata, blobs and unpacked layers are what they should be; ``repair`` mends them.

        Every problem as it is found, and at the end one summary. It may run while the daemon is in use. No
        ``namespaces`` means all. ``registry`` has the credentials for what a repair fetches; without, it asks
        as anybody.

        Raises:
            NotFoundError: there is no such namespace.
        """
        async with (
            registry_end(self._calls, "", registry or RegistryOptions()) as anywhere,
            self._calls.streaming(
                _INTEGRITY,
                "Check",
                fsck_pb2.CheckRequest(repair=repair, namespaces=namespaces, registry=anywhere.resolver),
                fsck_pb2.CheckResponse,
            ) as answers,
        ):
            async for answer in answers:
                if answer.HasField("problem"):
                    one = answer.problem
                    yield Problem(one.kind, one.namespace, one.name, one.what, one.repaired, one.remedy)
                else:
                    end = answer.summary
                    yield Summary(end.blobs, end.bytes, end.layers, end.passed_over)

    async def explain_key(self, key: str) -> Configured:
        """Where a configuration key's value comes from; of a table's name, all below it.

        Raises:
            NotFoundError: there is no such key, not even one that is ignored.
        """
        request = system_pb2.ExplainKeyRequest(key=key)
        found = await self._calls.unary(_SYSTEM, "ExplainKey", request, system_pb2.ExplainKeyResponse)
        return Configured(
            tuple(
                ConfiguredKey(
                    one.key,
                    one.value,
                    one.default,
                    tuple(ConfiguredAt(source.place, source.line, source.value) for source in one.sources),
                )
                for one in found.keys
            ),
            tuple(found.files),
            tuple(UnreadKey(one.key, one.file, one.reason) for one in found.ignored),
        )

    async def explain_reference(self, reference: str) -> PullSources:
        """Where an image would be pulled from; nobody is asked.

        Raises:
            InvalidConfigError: hosts.toml is wrong.
        """
        request = system_pb2.ExplainReferenceRequest(reference=reference)
        found = await self._calls.unary(
            _SYSTEM, "ExplainReference", request, system_pb2.ExplainReferenceResponse
        )
        return PullSources(
            found.reference,
            found.configuration,
            tuple(
                PullHost(
                    host.url,
                    tuple(host.capabilities),
                    host.mirror,
                    host.credential_host,
                    tuple(host.headers),
                    host.tls,
                    host.proxy,
                )
                for host in found.hosts
            ),
        )
