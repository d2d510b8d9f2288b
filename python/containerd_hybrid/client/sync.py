"""The library without async. Derived by tools/derive_sync.py; edit the async classes instead."""

from __future__ import annotations

import signal as signals
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from containerd_hybrid.adopt.api import Adopted
from containerd_hybrid.client.client import AsyncClient
from containerd_hybrid.client.container import AsyncContainer, ContainerInfo
from containerd_hybrid.client.containers import (
    DEFAULT_RUNTIME,
    DEFAULT_SNAPSHOTTER,
    AsyncContainers,
    Completed,
)
from containerd_hybrid.client.daemon import AsyncDaemon, Configured, DaemonInfo, PullSources
from containerd_hybrid.client.events import Event
from containerd_hybrid.client.garbage import AsyncGarbage, Collected
from containerd_hybrid.client.images import AsyncImages
from containerd_hybrid.client.options import RunOptions, User
from containerd_hybrid.client.portal import Portal
from containerd_hybrid.client.process import AsyncProcess, Exited
from containerd_hybrid.client.stdio import Streams
from containerd_hybrid.events.api import LogStatus
from containerd_hybrid.fsck.api import Problem, Summary
from containerd_hybrid.images.api import Image
from containerd_hybrid.metadata.api import Finding
from containerd_hybrid.model import Platform
from containerd_hybrid.model.manifest import ImageConfig, Manifest
from containerd_hybrid.registry.api import RegistryOptions
from containerd_hybrid.tasks.api import Status
from containerd_hybrid.transfer.api import ProgressSink


class Process:
    """A process that was created; ``exec_id`` is empty for the init process, ``pid`` 0 while not known."""

    def __init__(self, portal: Portal, wrapped: AsyncProcess) -> None:
        self._portal = portal
        self._wrapped = wrapped

    @property
    def container_id(self) -> str:
        return self._wrapped.container_id

    @property
    def exec_id(self) -> str:
        return self._wrapped.exec_id

    @property
    def pid(self) -> int:
        return self._wrapped.pid

    def start(self) -> None:
        """Let it run.

        Raises:
            FailedPreconditionError: it runs already, or has run.
        """
        self._portal.call(self._wrapped.start())

    def status(self) -> Status:
        """Its state now."""
        return self._portal.call(self._wrapped.status())

    def wait(self) -> Exited:
        """Wait until it has ended and all of its output has been handed over.

        What it left running and still holds its streams is waited for while it writes. A daemon that is
        started anew meanwhile is waited for too, for half a minute.

        Raises:
            Exception: what the function raised that was given for its output.
        """
        return self._portal.call(self._wrapped.wait())

    def kill(self, signal: int | str = signals.SIGTERM, *, all: bool = False) -> None:
        """Send a signal, with ``all`` to every process of the container.

        Raises:
            NotFoundError: it has ended.
        """
        self._portal.call(self._wrapped.kill(signal, all=all))

    def stop(self, signal: int | str = signals.SIGTERM, *, timeout: float = 10) -> None:
        """Ask it to end with ``signal``, and kill it when it has not after ``timeout`` seconds.

        Raises:
            DeadlineExceededError: it is not gone even then.
        """
        self._portal.call(self._wrapped.stop(signal, timeout=timeout))

    def pause(self) -> None:
        """Let no process of the container go on until :meth:`resume`."""
        self._portal.call(self._wrapped.pause())

    def resume(self) -> None:
        """Let the processes of a paused container go on."""
        self._portal.call(self._wrapped.resume())

    def resize(self, width: int, height: int) -> None:
        """Tell its terminal how many columns and rows there are."""
        self._portal.call(self._wrapped.resize(width, height))

    def close_stdin(self) -> None:
        """Let it see the end of its input, once what was written has been read."""
        self._portal.call(self._wrapped.close_stdin())

    def delete(self) -> Exited:
        """Forget it; for the init process this ends the task. What still runs is not deleted.

        Raises:
            FailedPreconditionError: it still runs.
        """
        return self._portal.call(self._wrapped.delete())

    def detach(self) -> None:
        """Stop following its streams; it goes on."""
        self._portal.call(self._wrapped.detach())

    def discard(self) -> None:
        """End it, whatever state it is in, and forget it. Nothing is raised when it is gone already."""
        self._portal.call(self._wrapped.discard())


