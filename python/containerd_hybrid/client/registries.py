"""A registry as an end of a transfer, and the client's answers about credentials meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.streams import ClientStream, open_stream
from containerd_hybrid.proto.types.transfer import registry_pb2
from containerd_hybrid.registry.api import Credential, Credentials, RegistryOptions


@asynccontextmanager
async def registry_end(
    calls: Calls, reference: str, options: RegistryOptions
) -> AsyncIterator[registry_pb2.OCIRegistry]:
    """The message for the daemon; its questions are answered as long as the block runs.

    What goes wrong while credentials are looked up is what the block raises.
    """
    resolver = registry_pb2.RegistryResolver(
        headers=dict(options.headers), host_dir=options.hosts_dir, default_scheme=options.default_scheme
    )
    place = registry_pb2.OCIRegistry(reference=reference, resolver=resolver)
    if options.credentials is None:
        yield place
        return
    async with open_stream(calls) as stream:
        place.resolver.auth_stream = stream.name
        answering = asyncio.ensure_future(_answer(stream, options.credentials))
        try:
            yield place
        except Exception:
            if answering.done() and not answering.cancelled() and answering.exception() is not None:
                answering.result()
            raise
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def _answer(stream: ClientStream, credentials: Credentials) -> None:
    try:
        while (message := await stream.receive()) is not None:
            asked = registry_pb2.AuthRequest.FromString(message.value)
            await stream.send(_response(await credentials.get(asked.host, asked.reference)))
    finally:
        # Without an answer the daemon would wait for one.
        await stream.close_sending()


def _response(found: Credential | None) -> registry_pb2.AuthResponse:
    if found is None:
        return registry_pb2.AuthResponse(authType=registry_pb2.AuthType.NONE)
    if found.header:
        return registry_pb2.AuthResponse(authType=registry_pb2.AuthType.HEADER, secret=found.header)
    if not found.username:
        return registry_pb2.AuthResponse(authType=registry_pb2.AuthType.REFRESH, secret=found.secret)
    return registry_pb2.AuthResponse(
        authType=registry_pb2.AuthType.CREDENTIALS, username=found.username, secret=found.secret
    )
