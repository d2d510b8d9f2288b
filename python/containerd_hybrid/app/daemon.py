"""The daemon's life: make the plug-ins, serve, wait for a signal, drain, unmake them.

Containers are not the daemon's children: they and their shims live on whatever happens here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any

from containerd_hybrid.app import logs, process, stacks
from containerd_hybrid.app.api import Plugin, PluginType, Server
from containerd_hybrid.app.config.explain import Explainer
from containerd_hybrid.app.config.model import Config
from containerd_hybrid.app.configuration import addresses, warn
from containerd_hybrid.app.notify import READY, STOPPING, Notifier
from containerd_hybrid.app.plugins import PluginGraph
from containerd_hybrid.errors import HybridError

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0
# What a running daemon can take over from a changed file; plug-ins say for themselves.
_RELOADED = frozenset({"debug", "plugins", "version", "imports"})


class Daemon:
    """One daemon. ``reread`` reads the configuration again, for SIGHUP."""

    def __init__(
        self,
        config: Config,
        plugins: Sequence[Plugin],
        *,
        essential: Collection[str] = (),
        explainer: Explainer | None = None,
        reread: Callable[[], Explainer],
        started: float | None = None,
    ) -> None:
        self._config = config
        self._plugins = plugins
        self._essential = essential
        self._explainer = explainer
        self._reread = reread
        self._started = time.monotonic() if started is None else started
        self._notifier = Notifier()
        self._locks = process.FolderLocks()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one ends the drain.

        Raises:
            HybridError: the daemon cannot start.
        """
        self._handle_signals()
        self._locks.take(Path(self._config.root), Path(self._config.state))
        try:
            self._take_place()
            graph = PluginGraph(
                self._plugins, self._config, addresses(self._config), self._essential, self._explainer
            )
            if await self._unless_stopped(graph.start()):
                try:
                    await self._serve(graph)
                finally:
                    await graph.close()
        finally:
            self._locks.release()

    async def _serve(self, graph: PluginGraph) -> None:
        servers = list(graph.all(PluginType.SERVER, Server).values())
        try:
            if not await self._unless_stopped(_start(servers)):
                return
            self._on_reload(graph)
            _collect_from_now_on()
            self._notifier.send(READY)
            logger.info("containerd-hybrid successfully booted in %.6fs", time.monotonic() - self._started)
            await self._stop.wait()
        finally:
            self._notifier.send(STOPPING)
            logger.info("stopping; containers keep running")
            await self._drain(servers)

    async def _drain(self, servers: list[Server]) -> None:
        draining = asyncio.create_task(_drain_all(servers))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait((draining, hurry), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            logger.warning("not waiting for calls in progress")
            draining.cancel()
            await asyncio.wait((draining,))

    def _take_place(self) -> None:
        """OOM score and cgroup; that the score cannot be changed is no reason not to start."""
        if self._config.oom_score:
            try:
                process.set_oom_score(self._config.oom_score)
            except HybridError as error:
                logger.error("failed to change OOM score", extra={"error": error.message})
        if self._config.cgroup.path:
            process.join_cgroup(self._config.cgroup.path)

    async def _unless_stopped(self, starting: Coroutine[Any, Any, None]) -> bool:
        """Await ``starting``; False when a signal came first, after undoing it."""
        task = asyncio.create_task(starting)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            logger.info("stopped while starting")
            return False
        finally:
            task.cancel()
            stopped.cancel()
            await asyncio.wait((task, stopped))

    # Signals

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        # Until there is something to reload; and so that a parent's nohup does not reach our children.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        # Not through the loop, which may be what hangs.
        signal.signal(signal.SIGUSR1, lambda *_: stacks.dump(loop))

    def _on_stop(self, number: signal.Signals) -> None:
        logger.debug("received signal", extra={"signal": number.name})
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_reload(self, graph: PluginGraph) -> None:
        def reload() -> None:
            task = asyncio.ensure_future(self._reload(graph))
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)

    async def _reload(self, graph: PluginGraph) -> None:
        with self._notifier.reloading():
            try:
                fresh = await asyncio.to_thread(self._reread)
                restart = self._apply(fresh.config, graph)
                graph.explainer = fresh
            except HybridError as error:
                logger.error("configuration not reloaded", extra={"error": error.message})
                return
            warn([(message, dict(fields)) for message, fields in fresh.warnings])
            if restart:
                logger.warning("configuration reloaded; a restart is needed for: %s", ", ".join(restart))
            else:
                logger.info("configuration reloaded")

    def _apply(self, config: Config, graph: PluginGraph) -> list[str]:
        """Take over what can be; the names of the rest that changed."""
        logs.configure(config.debug.level, config.debug.format, trace_ids=config.debug.log_trace_id)
        restart = [
            field.name
            for field in dataclasses.fields(config)
            if field.name not in _RELOADED
            and getattr(config, field.name) != getattr(self._config, field.name)
        ]
        restart += graph.reload(config)
        self._config = dataclasses.replace(self._config, debug=config.debug)
        return restart


def _collect_from_now_on() -> None:
    """Enable Python's collector, if ``main`` disabled it, for what is made from now on.

    Modules and plug-ins stay for ever: to look at them again and again would make calls wait for
    nothing.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


async def _drain_all(servers: list[Server]) -> None:
    drains = (server.drain(DRAIN_SECONDS) for server in servers)
    for result in await asyncio.gather(*drains, return_exceptions=True):
        if isinstance(result, Exception):
            logger.error("a server did not stop cleanly", exc_info=result)


async def _start(servers: list[Server]) -> None:
    for server in servers:
        await server.start()


def prepare(config: Config) -> None:
    """Make the folders, and point temporary files to the configured one."""
    temp = Path(config.temp) if config.temp else None
    process.make_folders(Path(config.root), Path(config.state), temp)
    if temp is not None:
        os.environ["TMPDIR"] = str(temp)