class Container:
    """A container that exists."""

    def __init__(self, portal: Portal, wrapped: AsyncContainer) -> None:
        self._portal = portal
        self._wrapped = wrapped

    @property
    def id(self) -> str:
        return self._wrapped.id

    def info(self) -> ContainerInfo:
        """Its record and state now."""
        return self._portal.call(self._wrapped.info())

    def set_labels(self, labels: Mapping[str, str]) -> None:
        """Add or replace labels; an empty value removes one."""
        self._portal.call(self._wrapped.set_labels(labels))

    def create_task(self, streams: Streams | None = None) -> Process:
        """Make its init process, without letting it run yet.

        Raises:
            AlreadyExistsError: it has a task.
        """
        wrapped = self._portal.call(self._wrapped.create_task(streams))
        return Process(self._portal, wrapped)

    def start(self, streams: Streams | None = None) -> Process:
        """Make its init process and let it run; when it cannot start, nothing of it stays.

        Raises:
            AlreadyExistsError: it has a task.
            HybridError: what the runtime says, of a program that is not there for example.
        """
        wrapped = self._portal.call(self._wrapped.start(streams))
        return Process(self._portal, wrapped)

    def task(self) -> Process:
        """Its init process, without the streams.

        Raises:
            NotFoundError: it has no task.
        """
        wrapped = self._portal.call(self._wrapped.task())
        return Process(self._portal, wrapped)

    def exec(
        self,
        args: Sequence[str],
        streams: Streams | None = None,
        *,
        env: Mapping[str, str] | None = None,
        working_dir: str = "",
        user: str | User = "",
        terminal: bool = False,
        exec_id: str = "",
    ) -> Process:
        """Run one more process in it; what is not said is as for its init process.

        Raises:
            NotFoundError: it has no task.
            FailedPreconditionError: its task does not run.
        """
        wrapped = self._portal.call(
            self._wrapped.exec(
                args, streams, env=env, working_dir=working_dir, user=user, terminal=terminal, exec_id=exec_id
            )
        )
        return Process(self._portal, wrapped)

    def remove(self, *, force: bool = False) -> None:
        """Delete the record and the snapshot; with ``force`` end a running task first.

        Raises:
            FailedPreconditionError: it runs and ``force`` was not given.
        """
        self._portal.call(self._wrapped.remove(force=force))


class Images:
    """``client.images``"""

    def __init__(self, portal: Portal, wrapped: AsyncImages) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def list(self, filters: Sequence[str] = ()) -> Sequence[Image]:
        """All images for which one of the filters (``name==…``, ``labels.key==…``) holds, or all."""
        return self._portal.call(self._wrapped.list(filters))

    def get(self, name: str) -> Image:
        """
        Raises:
            NotFoundError: there is no image of that name, as given or as its full name.
        """
        return self._portal.call(self._wrapped.get(name))

    def remove(self, name: str, *, sync: bool = True) -> None:
        """Remove the name; with ``sync`` also wait until what only it held is gone."""
        self._portal.call(self._wrapped.remove(name, sync=sync))

    def tag(self, source: str, target: str) -> Image:
        """Give an image one more name, taking it from whatever had it."""
        return self._portal.call(self._wrapped.tag(source, target))

    def unpack(self, name: str, *, snapshotter: str = "", platform: Platform | None = None) -> None:
        """Unpack an image that is here; what is unpacked already costs nothing."""
        self._portal.call(self._wrapped.unpack(name, snapshotter=snapshotter, platform=platform))

    def pull(
        self,
        name: str,
        *,
        platform: Platform | None = None,
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        registry: RegistryOptions | None = None,
        progress: ProgressSink | None = None,
    ) -> Image:
        """Pull an image from its registry; what is here already is not fetched again.

        Of an index the layers of ``platform`` (default: this machine's) are taken, of the other
        platforms what describes them. ``registry`` says how to reach it; paths in it are the daemon's.

        Raises:
            NotFoundError: the registry has no such image, or none for the platform.
            UnauthenticatedError, PermissionDeniedError: credentials are missing, wrong, or not enough.
            UnavailableError: the registry cannot be reached; what was fetched is kept for the next try.
        """
        return self._portal.call(
            self._wrapped.pull(
                name,
                platform=platform,
                all_platforms=all_platforms,
                unpack=unpack,
                snapshotter=snapshotter,
                registry=registry,
                progress=progress,
            )
        )

    def push(
        self,
        name: str,
        target: str = "",
        *,
        platform: Platform | None = None,
        registry: RegistryOptions | None = None,
        progress: ProgressSink | None = None,
    ) -> None:
        """Push an image to the registry that its name says, or as ``target`` to another one.

        With ``platform`` only that one's manifest and layers of an index are sent, with the index.

        Raises:
            NotFoundError: the image, or a part of it, is not here.
            UnauthenticatedError, PermissionDeniedError: credentials are missing, wrong, or not enough.
        """
        self._portal.call(
            self._wrapped.push(name, target, platform=platform, registry=registry, progress=progress)
        )

    def import_archive(
        self,
        archive: str | Path | BinaryIO,
        *,
        name: str = "",
        base_name: str = "import",
        platform: Platform | None = None,
        unpack: bool = True,
        snapshotter: str = "",
        progress: ProgressSink | None = None,
    ) -> Sequence[Image]:
        """Import an OCI layout or Docker archive.

        ``name`` names the archive's index; otherwise names come from the archive, and a bare tag ``x``
        becomes ``base_name:x``. Without ``platform`` that of this machine is unpacked and what else the
        archive holds is kept.

        Raises:
            InvalidArgumentError: it is no image archive, or a damaged one.
        """
        return self._portal.call(
            self._wrapped.import_archive(
                archive,
                name=name,
                base_name=base_name,
                platform=platform,
                unpack=unpack,
                snapshotter=snapshotter,
                progress=progress,
            )
        )

    def export_archive(
        self,
        names: Sequence[str],
        archive: str | Path | BinaryIO,
        *,
        platform: Platform | None = None,
        all_platforms: bool = False,
        progress: ProgressSink | None = None,
    ) -> None:
        """Write an OCI layout that ``docker load`` reads too. A file that could not be finished is removed.

        Raises:
            NotFoundError: an image, or a blob of it, is not here.
        """
        self._portal.call(
            self._wrapped.export_archive(
                names, archive, platform=platform, all_platforms=all_platforms, progress=progress
            )
        )

    def config(self, image: Image, platform: Platform | None = None) -> tuple[Manifest, ImageConfig]:
        """The manifest for the platform (default: this machine's) and the image configuration.

        Raises:
            NotFoundError: the image has none for it.
        """
        return self._portal.call(self._wrapped.config(image, platform))


