"""What a Transfer request says about registries: the place, and credentials over a stream of the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from containerd_hybrid.errors import UnauthenticatedError
from containerd_hybrid.images.api import ReferenceRule
from containerd_hybrid.model import Scope
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.types.transfer import imagestore_pb2, registry_pb2
from containerd_hybrid.registry.api import Credential, RegistryOptions
from containerd_hybrid.rpc.services.byte_streams import SentBytes, Telling
from containerd_hybrid.streaming.api import Stream, StreamManager
from containerd_hybrid.transfer.api import RegistryPlace, StoreTarget
from containerd_hybrid.wire import platform_from_wire

logger = logging.getLogger(__name__)


@asynccontextmanager
async def registry_place(
    message: registry_pb2.OCIRegistry, scope: Scope, streams: StreamManager
) -> AsyncIterator[RegistryPlace]:
    """The place, as long as the client's streams are open.

    With ``http_debug`` the client is sent what goes to and fro, or our own log is. Traces of connections
    (``HTTPDebug.TRACE``) are a matter of our log alone, as in containerd.

    Raises:
        NotFoundError: the client has not opened the stream that it names.
    """
    resolver = message.resolver
    auth, logs = (
        streams.get(scope, name) if name else None for name in (resolver.auth_stream, resolver.logs_stream)
    )
    told = None
    if logs is not None:
        sink = SentBytes(logs)
        told = Telling[str](logs, lambda head: sink.write(head.encode()))
    is_wanted = resolver.http_debug in (registry_pb2.HTTPDebug.DEBUG, registry_pb2.HTTPDebug.BOTH)
    options = RegistryOptions(
        resolver.host_dir,
        resolver.default_scheme,
        dict(resolver.headers),
        StreamCredentials(auth) if auth is not None else None,
        (told.tell if told is not None else _log) if is_wanted else None,
    )
    try:
        yield RegistryPlace(message.reference, options)
    finally:
        if auth is not None:
            auth.close()
        if told is not None:
            await told.finish()


def _log(head: str) -> None:
    logger.info("registry %s", head.strip().replace("\r\n", "; "))


class StreamCredentials:
    """Implements :class:`containerd_hybrid.registry.api.Credentials` by asking the client."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._turn = asyncio.Lock()  # answers come in the order of the questions

    async def get(self, host: str, reference: str) -> Credential | None:
        """
        Raises:
            UnauthenticatedError: the client is gone, or answered with something else.
        """
        request = registry_pb2.AuthRequest(host=host, reference=reference)
        async with self._turn:
            name = registry_pb2.AuthRequest.DESCRIPTOR.full_name
            await self._stream.send(AnyValue(name, request.SerializeToString()))
            message = await self._stream.receive()
        if message is None:
            raise UnauthenticatedError(f"the client gave no answer about credentials for {host}")
        if message.type_name != registry_pb2.AuthResponse.DESCRIPTOR.full_name:
            raise UnauthenticatedError(f"the client answered about {host} with {message.type_url!r}")
        return _credential(registry_pb2.AuthResponse.FromString(message.value))


def _credential(answer: registry_pb2.AuthResponse) -> Credential | None:
    if not answer.secret:
        return None
    if answer.authType == registry_pb2.AuthType.HEADER:
        return Credential(header=answer.secret)
    if answer.authType == registry_pb2.AuthType.REFRESH:
        return Credential(secret=answer.secret)
    if answer.authType == registry_pb2.AuthType.CREDENTIALS:
        return Credential(answer.username, answer.secret)
    return None


def store_target(store: imagestore_pb2.ImageStore) -> StoreTarget:
    """What of a pulled image to keep."""
    return StoreTarget(
        store.name,
        dict(store.labels),
        tuple(platform_from_wire(platform) for platform in store.platforms),
        store.all_metadata,
        store.manifest_limit,
        reference_rules(store),
    )


def reference_rules(store: imagestore_pb2.ImageStore) -> tuple[ReferenceRule, ...]:
    """How further names are given."""
    return tuple(
        ReferenceRule(
            reference.name,
            reference.is_prefix,
            reference.allow_overwrite,
            reference.add_digest,
            reference.skip_named_digest,
        )
        for reference in store.extra_references
    )
