"""``hosts.toml``: which hosts serve a registry, in which order, and how to reach them.

Source of the format: containerd's docs/hosts.md. Files are read anew for every operation, so a change
needs no restart. Other than containerd, which falls back to what it would do without the file, a file
that cannot be read as meant is an error: a mirror or CA left out silently is worse.
"""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from containerd_hybrid.errors import InvalidConfigError, error_for_os
from containerd_hybrid.registry.api import Capability
from containerd_hybrid.registry.endpoint import (
    DIAL_SECONDS,
    ClientPair,
    Endpoint,
    TlsSettings,
    default_endpoint,
    settled,
)

_CAPABILITIES = {
    "pull": Capability.PULL,
    "resolve": Capability.RESOLVE,
    "push": Capability.PUSH,
    "referrers": Capability.REFERRERS,
}
_DURATION = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def endpoints_for(registry: str, hosts_dir: str = "", default_scheme: str = "") -> tuple[Endpoint, ...]:
    """The hosts of a registry, in the order in which they are tried; reads files, so call in a thread.

    ``hosts_dir`` is one or more directories, separated by colons; the first that has a folder for the
    registry is used.

    Raises:
        InvalidConfigError: names the file, the key, and what was expected.
    """
    folder = configured_folder(registry, hosts_dir)
    if folder is None:
        return (default_endpoint(registry, default_scheme),)
    file = folder / "hosts.toml"
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise error_for_os(error, f"read {file}") from error
    if not data:
        return (default_endpoint(registry, default_scheme, _docker_certificates(folder)),)
    return _HostsFile(file, data).endpoints(registry, default_scheme)


def configured_folder(registry: str, hosts_dir: str) -> Path | None:
    """The folder that says how to reach a registry, None when none does."""
    for root in filter(None, hosts_dir.split(":")):
        for name in _folder_names(registry):
            folder = Path(root, name)
            if folder.exists():
                return folder
    return None


def _folder_names(registry: str) -> Iterator[str]:
    """``host_port_`` (for file systems without colons), ``host:port``, and the one for all others."""
    name, colon, port = registry.rpartition(":")
    if colon and name:
        yield f"{name}_{port}_"
    yield registry
    yield "_default"