class Containers:
    """``client.containers``"""

    def __init__(self, portal: Portal, wrapped: AsyncContainers) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def list(self, filters: Sequence[str] = ()) -> Sequence[ContainerInfo]:
        """All containers with the state of their tasks, newest last; ``filters`` as for images."""
        return self._portal.call(self._wrapped.list(filters))

    def get(self, id: str) -> Container:
        """
        Raises:
            NotFoundError: there is no such container.
        """
        wrapped = self._portal.call(self._wrapped.get(id))
        return Container(self._portal, wrapped)

    def create(
        self,
        image: str,
        args: Sequence[str] = (),
        *,
        id: str = "",
        options: RunOptions | None = None,
        labels: Mapping[str, str] | None = None,
        snapshotter: str = DEFAULT_SNAPSHOTTER,
        runtime: str = DEFAULT_RUNTIME,
    ) -> Container:
        """A container of an image that is here, unpacked now if it is not yet.

        Raises:
            NotFoundError: the image is not here.
            AlreadyExistsError: the id is taken.
        """
        wrapped = self._portal.call(
            self._wrapped.create(
                image, args, id=id, options=options, labels=labels, snapshotter=snapshotter, runtime=runtime
            )
        )
        return Container(self._portal, wrapped)

    def run(
        self,
        image: str,
        args: Sequence[str] = (),
        *,
        id: str = "",
        options: RunOptions | None = None,
        stdin: bytes | None = None,
        labels: Mapping[str, str] | None = None,
        snapshotter: str = DEFAULT_SNAPSHOTTER,
        runtime: str = DEFAULT_RUNTIME,
    ) -> Completed:
        """Run a container to its end, capture what it wrote, and remove it, whatever happens."""
        return self._portal.call(
            self._wrapped.run(
                image,
                args,
                id=id,
                options=options,
                stdin=stdin,
                labels=labels,
                snapshotter=snapshotter,
                runtime=runtime,
            )
        )


class Garbage:
    """The collector of a daemon of ours. Elsewhere every method raises UnimplementedError."""

    def __init__(self, portal: Portal, wrapped: AsyncGarbage) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def why(self, key: str, type: str = "") -> list[Finding]:
        """Why things of that name in the namespace are alive.

        ``key`` is a digest (or the beginning of its digits), a snapshot's key, or the name of an image,
        container, lease, ingest or mount; ``type`` is one of ``content``, ``images``, ``snapshots/NAME`` …

        Raises:
            NotFoundError: there is nothing of that name.
        """
        return self._portal.call(self._wrapped.why(key, type))

    def collect(self, *, dry_run: bool = False) -> Collected:
        """Collect in all namespaces and wait for it; with ``dry_run`` only tell what would go."""
        return self._portal.call(self._wrapped.collect(dry_run=dry_run))


