"""``hyctl exec``"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from containerd_hybrid.cli.arguments import add_process_options, environment, parser
from containerd_hybrid.cli.attach import Wish, foreground
from containerd_hybrid.cli.failures import NotStartedError
from containerd_hybrid.cli.find import find_container
from containerd_hybrid.cli.session import Session
from containerd_hybrid.client.container import AsyncContainer
from containerd_hybrid.client.process import AsyncProcess
from containerd_hybrid.client.stdio import Streams
from containerd_hybrid.errors import HybridError

FAILURE = 1


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(command, "Run one more command in a running container.")
    add_process_options(options)
    options.add_argument("container", metavar="CONTAINER")
    options.add_argument("program", metavar="COMMAND")
    options.add_argument("args", nargs=argparse.REMAINDER, metavar="ARGUMENT ...")
    return asyncio.run(_exec(session, options.parse_args(arguments)))


async def _exec(session: Session, options: argparse.Namespace) -> int:
    wish = Wish(options.interactive, options.tty)
    if not options.detach:
        wish.check()
    async with session.client() as client:
        container = await find_container(client, options.container)
        if options.detach:
            await _start(container, options, None)
            return 0
        async with foreground(wish) as front:
            process = await _start(container, options, front.streams)
            try:
                await front.started(process)
                return await front.wait(process)
            finally:
                await process.discard()


async def _start(
    container: AsyncContainer, options: argparse.Namespace, streams: Streams | None
) -> AsyncProcess:
    env = environment(options.env)
    try:
        return await container.exec(
            [options.program, *options.args],
            streams,
            env=env,
            working_dir=options.workdir,
            user=options.user,
            terminal=options.tty,
        )
    except HybridError as error:
        raise NotStartedError(error) from error
