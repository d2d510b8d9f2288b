"""A host as requests go to it: address, what it may be asked for, and how the connection is made."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.registry.api import Capability

DOCKER_HUB = "docker.io"
DOCKER_HUB_HOST = "registry-1.docker.io"
DIAL_SECONDS = 30.0


class ClientPair(NamedTuple):
    """A client certificate; without ``key`` the key lies in the same file."""

    certificate: Path
    key: Path | None


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """``skip_verify`` None means that nothing was said, which is to verify."""

    ca: tuple[Path, ...] = ()
    client: tuple[ClientPair, ...] = ()
    skip_verify: bool | None = None

    @property
    def is_explicit(self) -> bool:
        return bool(self.ca or self.client) or self.skip_verify is not None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``host`` has the port if one was given; ``path`` is the root of the API, usually ``/v2``.

    ``headers`` are for this host and no other. ``plain_fallback``: speak TLS first, and plain HTTP when
    the host does not understand it.
    """

    scheme: str
    host: str
    path: str = "/v2"
    capabilities: Capability = Capability.ALL
    tls: TlsSettings = TlsSettings()
    headers: tuple[tuple[str, str], ...] = ()
    dial_seconds: float = DIAL_SECONDS
    plain_fallback: bool = False

    def is_proxy_for(self, registry: str) -> bool:
        """Whether it is another host that has to be told whose repositories are meant (query ``ns``)."""
        return registry != self.host and (registry, self.host) != (DOCKER_HUB, DOCKER_HUB_HOST)


def split_port(host: str) -> tuple[str, str]:
    """``name:port`` in two; IPv6 addresses lose their brackets."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest.removeprefix(":")
    name, _, port = host.partition(":")
    return name, port


def is_localhost(host: str) -> bool:
    """Whether a host, with or without port, is this machine by name or loopback address."""
    name = split_port(host)[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def default_endpoint(
    registry: str,
    default_scheme: str = "",
    tls: TlsSettings = TlsSettings(),
    headers: tuple[tuple[str, str], ...] = (),
    dial_seconds: float = DIAL_SECONDS,
) -> Endpoint:
    """The registry itself, when nothing says where it is: https, and what containerd does for localhost.

    A port of this machine other than 80 and 443 may be either, so TLS is tried first, unverified.

    Raises:
        InvalidArgumentError: ``default_scheme`` is neither http nor https.
    """
    if default_scheme not in {"", "http", "https"}:
        raise InvalidArgumentError(f"unknown scheme {default_scheme!r} for {registry}: use http or https")
    scheme = default_scheme or "https"
    host = registry
    if registry == DOCKER_HUB:
        scheme, host = "https", DOCKER_HUB_HOST
    elif is_localhost(registry) and not default_scheme:
        port = split_port(registry)[1]
        scheme = "https" if port in {"", "443"} else "http"
        if port != "80":
            tls = TlsSettings(tls.ca, tls.client, skip_verify=True)
    return settled(Endpoint(scheme, host, tls=tls, headers=headers, dial_seconds=dial_seconds))


def settled(endpoint: Endpoint) -> Endpoint:
    """An http host with TLS settings is asked by TLS first, except on port 80."""
    if endpoint.scheme != "http" or not endpoint.tls.is_explicit or split_port(endpoint.host)[1] == "80":
        return endpoint
    return Endpoint(
        "https",
        endpoint.host,
        endpoint.path,
        endpoint.capabilities,
        endpoint.tls,
        endpoint.headers,
        endpoint.dial_seconds,
        plain_fallback=True,
    )
