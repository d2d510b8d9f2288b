"""``hyctl system info``"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import spelled
from containerd_hybrid.client.daemon import DaemonInfo

FAILURE = 1


def main(_: str, arguments: Sequence[str], session: Session) -> int:
    options = parser("system info", "Show what the daemon is made of and stands on.")
    if list(arguments[:1]) not in (["info"], ["-h"], ["--help"]):
        options.error("say: system info")
    options.add_argument("--format", choices=("text", "json"), default="text")
    options.add_argument("--json", action="store_const", const="json", dest="format", help="as --format json")
    chosen = options.parse_args(arguments[1:] if arguments[0] == "info" else arguments)

    async def run() -> int:
        async with session.client() as client:
            info = await client.daemon.info()
        if chosen.format == "json":
            document = asdict(info)
            # Names of things are not spelled anew.
            things = {key: document.pop(key) for key in list(document) if isinstance(document[key], dict)}
            shown = spelled(document) | {
                next(iter(spelled({key: 0}))): value for key, value in things.items()
            }
            print(json.dumps(shown, indent=4, ensure_ascii=False))
        else:
            print(_text(info))
        return 0

    return asyncio.run(run())


def _text(info: DaemonInfo) -> str:
    ready = sum(not plugin.error for plugin in info.plugins)
    lines = [
        f"containerd-hybrid {info.version} {info.revision}".rstrip()
        + f", serves the API of {info.api_version}",
        f"process {info.pid}, root {info.root}, state {info.state}",
        f"kernel: {info.kernel} on {info.architecture}, cgroups {info.cgroups}",
        *_table(
            "kernel features", {name: "yes" if on else "no" for name, on in info.kernel_features.items()}
        ),
        *_table("libraries", info.libraries),
        *_table("chosen implementations", info.implementations),
        *_table("runtimes", info.runtimes),
        f"snapshotters: {', '.join(info.snapshotters) or 'none'}",
        f"plugins: {ready} run",
    ]
    lines += [
        f"  {plugin.name} {'is skipped' if plugin.skipped else 'FAILED'}: {plugin.error}"
        for plugin in info.plugins
        if plugin.error
    ]
    return "\n".join(lines)


def _table(title: str, rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [f"{title}:", *(f"  {name:<{width}}  {rows[name]}" for name in sorted(rows))]
