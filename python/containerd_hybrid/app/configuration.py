"""The daemon's configuration, put together: file, imports, flags; and the ``config`` command."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from containerd_hybrid.app.api import Addresses, Plugin
from containerd_hybrid.app.config.explain import Explainer, command_line, complete
from containerd_hybrid.app.config.load import Loader
from containerd_hybrid.app.config.model import (
    DEFAULT_ADDRESS,
    DEFAULT_FILE,
    GRPC_SERVER,
    TTRPC_SERVER,
    Config,
)
from containerd_hybrid.app.config.render import render

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. ``file_given``: a missing file is then an error. Empty means unset."""

    file: str = DEFAULT_FILE
    file_given: bool = False
    root: str = ""
    state: str = ""
    address: str = ""
    log_level: str = ""


Warnings = list[tuple[str, dict[str, str]]]


def load(options: Options, plugins: Sequence[Plugin]) -> tuple[Config, Warnings]:
    """The configuration in force, and what is to be warned of once there is a log.

    Raises:
        InvalidConfigError: see :meth:`Loader.load`.
    """
    explainer = load_explained(options, plugins)
    return explainer.config, list(map(_mutable, explainer.warnings))


def load_explained(options: Options, plugins: Sequence[Plugin]) -> Explainer:
    """The configuration in force with where it comes from.

    Raises:
        InvalidConfigError: see :meth:`Loader.load`.
    """
    loader = Loader(
        {plugin.uri: plugin.config for plugin in plugins if plugin.config is not None},
        [plugin.uri for plugin in plugins],
    )
    path = Path(options.file)
    config = loader.load(path) if options.file_given or path.exists() else Config()
    final = with_options(config, options)
    return Explainer(final, plugins, loader.layers, loader.warnings, command_line(config, final))


def with_options(config: Config, options: Options) -> Config:
    """The configuration with the command line's values over it."""
    tables: dict[str, Mapping[str, Any]] = dict(config.plugins)
    if options.address:
        grpc: dict[str, Any] = {**tables.get(GRPC_SERVER, {}), "address": options.address}
        owner: dict[str, Any] = {key: grpc[key] for key in ("uid", "gid") if key in grpc}
        tables[GRPC_SERVER] = grpc
        # A table that only says whose the socket is leaves open where it is.
        derived = {"address": f"{options.address}.ttrpc", **owner}
        tables[TTRPC_SERVER] = {
            **derived,
            **{k: v for k, v in tables.get(TTRPC_SERVER, {}).items() if v != ""},
        }
    return replace(
        config,
        root=str(Path(options.root).absolute()) if options.root else config.root,
        state=str(Path(options.state).absolute()) if options.state else config.state,
        debug=replace(config.debug, level=options.log_level or config.debug.level),
        plugins=tables,
    )


def addresses(config: Config) -> Addresses:
    """Where the daemon will listen."""
    grpc = config.plugins.get(GRPC_SERVER, {}).get("address") or DEFAULT_ADDRESS
    ttrpc = config.plugins.get(TTRPC_SERVER, {}).get("address") or f"{DEFAULT_ADDRESS}.ttrpc"
    return Addresses(str(grpc), str(ttrpc))


def dump(config: Config, plugins: Sequence[Plugin]) -> str:
    """The configuration as TOML, with every key of every plug-in."""
    document = complete(config, plugins)
    for name in ("timeouts", "stream_processors", "proxy_plugins"):
        document[name] = dict(sorted(document[name].items()))
    if not document["proxy_plugins"]:
        del document["proxy_plugins"]
    return render(document)


def _mutable(warning: tuple[str, Mapping[str, str]]) -> tuple[str, dict[str, str]]:
    return warning[0], dict(warning[1])


def warn(warnings: Warnings) -> None:
    """Log what loading found."""
    for message, fields in warnings:
        logger.warning(message, extra=fields)
