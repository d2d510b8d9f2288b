"""Which proxy a request goes through, by the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).

The rules are those of Go's httpproxy, which users of containerd know: NO_PROXY lists names, ``.suffix``,
addresses, CIDR blocks, each with an optional port, or ``*``; this machine is never asked by a proxy.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from containerd_hybrid.errors import InvalidConfigError
from containerd_hybrid.registry.endpoint import is_localhost

_DEFAULT_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The proxy's URL, or None to go straight.

    Raises:
        InvalidConfigError: the variable holds no http or https URL.
    """
    target = urlsplit(url)
    name = f"{target.scheme.upper()}_PROXY"
    value = environment.get(name) or environment.get(name.lower()) or ""
    # A web server hands a client's header "Proxy:" to its programs under this name.
    if name == "HTTP_PROXY" and "REQUEST_METHOD" in environment:
        value = environment.get("http_proxy") or ""
    if not value or is_localhost(target.netloc):
        return None
    if _is_excluded(target, environment.get("NO_PROXY") or environment.get("no_proxy") or ""):
        return None
    proxy = value if "://" in value else f"http://{value}"
    if urlsplit(proxy).scheme not in _DEFAULT_PORTS or not urlsplit(proxy).hostname:
        # The value is not shown: it may hold a password.
        raise InvalidConfigError(f"{name}: expected the URL of an http or https proxy")
    return proxy


def _is_excluded(target: SplitResult, listed: str) -> bool:
    host = (target.hostname or "").rstrip(".")
    port = target.port or _DEFAULT_PORTS.get(target.scheme, 0)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in (part.strip().lower() for part in listed.split(",")):
        if entry == "*":
            return True
        if not entry:
            continue
        if address is not None and "/" in entry:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                pass  # no block, so a name, which no address is
            continue
        name, wanted_port = _split_entry(entry)
        if wanted_port and wanted_port != str(port):
            continue
        if _matches(host, name):
            return True
    return False


def _split_entry(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, ""


def _matches(host: str, name: str) -> bool:
    if name.startswith("*."):
        name = name[1:]
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith(f".{name}")
