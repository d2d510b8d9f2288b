"""Plug-ins in other processes: ``[proxy_plugins.NAME]`` of the configuration.

They are there whether or not somebody answers at their address now; calls say so when nobody does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from containerd_hybrid.app.api import InitContext, Plugin, PluginType
from containerd_hybrid.app.builtins import ESSENTIAL
from containerd_hybrid.app.builtins.snapshotters import SnapshotBackend
from containerd_hybrid.app.builtins.storage import Differ
from containerd_hybrid.app.builtins.threads import in_thread
from containerd_hybrid.app.config.model import ProxyPlugin
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model import Platform

if TYPE_CHECKING:
    from containerd_hybrid.client.api import Transport
    from containerd_hybrid.content.proxy import ProxyBlobStore
    from containerd_hybrid.sandbox.proxy import ProxySandboxController

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Proxy:
    """What is known when the plug-in is made."""

    name: str
    configured: ProxyPlugin
    transport: Transport
    root: Path


async def _snapshots(proxy: _Proxy) -> SnapshotBackend:
    from containerd_hybrid.snapshots.proxy import ProxySnapshotDriver

    capabilities = proxy.configured.capabilities
    driver = ProxySnapshotDriver(proxy.name, proxy.name, proxy.transport, proxy.root, capabilities)
    return SnapshotBackend(driver)


async def _content(proxy: _Proxy) -> ProxyBlobStore:
    from containerd_hybrid.content.local import LocalBlobStore
    from containerd_hybrid.content.proxy import ProxyBlobStore

    return ProxyBlobStore(proxy.transport, await in_thread(LocalBlobStore, proxy.root))


async def _differ(proxy: _Proxy) -> Differ:
    from containerd_hybrid.diff.proxy import ProxyDiffer

    differ = ProxyDiffer(proxy.transport)
    return Differ(differ, differ)


async def _sandboxes(proxy: _Proxy) -> ProxySandboxController:
    from containerd_hybrid.sandbox.proxy import ProxySandboxController

    return ProxySandboxController(proxy.name, proxy.transport)


_KINDS: dict[str, tuple[PluginType, Callable[[_Proxy], Awaitable[Any]]]] = {
    "snapshot": (PluginType.SNAPSHOTTER, _snapshots),
    "content": (PluginType.CONTENT, _content),
    "diff": (PluginType.DIFFER, _differ),
    "sandbox": (PluginType.SANDBOX_CONTROLLER, _sandboxes),
}
_KINDS.update({str(kind): (kind, make) for kind, make in list(_KINDS.values())})


def proxies(configured: Mapping[str, ProxyPlugin]) -> list[Plugin]:
    """A plug-in for each; one of an unknown type or without an address is left out with a warning."""
    found = []
    for name, one in configured.items():
        if one.type not in _KINDS:
            known = ", ".join(kind for kind in _KINDS if "." not in kind)
            logger.warning(
                "unknown proxy plugin type", extra={"plugin": name, "type": one.type, "known": known}
            )
        elif not one.address:
            logger.warning("proxy plugin without an address", extra={"plugin": name})
        else:
            found.append(_plugin(name, one))
    return found


def with_proxies(plugins: Sequence[Plugin], configured: Mapping[str, ProxyPlugin]) -> list[Plugin]:
    """The plug-ins and the proxies; a proxy takes the place of a plug-in of its type and name."""
    found = proxies(configured)
    replaced = {proxy.uri for proxy in found}
    return [*(plugin for plugin in plugins if plugin.uri not in replaced), *found]


def essential(configured: Mapping[str, ProxyPlugin]) -> tuple[str, ...]:
    """What the daemon cannot be without: its own content store is replaced by a proxy of one."""
    replaced = any(_KINDS.get(one.type, (None,))[0] is PluginType.CONTENT for one in configured.values())
    return tuple(uri for uri in ESSENTIAL if not (replaced and uri.startswith(PluginType.CONTENT)))


def _plugin(name: str, one: ProxyPlugin) -> Plugin:
    kind, make = _KINDS[one.type]

    async def init(context: InitContext) -> Any:
        from containerd_hybrid.app.remote import NamedTransport
        from containerd_hybrid.client.grpc_transport import GrpcTransport

        transport = NamedTransport(name, one.address, GrpcTransport(one.address))
        context.on_close(transport.close)
        return await make(_Proxy(name, one, transport, context.root))

    return Plugin(
        kind,
        name,
        init,
        capabilities=tuple(one.capabilities),
        platforms=(_platform(name, one.platform),),
        exports={**one.exports, "address": one.address},
    )


def _platform(name: str, text: str) -> Platform:
    if text:
        try:
            return Platform.parse(text)
        except InvalidArgumentError as error:
            logger.warning("bad platform of a proxy plugin", extra={"plugin": name, "error": error.message})
    return Platform.host()
