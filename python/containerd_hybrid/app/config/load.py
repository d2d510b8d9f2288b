"""Reads a configuration file and what it imports, and merges them by containerd's rules.

A file's imports are read after it and override it:

    strings, numbers, booleans    a value that is not empty, 0 or false replaces the one before
    arrays                        elements that are new are appended
    plug-in tables                merged key by key, where any value replaces the one before
    other tables of tables        an entry replaces the entry of the same name

Every file may be of another version; each is migrated before it is merged.
"""

from __future__ import annotations

import dataclasses
import glob
import logging
import os
import tomllib
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from containerd_hybrid.app.config.bind import Binder, UnknownKey
from containerd_hybrid.app.config.explain import Layer
from containerd_hybrid.app.config.migrate import leftovers, migrate
from containerd_hybrid.app.config.model import (
    OLDEST_VERSION,
    VERSION,
    Config,
    Debug,
    FileConfig,
)
from containerd_hybrid.errors import InvalidConfigError

logger = logging.getLogger(__name__)


class Loader:
    """Loads files. ``schemas`` has the configuration class of each plug-in that has one, by full name.

    ``known`` are the names of plug-ins whose tables may be there, with or without a class. What is
    wrong but does no harm is in ``warnings``, for the caller to log once the log is configured; what each
    file said is in ``layers``, in the order of merging.
    """

    def __init__(self, schemas: Mapping[str, type[Any]], known: Iterable[str] = ()) -> None:
        self._schemas = schemas
        self._known = {*schemas, *known}
        self.warnings: list[tuple[str, dict[str, str]]] = []
        self.layers: list[Layer] = []

    def load(self, path: Path) -> Config:
        """The configuration in ``path`` and its imports, over the defaults.

        Raises:
            InvalidConfigError: a file cannot be read, is not TOML, has a version that we do not
                know, or a value of a wrong type. The message names the file.
        """
        config = Config()
        pending = deque([_absolute(path)])
        loaded: set[Path] = set()
        while pending:
            file = pending.popleft()
            if file in loaded:
                continue  # imported twice, or an import that leads back
            loaded.add(file)
            found = self._load_file(file)
            config = _merge(config, found)
            pending.extend(_imports(file, found.imports))
        return config

    def _load_file(self, file: Path) -> FileConfig:
        binder = Binder()
        text = _read(file)
        found = binder.bind(FileConfig, _parsed(file, text), str(file))
        self._warn_unknown(binder.unknown)
        _check_version(found, file)
        _check_names(found, file)
        if found.version < VERSION:
            self._warn(
                f"Configuration migrated from version {found.version or OLDEST_VERSION}, "
                "use `containerd-hybrid config migrate` to avoid migration",
                file=str(file),
            )
        else:
            for key in leftovers(found):
                self._warn(
                    "Ignoring a key of earlier versions: see `config migrate`", file=str(file), key=key
                )
        migrated = migrate(found)
        self._warn_of_missing(found, migrated, file)
        self._check_plugins(migrated.plugins, file)
        self.layers.append(Layer(str(file), migrated, text))
        return migrated

    def _warn_of_missing(self, found: FileConfig, migrated: FileConfig, file: Path) -> None:
        """Tables that the file has, but we have not."""
        for name in migrated.plugins:
            if name in found.plugins and name not in self._known:
                message = "Ignoring the table of a plugin that this program does not have"
                self._warn(message, file=str(file), plugin=name)

    def _check_plugins(self, plugins: Mapping[str, Mapping[str, Any]], file: Path) -> None:
        """Bind every table now, while it is known which file it is from."""
        for name, table in plugins.items():
            binder = Binder()
            if name in self._schemas:
                binder.bind(self._schemas[name], table, str(file), f'plugins."{name}"')
            self._warn_unknown(binder.unknown)

    def _warn_unknown(self, keys: list[UnknownKey]) -> None:
        for unknown in keys:
            self._warn("Ignoring unknown key in TOML", file=unknown.place, key=unknown.key)

    def _warn(self, message: str, **fields: str) -> None:
        self.warnings.append((message, fields))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (links stay: imports are relative to the name given)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidConfigError(f"open {file}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise InvalidConfigError(f"{file}: not UTF-8 at byte {error.start}") from None


def _parsed(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfigError(f"{file}: invalid TOML: {error}") from None


def _check_version(config: FileConfig, file: Path) -> None:
    if config.version > VERSION:
        raise InvalidConfigError(
            f"{file}: expected containerd config version equal to or less than `{VERSION}`, "
            f"got `{config.version}`"
        )
    names = (*config.plugins, *config.disabled_plugins, *config.required_plugins)
    short = [name for name in names if "." not in name]
    # Without a version it is 1 for containerd; what tells that one apart is its short plug-in names.
    if 0 < config.version < OLDEST_VERSION or config.version < 0 or (config.version == 0 and short):
        example = f" (here: {', '.join(short)})" if short else ""
        raise InvalidConfigError(
            f"{file}: configuration version 1 is no longer supported: write `version = {VERSION}` and "
            f'plugin names in full, e.g. "io.containerd.snapshotter.v1.overlayfs"{example}, '
            "or let `containerd config migrate` of containerd 1.7 do it"
        )


def _check_names(config: FileConfig, file: Path) -> None:
    for key, names in (("disabled", config.disabled_plugins), ("required", config.required_plugins)):
        for name in names:
            if "." not in name:
                raise InvalidConfigError(
                    f"{file}: {key}_plugins: invalid {key} plugin URI {name!r} expect io.containerd.x.vx"
                )


def _imports(file: Path, patterns: tuple[str, ...]) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns:
        path = _absolute(file.parent / pattern)
        if "*" in str(path):
            # Like Go's filepath.Glob: no ** and no exception for names that begin with a dot.
            matches = glob.glob(str(path), include_hidden=True)  # noqa: PTH207 (Path.glob hides links to nowhere)
            found += map(Path, sorted(matches))
        else:
            found.append(path)
    return found


def _merge(config: Config, found: FileConfig) -> Config:
    return dataclasses.replace(
        config,
        root=found.root or config.root,
        state=found.state or config.state,
        temp=found.temp or config.temp,
        disabled_plugins=_union(config.disabled_plugins, found.disabled_plugins),
        required_plugins=_union(config.required_plugins, found.required_plugins),
        oom_score=found.oom_score or config.oom_score,
        imports=_union(config.imports, found.imports),
        debug=Debug(
            level=found.debug.level or config.debug.level,
            format=found.debug.format or config.debug.format,
            log_trace_id=found.debug.log_trace_id or config.debug.log_trace_id,
        ),
        plugins=merge_tables(config.plugins, found.plugins),
        cgroup=found.cgroup if found.cgroup.path else config.cgroup,
        proxy_plugins={**config.proxy_plugins, **found.proxy_plugins},
        timeouts={**config.timeouts, **found.timeouts},
        stream_processors={**config.stream_processors, **found.stream_processors},
    )


def _union(before: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*before, *more)))


def merge_tables(before: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged key by key at every depth; any other value of ``more`` replaces the one before."""
    merged = dict(before)
    for key, value in more.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge_tables(old, value) if both else value  # type: ignore[arg-type]
    return merged
