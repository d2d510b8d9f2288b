"""Where a configuration value comes from: the default, a file and its line, the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from containerd_hybrid.app.api import (
    ConfigExplanation,
    IgnoredKey,
    KeyExplanation,
    KeySource,
    Plugin,
)
from containerd_hybrid.app.config.bind import Binder, quoted_key, unbind
from containerd_hybrid.app.config.model import (
    DEBUG_SERVER,
    GRPC_SERVER,
    GRPC_TCP_SERVER,
    METRICS_SERVER,
    TTRPC_SERVER,
    Config,
    FileConfig,
)
from containerd_hybrid.app.config.render import render_value
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError

Path: TypeAlias = tuple[str, ...]

_HEADER = re.compile(r"\s*\[([^\[\]].*)\]\s*(?:#.*)?")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_SUGGESTIONS = 3
_SERVER_KEY = 3
# Where the servers' settings were: the table, and what their keys began with.
_BEFORE_VERSION_4 = {
    GRPC_SERVER: ("grpc", ""),
    GRPC_TCP_SERVER: ("grpc", "tcp_"),
    TTRPC_SERVER: ("ttrpc", ""),
    DEBUG_SERVER: ("debug", ""),
    METRICS_SERVER: ("metrics", ""),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """What one place says, as a version 4 file would; ``text`` is the file's, to find lines in."""

    place: str
    found: FileConfig
    text: str = ""


@dataclass(frozen=True, slots=True)
class Explainer:
    """Implements :class:`containerd_hybrid.app.api.ConfigExplainer`, for the configuration in force.

    ``layers`` are in the order in which they were merged, ``given`` has what the command line says, by key.
    """

    config: Config
    plugins: Sequence[Plugin]
    layers: Sequence[Layer] = ()
    warnings: Sequence[tuple[str, Mapping[str, str]]] = ()
    given: Mapping[Path, Any] = field(default_factory=dict)

    def explain(self, key: str) -> ConfigExplanation:
        """See :meth:`containerd_hybrid.app.api.ConfigExplainer.explain`."""
        wanted = self._path(key)
        values, defaults = _flat(complete(self.config, self.plugins)), _flat(complete(Config(), self.plugins))
        files = tuple(layer.place for layer in self.layers)
        ignored = tuple(self._ignored(wanted))
        names = [path for path in values if path[: len(wanted)] == wanted]
        if not names and not ignored:
            raise NotFoundError(f"there is no key {key}{_suggestion(wanted, list(values))}")
        sources = {path: tuple(self._sources(path)) for path in names}
        keys = tuple(
            KeyExplanation(
                dotted(path),
                render_value(values[path]),
                render_value(defaults[path]) if path in defaults else "",
                sources[path],
            )
            for path in names
        )
        return ConfigExplanation(keys, files, ignored)

    def setting(self, *path: str) -> Any:
        """See :meth:`containerd_hybrid.app.api.ConfigExplainer.setting`."""
        return _flat(complete(self.config, self.plugins)).get(path)

    def _path(self, key: str) -> Path:
        """The parts of a dotted key; a plug-in's name may be written without quotes and ``plugins``."""
        bare = key.removeprefix("plugins.").strip()
        names = {plugin.uri for plugin in self.plugins} | set(self.config.plugins)
        for name in sorted(names, key=len, reverse=True):
            if bare == name or bare.startswith(f"{name}."):
                rest = bare[len(name) + 1 :]
                return ("plugins", name, *(_parts(rest) if rest else ()))
        return _parts(key)

    def _sources(self, path: Path) -> Iterator[KeySource]:
        for layer in self.layers:
            table = unbind(layer.found)
            value: Any = table
            for part in path:
                value = value.get(part) if isinstance(value, Mapping) else None
            # Of what is no plug-in's, an empty value means that the file does not say.
            is_said = value is not None if path[0] == "plugins" else bool(value)
            if is_said:
                yield KeySource(layer.place, _line(layer.text, path), render_value(value))
        if path in self.given:
            yield KeySource("the command line", 0, render_value(self.given[path]))

    def _ignored(self, wanted: Path) -> Iterator[IgnoredKey]:
        for message, fields in self.warnings:
            if not message.startswith("Ignoring"):
                continue
            key = fields.get("key") or fields.get("plugin") or fields.get("plugins")
            if key and (not wanted or _concerns(key, wanted)):
                yield IgnoredKey(key, fields.get("file", ""), message)


