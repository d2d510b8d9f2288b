"""``hyctl kill``, ``stop`` and ``rm``"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.each import for_each
from containerd_hybrid.cli.ended import note_end
from containerd_hybrid.cli.find import find_container
from containerd_hybrid.cli.session import Session
from containerd_hybrid.client.container import AsyncContainer
from containerd_hybrid.client.containers import STOP_SIGNAL_LABEL
from containerd_hybrid.client.process import signal_number
from containerd_hybrid.errors import FailedPreconditionError, NotFoundError

FAILURE = 1


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(command, _DESCRIPTIONS[command])
    if command == "kill":
        options.add_argument("-s", "--signal", default="KILL", help="name or number (default: KILL)")
        options.add_argument("--all", action="store_true", help="send it to every process")
    elif command == "stop":
        options.add_argument("-s", "--signal", default="", help="instead of the image's own, or TERM")
        options.add_argument(
            "-t",
            "--time",
            type=float,
            default=10,
            metavar="SECONDS",
            help="to wait before KILL (default: 10)",
        )
    else:
        options.add_argument("-f", "--force", action="store_true", help="kill it if it runs")
    options.add_argument("containers", nargs="+", metavar="CONTAINER")
    chosen = options.parse_args(arguments)
    if chosen.__dict__.get("signal"):
        signal_number(chosen.signal)  # a mistake in it is told once, and before anything is done
    return asyncio.run(_for_each(session, chosen, _WORK[command]))


async def _for_each(session: Session, options: argparse.Namespace, work: Work) -> int:
    async with session.client() as client:

        async def one(name: str) -> str:
            await work(await find_container(client, name), options)
            return name

        return await for_each(options.containers, one)


async def _kill(container: AsyncContainer, options: argparse.Namespace) -> None:
    try:
        await (await container.task()).kill(options.signal, all=options.all)
    except NotFoundError:
        raise FailedPreconditionError(f"container {container.id!r} does not run") from None


async def _stop(container: AsyncContainer, options: argparse.Namespace) -> None:
    """One that does not run is stopped already, as Docker sees it."""
    try:
        process = await container.task()
        labels = (await container.info()).labels
        await process.stop(options.signal or labels.get(STOP_SIGNAL_LABEL, "TERM"), timeout=options.time)
        await note_end(container, await process.delete())
    except NotFoundError:
        await container.info()


async def _remove(container: AsyncContainer, options: argparse.Namespace) -> None:
    try:
        await container.remove(force=options.force)
    except FailedPreconditionError as error:
        raise FailedPreconditionError(
            f"container {container.id!r} runs: stop it first, or use rm --force"
        ) from error


Work = Callable[[AsyncContainer, argparse.Namespace], Awaitable[None]]
_WORK: dict[str, Work] = {"kill": _kill, "stop": _stop, "rm": _remove}
_DESCRIPTIONS = {
    "kill": "Send a signal to the first process of containers.",
    "stop": "Ask containers to end, and end them when they do not.",
    "rm": "Remove containers and what they wrote.",
}
