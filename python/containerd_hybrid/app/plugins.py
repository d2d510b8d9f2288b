"""The plug-in graph: each plug-in is made after those of the types it requires, and unmade before them.

A plug-in that cannot be made does not stop the others: those that need it fail when they ask for it,
with its reason in theirs. Only one that the configuration (or the daemon itself) requires ends the start.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from containerd_hybrid.app.api import (
    Addresses,
    ConfigExplainer,
    Plugin,
    PluginCatalog,
    PluginStatus,
    PluginType,
    Reloadable,
    SkipPlugin,
)
from containerd_hybrid.app.config.bind import Binder
from containerd_hybrid.app.config.explain import Explainer
from containerd_hybrid.app.config.model import Config
from containerd_hybrid.errors import (
    FailedPreconditionError,
    HybridError,
    InternalError,
    NotFoundError,
    UnknownError,
)
from containerd_hybrid.model import Platform

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _Context:
    """What one plug-in is given; satisfies ``app.api.InitContext``."""

    graph: PluginGraph
    root: Path
    state: Path
    config: Any
    addresses: Addresses
    timeouts: Mapping[str, float]
    stream_processors: Mapping[str, Any]
    catalog: PluginCatalog
    exports: dict[str, str] = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=list)
    platforms: list[Platform] = field(default_factory=list)
    closers: list[Callable[[], Any]] = field(default_factory=list)

    def get(self, type: PluginType, kind: type[T], id: str | None = None) -> T:
        return self.graph.get(type, kind, id)

    def all(self, type: PluginType, kind: type[T]) -> dict[str, T]:
        return self.graph.all(type, kind)

    def on_close(self, action: Callable[[], Any]) -> None:
        self.closers.append(action)


@dataclass(slots=True)
class _Made:
    """A plug-in after its turn: its instance, or why there is none."""

    plugin: Plugin
    config: Any
    instance: Any = None
    error: HybridError | None = None
    closers: list[Callable[[], Any]] = field(default_factory=list)


class PluginGraph:
    """The plug-ins of one daemon. ``essential`` are names that are required like ``required_plugins``.

    Raises:
        InternalError: two plug-ins have one name, or their requirements form a circle.
    """

    def __init__(
        self,
        plugins: Sequence[Plugin],
        config: Config,
        addresses: Addresses = Addresses(),  # noqa: B008 (frozen)
        essential: Collection[str] = (),
        explainer: ConfigExplainer | None = None,
    ) -> None:
        self._config = config
        self.explainer: ConfigExplainer = explainer or Explainer(config, plugins)
        self._addresses = addresses
        self._registered = {plugin.uri: plugin for plugin in plugins}
        if len(self._registered) != len(plugins):
            names = [plugin.uri for plugin in plugins]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise InternalError(f"plugins registered twice: {', '.join(twice)}")
        self._disabled = set(config.disabled_plugins)
        enabled = [plugin for plugin in plugins if plugin.uri not in self._disabled]
        self._order = in_order(enabled)
        self._required = {*config.required_plugins, *essential}
        self._made: dict[str, _Made] = {}

    async def start(self) -> None:
        """Make every plug-in. When this raises, those that were made are unmade again.

        Raises:
            FailedPreconditionError: a required plug-in is disabled, unknown, or could not be made.
            InvalidConfigError: a plug-in's configuration has a value of a wrong type.
        """
        missing = sorted(self._required - {plugin.uri for plugin in self._order})
        if missing:
            raise FailedPreconditionError(
                f"required plugin {', '.join(missing)} not included: {self._why_missing(missing)}"
            )
        try:
            for plugin in self._order:
                made = await self._make(plugin)
                if made.error is not None and plugin.uri in self._required:
                    raise FailedPreconditionError(f"load required plugin {plugin.uri}: {made.error.message}")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Unmake everything, last made first. What fails is logged and does not stop the rest."""
        for made in reversed(self._made.values()):
            await _run_closers(made.plugin, made.closers)
        self._made.clear()

    def statuses(self) -> list[PluginStatus]:
        """Every plug-in that had its turn, in that order."""
        return [PluginStatus(made.plugin, made.error, made.instance) for made in self._made.values()]

    def get(self, type: PluginType, kind: type[T], id: str | None = None) -> T:
        """See :meth:`containerd_hybrid.app.api.InitContext.get`."""
        if id is not None:
            return _checked(self._instance(f"{type}.{id}"), kind, f"{type}.{id}")
        found = self._of_type(type)
        there = [made for made in found if made.error is None]
        if len(there) == 1:
            return _checked(there[0].instance, kind, there[0].plugin.uri)
        if there:
            names = ", ".join(made.plugin.id for made in there)
            raise NotFoundError(f"multiple plugins registered for {type} ({names}): name one")
        reasons = [f"{made.plugin.id}: {made.error.message}" for made in found if made.error is not None]
        raise NotFoundError(
            f"no plugins registered for {type}" + (f" ({'; '.join(reasons)})" if reasons else "")
        )

    def all(self, type: PluginType, kind: type[T]) -> dict[str, T]:
        """See :meth:`containerd_hybrid.app.api.InitContext.all`."""
        there = [made for made in self._of_type(type) if made.error is None]
        return {made.plugin.id: _checked(made.instance, kind, made.plugin.uri) for made in there}

    def reload(self, config: Config) -> list[str]:
        """Give plug-ins their changed tables; the names of those that must be started anew instead."""
        restart = []
        for uri, made in self._made.items():
            if made.plugin.config is None or made.error is not None:
                continue
            fresh = _bind(made.plugin, config)
            if fresh == made.config:
                continue
            if isinstance(made.instance, Reloadable):
                made.instance.reload(fresh)
                made.config = fresh
                logger.info("plugin reloaded", extra={"id": uri})
            else:
                restart.append(uri)
        return restart

    async def _make(self, plugin: Plugin) -> _Made:
        logger.info("loading plugin", extra={"id": plugin.uri, "type": str(plugin.type)})
        started = time.monotonic()
        context = self._context(plugin)
        made = self._made[plugin.uri] = _Made(plugin, context.config)
        try:
            instance = plugin.init(context)
            made.instance = await instance if inspect.isawaitable(instance) else instance
        except Exception as error:
            made.error = _as_ours(plugin, error)
            fields = {"id": plugin.uri, "type": str(plugin.type), "error": made.error.message}
            if isinstance(error, SkipPlugin):
                logger.info("skip loading plugin", extra=fields)
            else:
                logger.warning("failed to load plugin", extra=fields)
            await _run_closers(plugin, context.closers)
        else:
            made.closers = context.closers
            took = f"{(time.monotonic() - started) * 1000:.1f}ms"
            logger.debug("plugin loaded", extra={"id": plugin.uri, "duration": took})
        made.plugin = replace(
            plugin,
            exports={**plugin.exports, **context.exports},
            capabilities=(*plugin.capabilities, *context.capabilities),
            platforms=(*plugin.platforms, *context.platforms),
        )
        return made

    def _context(self, plugin: Plugin) -> _Context:
        return _Context(
            graph=self,
            root=Path(self._config.root) / plugin.uri,
            state=Path(self._config.state) / plugin.uri,
            config=_bind(plugin, self._config),
            addresses=self._addresses,
            timeouts=self._config.timeouts,
            stream_processors=self._config.stream_processors,
            catalog=self,
        )

    def _instance(self, uri: str) -> Any:
        made = self._made.get(uri)
        if made is None:
            raise NotFoundError(f"no plugins registered for {uri}: {self._why_missing([uri])}")
        if made.error is not None:
            raise NotFoundError(f"plugin {uri} is not available: {made.error.message}")
        return made.instance

    def _of_type(self, type: PluginType) -> list[_Made]:
        return [made for made in self._made.values() if made.plugin.type == type]

    def _why_missing(self, uris: Sequence[str]) -> str:
        if all(uri in self._disabled for uri in uris):
            return "disabled by disabled_plugins in the configuration"
        if all(uri in self._registered for uri in uris):
            return "the plugin that asks for it does not require its type"
        return "this program has no such plugin"


