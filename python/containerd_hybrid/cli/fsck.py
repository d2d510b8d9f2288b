"""``hyctl fsck``"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import size, spelled
from containerd_hybrid.fsck.api import Problem, Summary
from containerd_hybrid.registry.api import RegistryOptions

FAILURE = 1


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(
        command,
        "Check the metadata, every blob and every unpacked layer. The exit code is 1 when something is wrong "
        "and stays so. It reads all that is stored, and may run while containers do.",
    )
    options.add_argument("--repair", action="store_true", help="fetch blobs and apply layers again")
    options.add_argument(
        "--only", action="append", default=[], metavar="NAMESPACE", help="only this namespace"
    )
    options.add_argument(
        "--anonymous", action="store_true", help="send no credentials (default: those of docker login)"
    )
    options.add_argument(
        "--hosts-dir", default="", metavar="FOLDER", help="with REGISTRY/hosts.toml, for the daemon to read"
    )
    options.add_argument("--json", action="store_true", help="a JSON document a line")
    chosen = options.parse_args(arguments)

    async def run() -> int:
        wrong = 0
        async with session.client() as client:
            async for found in client.daemon.check(
                repair=chosen.repair, namespaces=chosen.only, registry=_registry(chosen)
            ):
                wrong += isinstance(found, Problem) and not found.repaired
                if chosen.json:
                    print(json.dumps(spelled(asdict(found)), ensure_ascii=False), flush=True)
                else:
                    print(_problem(found) if isinstance(found, Problem) else _summary(found), flush=True)
        return FAILURE if wrong else 0

    return asyncio.run(run())


def _registry(chosen: argparse.Namespace) -> RegistryOptions:
    from containerd_hybrid.app.credentials import docker_credentials

    wanted = chosen.repair and not chosen.anonymous
    return RegistryOptions(chosen.hosts_dir, credentials=docker_credentials() if wanted else None)


def _problem(problem: Problem) -> str:
    where = f"{problem.namespace}: " if problem.namespace else ""
    text = f"{where}{problem.kind} {problem.name}: {problem.what}"
    if problem.repaired:
        return f"{text} (repaired)"
    return f"{text}\n  {problem.remedy}" if problem.remedy else text


def _summary(summary: Summary) -> str:
    text = f"{summary.blobs} blobs ({size(summary.bytes)}) and {summary.layers} unpacked layers were checked"
    return f"{text}, {summary.passed_over} layers could not be" if summary.passed_over else text
