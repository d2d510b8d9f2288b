"""How a registry would be reached: the hosts in order, without asking any of them."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from containerd_hybrid.errors import InvalidConfigError
from containerd_hybrid.model import Reference
from containerd_hybrid.registry.api import HostExplanation, ReferenceExplanation
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.hosts import configured_folder, endpoints_for
from containerd_hybrid.registry.proxies import proxy_for


class HostsExplainer:
    """Implements :class:`containerd_hybrid.registry.api.RegistryExplainer` for one hosts folder."""

    def __init__(self, hosts_dir: str = "") -> None:
        self._hosts_dir = hosts_dir

    async def explain(self, reference: str) -> ReferenceExplanation:
        """See :meth:`containerd_hybrid.registry.api.RegistryExplainer.explain`."""
        parsed = Reference.parse(reference)
        return await asyncio.to_thread(self._explain, parsed)

    def _explain(self, reference: Reference) -> ReferenceExplanation:
        folder = configured_folder(reference.host, self._hosts_dir)
        file = folder / "hosts.toml" if folder is not None else None
        place = "" if file is None else str(file if file.exists() else folder)
        hosts = endpoints_for(reference.host, self._hosts_dir)
        return ReferenceExplanation(
            str(reference), place, tuple(_explained(endpoint, reference) for endpoint in hosts)
        )


def _explained(endpoint: Endpoint, reference: Reference) -> HostExplanation:
    url = f"{endpoint.scheme}://{endpoint.host}{endpoint.path}"
    return HostExplanation(
        url,
        endpoint.capabilities,
        endpoint.is_proxy_for(reference.host),
        endpoint.host,
        tuple(dict.fromkeys(name for name, _ in endpoint.headers)),
        _tls(endpoint),
        _proxy(url),
    )


def _tls(endpoint: Endpoint) -> str:
    if endpoint.scheme != "https":
        return "none"
    words = ["not verified" if endpoint.tls.skip_verify else "verified"]
    if endpoint.tls.ca:
        words.append(f"CA {', '.join(map(str, endpoint.tls.ca))}")
    if endpoint.tls.client:
        words.append(f"client certificate {', '.join(str(pair.certificate) for pair in endpoint.tls.client)}")
    if endpoint.plain_fallback:
        words.append("plain HTTP if the host speaks no TLS")
    return "; ".join(words)


def _proxy(url: str) -> str:
    try:
        proxy = proxy_for(url)
    except InvalidConfigError as error:
        return error.message
    if proxy is None:
        return ""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
