"""``hyctl ps``"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.ended import noted_end
from containerd_hybrid.cli.find import familiar
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import age, shortened, table, timestamp
from containerd_hybrid.client.container import ContainerInfo
from containerd_hybrid.tasks.api import Status

FAILURE = 1
_ALIVE = {Status.RUNNING, Status.PAUSED, Status.PAUSING}


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(command, "List containers: those that run or, with -a, all.")
    options.add_argument("-a", "--all", action="store_true", help="also those that do not run")
    options.add_argument("-q", "--quiet", action="store_true", help="ids only")
    options.add_argument(
        "-f", "--filter", action="append", default=[], metavar="FILTER", help="as containerd has them"
    )
    options.add_argument("--no-trunc", action="store_true", help="do not shorten the command")
    options.add_argument(
        "--format", choices=("table", "json"), default="table", help="json: one object a line"
    )
    chosen = options.parse_args(arguments)
    infos = asyncio.run(_list(session, chosen.filter))
    infos = [info for info in infos if chosen.all or info.status in _ALIVE]
    if chosen.quiet:
        lines = [info.id for info in infos]
    elif chosen.format == "json":
        lines = [json.dumps(_row(info)) for info in infos]
    else:
        lines = [_table(infos, None if chosen.no_trunc else 30)]
    for line in lines:
        print(line)
    return 0


async def _list(session: Session, filters: Sequence[str]) -> list[ContainerInfo]:
    """Newest first."""
    async with session.client() as client:
        return list(reversed(await client.containers.list(filters)))


def state(info: ContainerInfo) -> str:
    """One word, as Docker has them."""
    match info.status:
        case None:
            return "exited" if noted_end(info.labels) else "created"
        case Status.STOPPED:
            return "exited"
        case Status.PAUSED | Status.PAUSING:
            return "paused"
        case other:
            return other.name.lower()


def _status(info: ContainerInfo) -> str:
    match state(info):
        case "exited":
            ended = noted_end(info.labels)
            code, moment = info.exit_status, info.exited_at
            if info.status is None and ended is not None:
                code, moment = ended.status, ended.exited_at
            return f"Exited ({code}) {age(moment)} ago"
        case "running":
            return "Up"
        case "paused":
            return "Up (Paused)"
        case other:
            return other.capitalize()


def _table(infos: Sequence[ContainerInfo], width: int | None) -> str:
    rows = []
    for info in infos:
        command = " ".join(info.args)
        shown = command if width is None else shortened(command, width)
        rows.append((info.id, _image(info), f'"{shown}"', f"{age(info.created_at)} ago", _status(info)))
    return table(("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS"), rows)


def _row(info: ContainerInfo) -> dict[str, object]:
    return {
        "ID": info.id,
        "Image": info.image,
        "Command": " ".join(info.args),
        "CreatedAt": timestamp(info.created_at),
        "State": state(info),
        "Status": _status(info),
        "Pid": info.pid,
        "Runtime": info.runtime,
        "Labels": dict(info.labels),
    }


def _image(info: ContainerInfo) -> str:
    repository, tag = familiar(info.image)
    return repository if tag == "latest" else f"{repository}:{tag}"
