"""``hyctl run``"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from containerd_hybrid.cli.arguments import add_process_options, environment, pairs, parser
from containerd_hybrid.cli.attach import Wish, foreground
from containerd_hybrid.cli.ended import note_end
from containerd_hybrid.cli.failures import NotStartedError
from containerd_hybrid.cli.find import find_image
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import parse_size
from containerd_hybrid.client.calls import undone
from containerd_hybrid.client.client import AsyncClient
from containerd_hybrid.client.container import AsyncContainer
from containerd_hybrid.client.containers import DEFAULT_RUNTIME, DEFAULT_SNAPSHOTTER
from containerd_hybrid.client.options import MountPoint, RunOptions
from containerd_hybrid.errors import HybridError, InvalidArgumentError

FAILURE = 125


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = _parser(command).parse_args(arguments)
    if options.detach and options.rm:
        raise InvalidArgumentError("-d and --rm do not go together: nobody would be there to remove it")
    if options.detach and options.interactive:
        raise InvalidArgumentError("-d and -i do not go together: nobody would be there to give it input")
    return asyncio.run(_run(session, options))


async def _run(session: Session, options: argparse.Namespace) -> int:
    wish = Wish(options.interactive, options.tty)
    wish.check()
    async with session.client() as client:
        container = await _create(client, options)
        if options.detach:
            async with _removed_if_not_started(container):
                await container.start()
            print(container.id)
            return 0
        async with foreground(wish) as front:
            async with _removed_if_not_started(container):
                process = await container.create_task(front.streams)
                # The size comes before the program does, which may ask for it at once.
                await front.started(process)
                await process.start()
            code = await front.wait(process)
        await note_end(container, await process.delete())
        if options.rm:
            await container.remove()
        return code


@asynccontextmanager
async def _removed_if_not_started(container: AsyncContainer) -> AsyncIterator[None]:
    """What could not be started is not left behind. What runs is left alone, whatever happens to us."""
    try:
        yield
    except BaseException as error:
        await undone(error, container.remove(force=True))
        if isinstance(error, HybridError):
            raise NotStartedError(error) from error
        raise


async def _create(client: AsyncClient, options: argparse.Namespace) -> AsyncContainer:
    image = await find_image(client, options.image)
    return await client.containers.create(
        image.name,
        options.command,
        id=options.name,
        options=_run_options(options),
        labels=pairs(options.label, "label"),
        snapshotter=options.snapshotter,
        runtime=options.runtime,
    )


def _run_options(options: argparse.Namespace) -> RunOptions:
    entrypoint = () if options.entrypoint is None else (options.entrypoint,)
    return RunOptions(
        entrypoint=entrypoint,
        env=environment(options.env),
        working_dir=options.workdir,
        user=options.user,
        mounts=_mounts(options),
        hostname=options.hostname,
        host_network=options.net_host or options.network == "host",
        read_only=options.read_only,
        privileged=options.privileged,
        terminal=options.tty,
        memory_limit=parse_size(options.memory) if options.memory else None,
        cpus=options.cpus,
        pids_limit=options.pids_limit,
        capabilities_added=tuple(options.cap_add),
        capabilities_dropped=tuple(options.cap_drop),
    )


def _mounts(options: argparse.Namespace) -> tuple[MountPoint, ...]:
    return (
        *(MountPoint.parse(text) for text in options.mount),
        *(_volume(text) for text in options.volume),
    )


def _volume(text: str) -> MountPoint:
    """As Docker has it: a path that begins with a dot is relative, and a folder that is missing is made."""
    source, colon, rest = text.partition(":")
    if source.startswith("."):
        text = f"{Path(source).resolve()}{colon}{rest}"
    mount = MountPoint.parse(text)
    source_path = Path(mount.source)
    if not source_path.exists():
        source_path.mkdir(parents=True)
    return mount


def _parser(command: str) -> argparse.ArgumentParser:
    options = parser(command, "Make a container of an image and run it.")
    add_process_options(options)
    add = options.add_argument
    add("--rm", action="store_true", help="remove the container when it has ended")
    add("--name", default="", metavar="ID", help="of the container (default: made up)")
    add("--entrypoint", metavar="PROGRAM", help="instead of the image's")
    add("-l", "--label", action="append", default=[], metavar="KEY=VALUE", help="to put on the container")
    add("-v", "--volume", action="append", default=[], metavar="HOST:PATH[:ro]", help="a folder of the host")
    add(
        "--mount",
        action="append",
        default=[],
        metavar="SPEC",
        help="type=bind,src=HOST,dst=PATH[,readonly], or type=tmpfs,dst=PATH[,options=size=1m:mode=755]",
    )
    add("--net-host", action="store_true", help="use the host's network")
    add("--network", choices=("none", "host"), default="none", help="none (default) or host")
    add("--hostname", default="", metavar="NAME", help="seen inside (default: the container's id)")
    add("-m", "--memory", default="", metavar="SIZE", help="most memory, such as 64m or 2g")
    add("--cpus", type=float, metavar="NUMBER", help="most processors, such as 1.5")
    add("--pids-limit", type=int, metavar="NUMBER", help="most processes")
    add("--read-only", action="store_true", help="its root file system cannot be written")
    add("--privileged", action="store_true", help="all capabilities and devices of the host")
    add("--cap-add", action="append", default=[], metavar="NAME", help="a capability more; ALL for all")
    add("--cap-drop", action="append", default=[], metavar="NAME", help="a capability less; ALL for all")
    add("--runtime", default=DEFAULT_RUNTIME, metavar="NAME", help="default: %(default)s")
    add("--snapshotter", default=DEFAULT_SNAPSHOTTER, metavar="NAME", help="default: %(default)s")
    add("image", metavar="IMAGE")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="instead of the image's")
    return options