def _docker_certificates(folder: Path) -> TlsSettings:
    """What Docker reads from a ``certs.d`` folder: CAs (``*.crt``), client pairs (``*.cert``, ``*.key``)."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.is_dir())
    except FileNotFoundError:
        return TlsSettings()
    except OSError as error:
        raise error_for_os(error, f"read {folder}") from error
    pairs = []
    for name in names:
        if name.endswith(".cert"):
            key = folder / f"{name.removesuffix('.cert')}.key"
            pairs.append(ClientPair(folder / name, key if key.exists() else None))
    return TlsSettings(tuple(folder / name for name in names if name.endswith(".crt")), tuple(pairs))


class _HostsFile:
    """One file, parsed."""

    def __init__(self, file: Path, data: bytes) -> None:
        self._file = file
        try:
            self._document = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidConfigError(f"{file}: {error}") from error

    def endpoints(self, registry: str, default_scheme: str) -> tuple[Endpoint, ...]:
        tables = self._document.get("host", {})
        if not isinstance(tables, dict):
            self._wrong("host", 'tables such as [host."https://mirror.example"]')
        found = []
        for name, table in tables.items():
            if not isinstance(table, dict):
                self._wrong(f'host."{name}"', "a table")
            found.append(self._endpoint(name, table, f'host."{name}".'))
        found.append(self._server(registry, default_scheme))
        return tuple(found)

    def _server(self, registry: str, default_scheme: str) -> Endpoint:
        server = self._document.get("server", "")
        if not isinstance(server, str):
            self._wrong("server", 'a URL such as "https://registry.example"')
        if server:
            return self._endpoint(server, self._document, "")
        self._capabilities(self._document, "")
        return default_endpoint(
            registry,
            default_scheme,
            self._tls(self._document, ""),
            self._headers(self._document, ""),
            self._dial_seconds(self._document, ""),
        )

    def _endpoint(self, server: str, table: Mapping[str, Any], key: str) -> Endpoint:
        url = urlsplit(server if server.startswith("http") else f"https://{server}")
        try:
            valid = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        except ValueError:
            valid = False
        if not valid or url.username is not None:
            self._wrong(key.removesuffix(".") or "server", f"a URL of a host, not {server!r}")
        override = self._flag(table, "override_path", key) or False
        path = posixpath.normpath(url.path) if url.path else ""
        path = "" if path == "/" and not override else path
        if not override and not path.endswith("/v2"):
            path += "/v2"
        return settled(
            Endpoint(
                url.scheme,
                url.netloc,
                path,
                self._capabilities(table, key),
                self._tls(table, key),
                self._headers(table, key),
                self._dial_seconds(table, key),
            )
        )

    def _capabilities(self, table: Mapping[str, Any], key: str) -> Capability:
        values = table.get("capabilities") or []
        if not isinstance(values, list):
            self._wrong(f"{key}capabilities", "a list of pull, resolve, push, referrers")
        found = Capability(0)
        for value in values:
            capability = _CAPABILITIES.get(value.lower()) if isinstance(value, str) else None
            if capability is None:
                self._wrong(f"{key}capabilities", f"pull, resolve, push or referrers, not {value!r}")
            found |= capability
        return found or Capability.ALL

    def _tls(self, table: Mapping[str, Any], key: str) -> TlsSettings:
        ca = table.get("ca")
        files = [ca] if isinstance(ca, str) else ca or []
        if not _are_strings(files):
            self._wrong(f"{key}ca", "a file or a list of files")
        client = table.get("client")
        pairs = [client] if isinstance(client, str) else client or []
        if not isinstance(pairs, list):
            self._wrong(f"{key}client", "a file, a list of files, or a list of [certificate, key]")
        return TlsSettings(
            tuple(self._place(name) for name in files),
            tuple(self._pair(pair, key) for pair in pairs),
            self._flag(table, "skip_verify", key),
        )

    def _pair(self, pair: Any, key: str) -> ClientPair:
        if isinstance(pair, str):
            return ClientPair(self._place(pair), None)
        if not _are_strings(pair) or len(pair) != 2:
            self._wrong(f"{key}client", "each entry to be a file or a pair [certificate, key]")
        return ClientPair(self._place(pair[0]), self._place(pair[1]) if pair[1] else None)

    def _headers(self, table: Mapping[str, Any], key: str) -> tuple[tuple[str, str], ...]:
        headers = table.get("header") or {}
        if not isinstance(headers, dict):
            self._wrong(f"{key}header", "a table")
        found: list[tuple[str, str]] = []
        for name, value in headers.items():
            values = [value] if isinstance(value, str) else value
            if not _are_strings(values) or any(mark in text for text in (name, *values) for mark in "\r\n\0"):
                # The value is not shown: it may be a secret.
                self._wrong(f"{key}header.{name}", "a string or a list of strings, each one line")
            found.extend((name, text) for text in values)
        return tuple(found)

    def _dial_seconds(self, table: Mapping[str, Any], key: str) -> float:
        text = table.get("dial_timeout") or ""
        if not text:
            return DIAL_SECONDS
        seconds = parse_duration(text) if isinstance(text, str) else None
        if seconds is None or seconds < 0:
            self._wrong(f"{key}dial_timeout", 'a duration such as "3s"')
        return seconds or DIAL_SECONDS  # 0 is Go's "no limit", which the system's own limit is beyond

    def _flag(self, table: Mapping[str, Any], name: str, key: str) -> bool | None:
        value = table.get(name)
        if value is not None and not isinstance(value, bool):
            self._wrong(f"{key}{name}", "true or false")
        return value

    def _place(self, name: str) -> Path:
        return self._file.parent / name

    def _wrong(self, key: str, expected: str) -> NoReturn:
        raise InvalidConfigError(f"{self._file}: {key}: expected {expected}")


def parse_duration(text: str) -> float | None:
    """Seconds of a duration as Go writes it (``1m30s``, ``500ms``); None when it is none."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in {"+", "-"} else text
    if rest == "0":
        return 0.0
    seconds, position = 0.0, 0
    for match in _DURATION.finditer(rest):
        if match.start() != position or match[0][0] in "+-":
            return None
        number = match[0].rstrip("nsuµμmh")
        seconds += float(number) * _UNITS[match[0][len(number) :]]
        position = match.end()
    return sign * seconds if position and position == len(rest) else None


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
