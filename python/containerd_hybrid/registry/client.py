"""The client of all registries: one pool of connections, a repository for each operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from containerd_hybrid.model import Reference
from containerd_hybrid.registry.api import Capability, RegistryOptions
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.repository import TargetRepository, list_names
from containerd_hybrid.registry.retry import RetryPolicy
from containerd_hybrid.registry.target import Target
from containerd_hybrid.registry.transport import Transport, TransportSettings
from containerd_hybrid.registry.upload import UploadSettings


class HttpRegistryClient:
    """Implements :class:`containerd_hybrid.registry.api.RegistryClient`.

    ``hosts_dir`` is used by operations that name none of their own.
    """

    def __init__(
        self,
        *,
        hosts_dir: str = "",
        transport: TransportSettings | None = None,
        retry: RetryPolicy | None = None,
        uploads: UploadSettings | None = None,
    ) -> None:
        self._hosts_dir = hosts_dir
        self._transport = Transport(transport or TransportSettings())
        self._retry = retry or RetryPolicy()
        self._uploads = uploads or UploadSettings()

    def repository(self, reference: Reference, options: RegistryOptions) -> TargetRepository:
        return TargetRepository(self._target(reference, options), self._uploads)

    async def catalog(self, host: str, options: RegistryOptions) -> Sequence[str]:
        target = self._target(Reference(host, "", ""), options)

        async def ask(endpoint: Endpoint, attempts: int | None) -> list[str]:
            url = target.root_url(endpoint, "_catalog", query=(("n", "1000"),))
            doing = f"list repositories of {host}"
            scopes = ("registry:catalog:*",)
            return await list_names(target, endpoint, url, "repositories", doing, scopes, attempts)

        return await target.each(Capability.RESOLVE, ask)

    async def close(self) -> None:
        """End all connections."""
        await self._transport.close()

    def _target(self, reference: Reference, options: RegistryOptions) -> Target:
        if not options.hosts_dir and self._hosts_dir:
            options = replace(options, hosts_dir=self._hosts_dir)
        return Target(self._transport, self._retry, reference, options)
