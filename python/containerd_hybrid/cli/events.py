"""``hyctl events``"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import timestamp
from containerd_hybrid.client.events import Event

FAILURE = 1


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(command, "Show what happens in the namespace, until interrupted.")
    options.add_argument(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="FILTER",
        help="""such as 'topic~="^/tasks/"'""",
    )
    options.add_argument("--format", choices=("text", "json"), default="text", help="json: one object a line")
    chosen = options.parse_args(arguments)
    return asyncio.run(_events(session, chosen.filter, as_json=chosen.format == "json"))


async def _events(session: Session, filters: Sequence[str], *, as_json: bool) -> int:
    async with session.client() as client:
        async for event in client.events(filters):
            print(_json(event) if as_json else _text(event), flush=True)
    return 0


def _text(event: Event) -> str:
    return f"{timestamp(event.timestamp)} {event.namespace} {event.topic} {json.dumps(dict(event.fields))}"


def _json(event: Event) -> str:
    return json.dumps(
        {
            "Timestamp": timestamp(event.timestamp),
            "Namespace": event.namespace,
            "Topic": event.topic,
            "Type": event.type,
            "Event": dict(event.fields),
        }
    )