class Daemon:
    """A daemon of ours, or this process without one. Elsewhere every method raises UnimplementedError."""

    def __init__(self, portal: Portal, wrapped: AsyncDaemon) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def info(self) -> DaemonInfo:
        """What it is made of and stands on."""
        return self._portal.call(self._wrapped.info())

    def adopt(
        self, folder: str, *, namespaces: Sequence[str] = (), verify: bool = False, dry_run: bool = False
    ) -> Iterator[Adopted]:
        """Take over blobs, images, leases and namespaces of the containerd whose root is ``folder``.

        Each thing is told when it is done. That containerd must not be running; its own files are only
        read, and blobs become hard links where the file system allows. ``verify`` compares digests and not
        only sizes; ``dry_run`` changes nothing; no ``namespaces`` means all.

        Raises:
            NotFoundError: no containerd has that root, or it has no such namespace.
            FailedPreconditionError: that containerd is running.
            DataLossError: its metadata file is damaged.
        """
        return self._portal.iterate(
            self._wrapped.adopt(folder, namespaces=namespaces, verify=verify, dry_run=dry_run)
        )

    def check(
        self, *, repair: bool = False, namespaces: Sequence[str] = (), registry: RegistryOptions | None = None
    ) -> Iterator[Problem | Summary]:
        """Whether metadata, blobs and unpacked layers are what they should be; ``repair`` mends them.

        Every problem as it is found, and at the end one summary. It may run while the daemon is in use. No
        ``namespaces`` means all. ``registry`` has the credentials for what a repair fetches; without, it asks
        as anybody.

        Raises:
            NotFoundError: there is no such namespace.
        """
        return self._portal.iterate(
            self._wrapped.check(repair=repair, namespaces=namespaces, registry=registry)
        )

    def explain_key(self, key: str) -> Configured:
        """Where a configuration key's value comes from; of a table's name, all below it.

        Raises:
            NotFoundError: there is no such key, not even one that is ignored.
        """
        return self._portal.call(self._wrapped.explain_key(key))

    def explain_reference(self, reference: str) -> PullSources:
        """Where an image would be pulled from; nobody is asked.

        Raises:
            InvalidConfigError: hosts.toml is wrong.
        """
        return self._portal.call(self._wrapped.explain_reference(reference))


class Client:
    """Images and containers of one namespace, over any transport.

    Made by :func:`containerd_hybrid.connect` (a daemon) or :func:`containerd_hybrid.open` (no daemon);
    used as ``with``.
    """

    def __init__(self, portal: Portal, wrapped: AsyncClient) -> None:
        self._portal = portal
        self._wrapped = wrapped
        self.images = Images(portal, wrapped.images)
        self.containers = Containers(portal, wrapped.containers)
        self.garbage = Garbage(portal, wrapped.garbage)
        self.daemon = Daemon(portal, wrapped.daemon)

    @property
    def namespace(self) -> str:
        return self._wrapped.namespace

    def version(self) -> str:
        """The version the daemon tells its clients."""
        return self._portal.call(self._wrapped.version())

    def events(self, filters: Sequence[str] = ()) -> Iterator[Event]:
        """What happens in this namespace from now on, without end.

        Only that for which one of the ``filters`` holds, such as ``topic~="^/tasks/"``, if there are any.
        """
        return self._portal.iterate(self._wrapped.events(filters))

    def replay(
        self,
        filters: Sequence[str] = (),
        *,
        after: int = 0,
        since: float | None = None,
        follow: bool = True,
        log: str = "",
    ) -> Iterator[Event]:
        """What happened in this namespace, from the daemon's log, and then (``follow``) what happens.

        It begins behind the event whose ``sequence`` is ``after``, or with what was recorded at ``since``
        (Unix seconds), or without either with the oldest event that is kept. A daemon that is started anew
        is waited for, and what happened meanwhile is told. ``log`` is the id from :meth:`event_log`, for
        who keeps numbers for longer than a daemon may keep its log. Only a daemon of ours has one.

        Raises:
            OutOfRangeError: events that were asked for are no longer kept.
            DataLossError: events could not be written when they happened.
            NotFoundError: the daemon has another log than ``log``, or than before its restart.
            UnavailableError: the daemon stays away.
            UnimplementedError: the daemon is another one, or keeps no log.
        """
        return self._portal.iterate(
            self._wrapped.replay(filters, after=after, since=since, follow=follow, log=log)
        )

    def event_log(self) -> LogStatus:
        """What the daemon's log of events keeps.

        Raises:
            UnimplementedError: the daemon is not ours, or keeps no log.
        """
        return self._portal.call(self._wrapped.event_log())

    def close(self) -> None:
        """Close the transport. Containers run on, except those of a runtime without a daemon."""
        self._portal.close(self._wrapped.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
