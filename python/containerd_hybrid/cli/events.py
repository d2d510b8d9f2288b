"""``hyctl events``"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import moment, timestamp
from containerd_hybrid.client.events import Event

FAILURE = 1


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(
        command,
        "Show what happens in the namespace, until interrupted.\n\n"
        "With --since or --after also what happened before, from the daemon's log of events; each event\n"
        "then has its number, after which another --after goes on.",
    )
    options.add_argument(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="FILTER",
        help="""such as 'topic~="^/tasks/"'""",
    )
    options.add_argument("--format", choices=("text", "json"), default="text", help="json: one object a line")
    start = options.add_mutually_exclusive_group()
    start.add_argument("--since", metavar="WHEN", help="10m (ago), or a time such as 2030-01-31T12:00:00Z")
    start.add_argument("--after", type=int, metavar="NUMBER", help="of an event; 0 for all that is kept")
    options.add_argument(
        "--no-follow", action="store_true", help="end when the log's end is reached; needs --since or --after"
    )
    chosen = options.parse_args(arguments)
    replayed = chosen.since is not None or chosen.after is not None
    if chosen.no_follow and not replayed:
        options.error("--no-follow needs --since or --after")
    if chosen.after is not None and chosen.after < 0:
        options.error("--after needs the number of an event, or 0")
    since = moment(chosen.since) if chosen.since is not None else None
    show = _json if chosen.format == "json" else _text

    async def run() -> int:
        async with session.client() as client:
            events = (
                client.replay(
                    chosen.filter, after=chosen.after or 0, since=since, follow=not chosen.no_follow
                )
                if replayed
                else client.events(chosen.filter)
            )
            async for event in events:
                print(show(event), flush=True)
        return 0

    return asyncio.run(run())


def _text(event: Event) -> str:
    number = f"{event.sequence} " if event.sequence else ""
    fields = json.dumps(dict(event.fields))
    return f"{number}{timestamp(event.timestamp)} {event.namespace} {event.topic} {fields}"


def _json(event: Event) -> str:
    return json.dumps(
        {
            **({"Sequence": event.sequence} if event.sequence else {}),
            "Timestamp": timestamp(event.timestamp),
            "Namespace": event.namespace,
            "Topic": event.topic,
            "Type": event.type,
            "Event": dict(event.fields),
        }
    )
