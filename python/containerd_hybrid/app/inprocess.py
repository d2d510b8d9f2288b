"""The daemon's insides without the daemon: the same plug-ins in the caller's process and event loop.

Nothing listens for clients and no signal is handled. Shims report what happens over a socket, so that
one exists, in the state folder and for this user only. Containers live on after :meth:`Runtime.close`,
and the next runtime or daemon on the same folders finds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from containerd_hybrid.app import process
from containerd_hybrid.app.api import Addresses, Plugin, PluginType, Served, Server
from containerd_hybrid.app.builtins import ESSENTIAL, builtins
from containerd_hybrid.app.config.explain import Explainer, given_layer
from containerd_hybrid.app.config.load import merge_tables
from containerd_hybrid.app.config.model import GRPC_SERVER, GRPC_TCP_SERVER, TTRPC_SERVER, Config
from containerd_hybrid.app.plugins import PluginGraph
from containerd_hybrid.errors import InvalidConfigError
from containerd_hybrid.events.api import EventLog
from containerd_hybrid.rpc.inprocess import InProcessTransport
from containerd_hybrid.rpc.interceptors import CallMetrics, standard_interceptors, wrap_services

if TYPE_CHECKING:
    from containerd_hybrid.tracing.api import Tracer

# It changes the environment of the process, which is not ours here.
_OPT = "io.containerd.internal.v1.opt"
_SOCKET = "runtime.sock"


class Runtime(InProcessTransport):
    """A transport (``client.api.Transport``) to plug-ins of its own, which end with it."""

    def __init__(self, graph: PluginGraph, locks: process.FolderLocks) -> None:
        served = [*graph.all(PluginType.TTRPC, Served).values(), *graph.all(PluginType.GRPC, Served).values()]
        services = [service for plugin in served for service in plugin.grpc]
        metrics = graph.get(PluginType.METRICS, CallMetrics, "grpc-prometheus")
        tracer = cast("Tracer | None", graph.all(PluginType.INTERNAL, object).get("tracing"))
        log = next(iter(graph.all(PluginType.EVENT_LOG, EventLog).values()), None)
        super().__init__(wrap_services(services, standard_interceptors(metrics, log, tracer)))
        self._graph = graph
        self._locks = locks

    async def close(self) -> None:
        """End open streams, let go of the folders. Containers run on."""
        await super().close()
        await self._graph.close()
        self._locks.release()


async def open_runtime(
    root: Path | str, state: Path | str, config: Mapping[str, Mapping[str, Any]] | None = None
) -> Runtime:
    """Open a runtime on two folders, which are made when they are missing.

    ``config`` has plug-in tables as a configuration file has them, by the plug-ins' full names.

    Raises:
        FailedPreconditionError: a daemon or another runtime has one of the folders.
        InvalidConfigError: a value in ``config`` has a wrong type, or a folder cannot be.
        HybridError: content or metadata cannot be opened.
    """
    plugins = [plugin for plugin in builtins() if _is_wanted(plugin)]
    root, state = _absolute(root), _absolute(state)
    address = str(state / _SOCKET)
    own = {TTRPC_SERVER: {"address": f"{address}.ttrpc"}}
    tables = merge_tables(config or {}, own)
    unknown = sorted(set(tables) - {plugin.uri for plugin in plugins})
    if unknown:
        raise InvalidConfigError(f"no such plugin: {', '.join(unknown)}")
    settings = replace(Config(root=str(root), state=str(state)), plugins=tables)
    locks = process.FolderLocks()
    await asyncio.to_thread(process.make_folders, root, state, None)
    await asyncio.to_thread(locks.take, root, state)
    said = given_layer("open()", config or {}, root=str(root), state=str(state))
    explainer = Explainer(settings, plugins, (said,))
    graph = PluginGraph(plugins, settings, Addresses(address, f"{address}.ttrpc"), ESSENTIAL, explainer)
    try:
        await graph.start()
        try:
            for server in graph.all(PluginType.SERVER, Server).values():
                await server.start()
            return Runtime(graph, locks)
        except BaseException:
            await graph.close()
            raise
    except BaseException:
        locks.release()
        raise


def _absolute(folder: Path | str) -> Path:
    return Path(folder).absolute()


def _is_wanted(plugin: Plugin) -> bool:
    return plugin.uri not in {GRPC_SERVER, GRPC_TCP_SERVER, _OPT}
