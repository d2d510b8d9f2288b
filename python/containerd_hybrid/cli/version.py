"""``hyctl version``"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import containerd_hybrid
from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.failures import say
from containerd_hybrid.cli.session import Session
from containerd_hybrid.errors import HybridError

FAILURE = 1


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(command, "Show the versions of client and daemon.")
    options.add_argument("--format", choices=("text", "json"), default="text")
    return asyncio.run(_version(session, as_json=options.parse_args(arguments).format == "json"))


async def _version(session: Session, *, as_json: bool) -> int:
    """Ours is told even when no daemon answers."""
    versions = {"Client": containerd_hybrid.__version__}
    code = 0
    try:
        async with session.client() as client:
            versions["Server"] = await client.version()
    except HybridError as error:
        say(error.message, error)
        code = FAILURE
    if as_json:
        print(json.dumps(versions))
    else:
        for name, version in versions.items():
            print(f"{name}: {version}")
    return code
