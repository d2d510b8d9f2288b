"""One repository and the hosts that serve it: what resolver, fetcher, pusher and lists have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from typing import TypeVar
from urllib.parse import quote, urlencode, urljoin

from containerd_hybrid.errors import (
    FailedPreconditionError,
    HybridError,
    NotFoundError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.model import Reference
from containerd_hybrid.model.manifest import MAX_DOCUMENT_BYTES
from containerd_hybrid.registry.api import Capability, RegistryOptions
from containerd_hybrid.registry.auth.authenticator import Authenticator
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.exchange import Exchange
from containerd_hybrid.registry.hosts import endpoints_for
from containerd_hybrid.registry.http import Request, Response, origin
from containerd_hybrid.registry.links import next_link
from containerd_hybrid.registry.retry import RetryPolicy
from containerd_hybrid.registry.transport import Transport

T = TypeVar("T")

# A list of more pages is none that a person reads; a bound for hosts that never end.
_MAX_PAGES = 10_000


class Target:
    """Requests about one repository; tokens live as long as this does."""

    def __init__(
        self, transport: Transport, retry: RetryPolicy, reference: Reference, options: RegistryOptions
    ) -> None:
        self.reference = reference
        self.transport = transport
        self.exchange = Exchange(transport, retry, options.headers, reference.host, options.observer)
        self._options = options
        self._endpoints: tuple[Endpoint, ...] | None = None
        self._loading = asyncio.Lock()
        self._authenticator = Authenticator(
            options.credentials, str(reference), self.exchange.ask_token_server
        )
        # Foreign URLs and moved uploads are never told who we are.
        self._stranger = Exchange(transport, retry, {}, reference.host, options.observer)
        self._nobody = Authenticator(None, str(reference), self._stranger.ask_token_server)

    async def endpoints(self, capability: Capability) -> tuple[Endpoint, ...]:
        """The hosts that may be asked for it, in order.

        Raises:
            InvalidConfigError: see :func:`containerd_hybrid.registry.hosts.endpoints_for`.
            NotFoundError: none may.
        """
        async with self._loading:
            if self._endpoints is None:
                self._endpoints = await asyncio.to_thread(
                    endpoints_for,
                    self.reference.host,
                    self._options.hosts_dir,
                    self._options.default_scheme,
                )
        found = tuple(e for e in self._endpoints if capability & ~e.capabilities == Capability(0))
        if not found:
            named = " and ".join(str(flag.name).lower() for flag in capability)
            raise NotFoundError(
                f"no host of {self.reference.host} may be used to {named}: see capabilities in hosts.toml"
            )
        return found

    def url(self, endpoint: Endpoint, *parts: str, query: Sequence[tuple[str, str]] = ()) -> str:
        """Below the repository; with ``ns`` where the host serves more than one registry."""
        return self.root_url(endpoint, self.reference.path, *parts, query=query)

    def root_url(self, endpoint: Endpoint, *parts: str, query: Sequence[tuple[str, str]] = ()) -> str:
        """Below the root of the API."""
        path = "/".join((endpoint.path.strip("/"), *(quote(part, safe="/:+@_-.~") for part in parts)))
        pairs = [*query]
        if endpoint.is_proxy_for(self.reference.host):
            pairs.append(("ns", self.reference.host))
        asked = f"?{urlencode(pairs)}" if pairs else ""
        return f"{endpoint.scheme}://{endpoint.host}/{path.lstrip('/')}{asked}"

    def scope(self, actions: str = "pull", path: str = "") -> str:
        return f"repository:{path or self.reference.path}:{actions}"

    async def open(
        self,
        endpoint: Endpoint,
        request: Request,
        *,
        doing: str,
        scopes: Sequence[str] = (),
        accept: Container[int] = (200,),
        attempts: int | None = None,
    ) -> Response:
        """See :meth:`Exchange.open`; the default scope is to pull. Who takes the answer closes it."""
        return await self.exchange.open(
            endpoint,
            request,
            self._authenticator,
            scopes or (self.scope(),),
            doing=f"{doing} at {endpoint.host}",
            accept=accept,
            attempts=attempts,
        )

    async def open_stranger(
        self, request: Request, *, doing: str, accept: Container[int], attempts: int | None = None
    ) -> Response:
        """A request to a host that a registry or manifest names, without anything that is secret."""
        scheme, host, _ = origin(request.url)
        return await self._stranger.open(
            Endpoint(scheme, host),
            request,
            self._nobody,
            (),
            doing=f"{doing} at {host}",
            accept=accept,
            attempts=attempts,
        )

    async def each(self, capability: Capability, ask: Callable[[Endpoint, int | None], Awaitable[T]]) -> T:
        """What the first host gives that can; ``ask`` gets the host and how often to try it.

        Raises:
            HybridError: that of the host that came furthest: a refusal before "not found", that before
                a host that could not be asked.
        """
        hosts = await self.endpoints(capability)
        worst: HybridError | None = None
        for endpoint in hosts:
            try:
                return await ask(endpoint, None if endpoint is hosts[-1] else 1)
            except HybridError as error:
                if worst is None or _distance(error) > _distance(worst):
                    worst = error
        assert worst is not None
        raise worst

    async def pages(
        self,
        endpoint: Endpoint,
        url: str,
        *,
        doing: str,
        scopes: Sequence[str] = (),
        attempts: int | None = None,
    ) -> AsyncIterator[tuple[Response, bytes]]:
        """The pages of a list, by their ``Link`` headers (RFC 8288), as far as they are on one host."""
        seen: set[str] = set()
        while url and url not in seen and len(seen) < _MAX_PAGES:
            seen.add(url)
            response = await self.open(
                endpoint,
                Request("GET", url, {"Accept": "application/json"}),
                doing=doing,
                scopes=scopes,
                attempts=attempts,
            )
            try:
                yield response, await response.read(MAX_DOCUMENT_BYTES)
            finally:
                response.close()
            link = next_link(response.headers("Link"))
            url = urljoin(response.url, link) if link else ""
            if url and origin(url) != origin(response.url):
                raise UnknownError(f"cannot {doing}: {endpoint.host} continues its list on another host")


def _distance(error: HybridError) -> int:
    if isinstance(error, UnavailableError | FailedPreconditionError):
        return 0
    return 1 if isinstance(error, NotFoundError) else 2