def complete(config: Config, plugins: Sequence[Plugin]) -> dict[str, Any]:
    """The configuration as a document, with every key of every plug-in."""
    binder = Binder()
    tables = {name: unbind(table) for name, table in config.plugins.items()}
    for plugin in plugins:
        if plugin.config is not None:
            bound = binder.bind(plugin.config, config.plugins.get(plugin.uri, {}), plugin.uri)
            tables[plugin.uri] = unbind(bound)
    document: dict[str, Any] = unbind(config)
    document["plugins"] = dict(sorted(tables.items()))
    return document


def command_line(before: Config, after: Config) -> dict[Path, Any]:
    """What the options changed, by key."""
    first, second = _flat(unbind(before)), _flat(unbind(after))
    return {path: value for path, value in second.items() if first.get(path, _flat) != value}


def lines_of(text: str) -> dict[Path, int]:
    """The line of each key of a TOML text, counted from 1; of those that stand on one of their own."""
    found: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.fullmatch(line), _KEY.match(line)
        try:
            if header:
                table = _parts(header[1])
                found.setdefault(table, number)
            elif key:
                found.setdefault((*table, *_parts(key[1])), number)
        except InvalidArgumentError:
            continue  # in the middle of a string
    return found


def _line(text: str, path: Path) -> int:
    lines = lines_of(text)
    old = _BEFORE_VERSION_4.get(path[1]) if path[0] == "plugins" and len(path) == _SERVER_KEY else None
    return lines.get(path) or (lines.get((old[0], old[1] + path[2]), 0) if old else 0)


def dotted(path: Path) -> str:
    """The key as TOML has it."""
    return ".".join(map(quoted_key, path))


def _parts(key: str) -> Path:
    try:
        value: Any = tomllib.loads(f"{key} = 0") if key else {}
    except tomllib.TOMLDecodeError:
        raise InvalidArgumentError(
            f"invalid key {key!r}: expected one such as debug.level, or the name of a plugin"
        ) from None
    parts = []
    while isinstance(value, dict) and value:
        if len(value) != 1:
            raise InvalidArgumentError(f"invalid key {key!r}: expected one key")
        ((part, value),) = value.items()
        parts.append(part)
    return tuple(parts)


def _flat(document: Mapping[str, Any], path: Path = ()) -> dict[Path, Any]:
    """Each value that is no table, or an empty one, by its path."""
    found: dict[Path, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, (*path, key))
        else:
            found[(*path, key)] = value
    return found


def _concerns(key: str, wanted: Path) -> bool:
    try:
        path = _parts(key)
    except InvalidArgumentError:
        return key in dotted(wanted)
    return path[: len(wanted)] == wanted or wanted[: len(path)] == path or key in wanted


def _suggestion(wanted: Path, known: Sequence[Path]) -> str:
    import difflib

    names = [dotted(path) for path in known]
    close = difflib.get_close_matches(dotted(wanted), names, _SUGGESTIONS)
    close += [name for path, name in zip(known, names, strict=True) if wanted and path[-1] == wanted[-1]]
    shown = list(dict.fromkeys(close))[:_SUGGESTIONS]
    return f"; did you mean {' or '.join(shown)}?" if shown else ""


def given_layer(place: str, tables: Mapping[str, Any], *, root: str, state: str) -> Layer:
    """What a program says instead of a file."""
    return Layer(place, FileConfig(plugins=tables, root=root, state=state))