def in_order(plugins: Sequence[Plugin]) -> list[Plugin]:
    """The plug-ins, each after all those of the types it requires; otherwise in the order given.

    Raises:
        InternalError: requirements form a circle; the message shows it.
    """
    ordered: dict[str, Plugin] = {}

    def visit(plugin: Plugin, path: tuple[str, ...]) -> None:
        if plugin.uri in path:
            raise InternalError(f"plugin requirements form a circle: {' → '.join((*path, plugin.uri))}")
        for required in plugin.requires:
            for other in plugins:
                if other.type == required and other is not plugin and other.uri not in ordered:
                    visit(other, (*path, plugin.uri))
        ordered.setdefault(plugin.uri, plugin)

    for plugin in plugins:
        if plugin.uri not in ordered:
            visit(plugin, ())
    return list(ordered.values())


def _bind(plugin: Plugin, config: Config) -> Any:
    if plugin.config is None:
        return None
    table = config.plugins.get(plugin.uri, {})
    return Binder().bind(plugin.config, table, "configuration", f'plugins."{plugin.uri}"')


def _checked(instance: Any, kind: type[T], uri: str) -> T:
    # A protocol that is not runtime checkable has no isinstance; mypy has checked the wiring then.
    if getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False):
        return instance  # type: ignore[no-any-return]
    if not isinstance(instance, kind):
        raise InternalError(f"plugin {uri} is a {type(instance).__name__}, not a {kind.__name__}")
    return instance


def _as_ours(plugin: Plugin, error: Exception) -> HybridError:
    if isinstance(error, HybridError):
        return error
    if isinstance(error, OSError):
        return UnknownError(str(error))
    logger.error("plugin raised an unexpected error", exc_info=error, extra={"id": plugin.uri})
    return InternalError(f"{type(error).__name__}: {error}")


async def _run_closers(plugin: Plugin, closers: list[Callable[[], Any]]) -> None:
    for action in reversed(closers):
        try:
            result = action()
            if inspect.isawaitable(result):
                await result
        except Exception:
            logger.exception("failed to close plugin", extra={"id": plugin.uri})
    closers.clear()
