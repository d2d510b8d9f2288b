"""Registries: where images come from and go to (OCI distribution spec 1.1).

A :class:`RegistryClient` gives a :class:`Repository` for one operation (a pull, a push). It resolves
names, opens blobs at an offset, and uploads. Hosts are tried in the order of ``hosts.toml``; whatever
carries a digest is verified by whoever stores it, manifests are verified here.

Secrets are in :class:`Credential` only, whose ``repr`` does not show them.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from containerd_hybrid._native import HttpBody
from containerd_hybrid.model import Descriptor, Digest, Reference


class Capability(enum.Flag):
    """What a host may be asked for (``capabilities`` of hosts.toml)."""

    PULL = enum.auto()
    RESOLVE = enum.auto()
    PUSH = enum.auto()
    REFERRERS = enum.auto()
    ALL = PULL | RESOLVE | PUSH | REFERRERS


@dataclass(frozen=True, slots=True)
class Credential:
    """Who we are to a registry: a user's secret, or a refresh token when ``username`` is empty.

    ``header`` is a whole ``Authorization`` header to be sent as it is; it wins over the others.
    """

    username: str = ""
    secret: str = field(default="", repr=False)
    header: str = field(default="", repr=False)


class Credentials(Protocol):
    """Where credentials come from: Docker's configuration, or a client over a stream."""

    async def get(self, host: str, reference: str) -> Credential | None:
        """The credential for ``host`` (with its port), None for anonymous access.

        ``reference`` is the image that it is needed for.
        """
        ...


HttpObserver: TypeAlias = Callable[[str], None]
"""Gets the head of each HTTP message, as text; secrets are left out, and bodies."""


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How to reach registries in one operation.

    ``hosts_dir`` holds ``<host>/hosts.toml``; more than one directory is separated by colons.
    ``default_scheme`` (``http`` or ``https``) is for hosts that no file describes. ``headers`` go with
    every request to a configured host. ``observer`` is told of every request and answer.
    """

    hosts_dir: str = ""
    default_scheme: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    credentials: Credentials | None = None
    observer: HttpObserver | None = None


class BodySink(Protocol):
    """Where a body goes; an :class:`~containerd_hybrid.content.api.Ingest` is one."""

    async def write(self, data: bytes) -> int: ...


@runtime_checkable
class ReceivingSink(BodySink, Protocol):
    """A sink that takes a whole body, without its bytes passing through Python; the new offset."""

    async def receive(self, body: HttpBody, limit: int) -> int: ...


class Body(Protocol):
    """The bytes of an open answer, from ``offset`` to the blob's end."""

    @property
    def offset(self) -> int: ...

    async def copy_to(self, sink: BodySink) -> int:
        """Everything that is left goes into ``sink``, once; the number of bytes.

        Raises:
            UnavailableError: the connection broke or stalled; what was written stays, so open again there.
            SizeMismatchError: more bytes came than the descriptor says.
        """
        ...


BlobReader: TypeAlias = Callable[[int, int], Awaitable[bytes]]
"""At most so many bytes (second) of a blob, from an offset (first)."""


class PushOutcome(enum.Enum):
    """What a push had to do."""

    EXISTS = "exists"
    MOUNTED = "mounted"
    UPLOADED = "uploaded"


class Resolver(Protocol):
    """From a name to a digest."""

    async def resolve(self, reference: Reference) -> Descriptor:
        """The manifest or index of a tag or digest.

        Raises:
            NotFoundError: no host has it.
            UnauthenticatedError, PermissionDeniedError: a host wants to know who we are, or says no.
            UnavailableError: no host could be reached.
        """
        ...


class Fetcher(Protocol):
    """From a descriptor to bytes."""

    def fetch(
        self, blob: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[Body]:
        """Open the blob at ``offset``, to its end or for ``length`` bytes; a foreign layer also at its own
        ``urls``.

        Raises:
            NotFoundError: no host has it.
            OutOfRangeError: a ``length`` was given, and the host sends all or nothing.
        """
        ...

    async def read(self, blob: Descriptor) -> bytes:
        """A manifest or other small blob (8 MiB at most), whole and verified.

        Raises:
            DigestMismatchError, SizeMismatchError: the registry sent something else.
        """
        ...


class Pusher(Protocol):
    """From bytes to a repository."""

    async def push_blob(
        self,
        blob: Descriptor,
        read: BlobReader,
        *,
        mount_from: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> PushOutcome:
        """Upload a blob that the repository does not have.

        ``mount_from`` names repositories of the same registry that may have it; ``progress`` is told
        how many bytes are there.
        """
        ...

    async def push_manifest(self, manifest: Descriptor, data: bytes, tag: str = "") -> PushOutcome:
        """Upload a manifest or index, under ``tag`` too when there is one; what it names has to be there.

        One with a ``subject`` becomes a referrer of that, by the fallback tag where the registry has no
        referrers API.
        """
        ...


class Repository(Resolver, Fetcher, Pusher, Protocol):
    """One repository of a registry, for one operation: tokens are kept as long as it is."""

    async def tags(self) -> Sequence[str]:
        """All tags, in the registry's order."""
        ...

    async def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Descriptor]:
        """Manifests whose ``subject`` this is, of one type or all; by API or by fallback tag."""
        ...

    async def delete_manifest(self, reference: str | Digest) -> None:
        """Delete a manifest by digest, or a tag.

        Raises:
            UnimplementedError: the registry does not offer it.
        """
        ...

    async def delete_blob(self, digest: Digest) -> None: ...


class RegistryClient(Protocol):
    """Connections to all registries, shared by all operations."""

    def repository(self, reference: Reference, options: RegistryOptions) -> Repository: ...

    async def catalog(self, host: str, options: RegistryOptions) -> Sequence[str]:
        """The repositories of a registry that offers a list of them."""
        ...


@dataclass(frozen=True, slots=True)
class HostExplanation:
    """A host that a reference may be pulled from.

    ``credential_host`` is what a credential is looked up by; ``headers`` are names only; ``tls`` and
    ``proxy`` are words for a person, the latter without a password.
    """

    url: str
    capabilities: Capability
    is_mirror: bool
    credential_host: str
    headers: tuple[str, ...]
    tls: str
    proxy: str


@dataclass(frozen=True, slots=True)
class ReferenceExplanation:
    """Where an image would come from, in the order of trying; ``configuration`` is the file that says so."""

    reference: str
    configuration: str
    hosts: tuple[HostExplanation, ...]


class RegistryExplainer(Protocol):
    """Tells how a registry would be reached, without asking it."""

    async def explain(self, reference: str) -> ReferenceExplanation:
        """
        Raises:
            InvalidReferenceError: it is no reference of an image in a registry.
            InvalidConfigError: hosts.toml is wrong; the message says where.
        """
        ...
