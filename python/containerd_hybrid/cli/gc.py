"""``hyctl gc``"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.main import Parser
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import size, table
from containerd_hybrid.client.client import AsyncClient
from containerd_hybrid.client.garbage import Collected
from containerd_hybrid.errors import InvalidReferenceError, NotFoundError
from containerd_hybrid.metadata.api import CollectedNode, Finding
from containerd_hybrid.model import Reference

FAILURE = 1

_USAGE = """\
hyctl gc why NAME            why is it alive? NAME is a digest, a part of one, or a snapshot, image, …
hyctl gc --dry-run           what would a collection take?
hyctl gc run                 collect now, in all namespaces"""


def main(_: str, arguments: Sequence[str], session: Session) -> int:
    if arguments and arguments[0] == "why":
        return _why(arguments[1:], session)
    run = bool(arguments) and arguments[0] == "run"
    options = _parser("gc run" if run else "gc", "Collect what nothing holds, or tell what that is.")
    options.epilog = None if run else _USAGE
    if not run:
        options.add_argument("--dry-run", action="store_true", help="change nothing")
    chosen = options.parse_args(arguments[1:] if run else arguments)
    if not run and not chosen.dry_run:
        options.error("say what: why NAME, --dry-run or run")
    return asyncio.run(_collect(session, dry_run=not run, as_json=chosen.format == "json"))


def _why(arguments: Sequence[str], session: Session) -> int:
    options = _parser("gc why", "Show what keeps things of that name alive in the namespace.")
    options.add_argument("--type", default="", help="content, images, leases, snapshots/NAME …: only these")
    options.add_argument("name", metavar="NAME", help="a digest or its beginning, or a name in full")
    chosen = options.parse_args(arguments)

    async def run() -> int:
        async with session.client() as client:
            findings = await _findings(client, chosen.name, chosen.type)
        if chosen.format == "json":
            print(json.dumps([_finding(finding) for finding in findings], indent=4, ensure_ascii=False))
        else:
            print("\n\n".join(map(_text, findings)))
        return 0

    return asyncio.run(run())


async def _findings(client: AsyncClient, name: str, type: str) -> list[Finding]:
    try:
        return await client.garbage.why(name, type)
    except NotFoundError:
        # Images are called by what people write, too.
        with suppress(InvalidReferenceError, NotFoundError):
            return await client.garbage.why(str(Reference.parse(name)), type or "images")
        raise


async def _collect(session: Session, *, dry_run: bool, as_json: bool) -> int:
    async with session.client() as client:
        found = await client.garbage.collect(dry_run=dry_run)
    if as_json:
        print(json.dumps(_collected(found), indent=4, ensure_ascii=False))
        return 0
    if found.removed:
        rows = [
            (n.namespace, n.type, n.key, size(found.sizes[n]) if n in found.sizes else "-")
            for n in found.removed
        ]
        print(table(("NAMESPACE", "TYPE", "NAME", "SIZE"), rows))
    print(_summary(found, dry_run=dry_run))
    return 0


def _summary(found: Collected, *, dry_run: bool) -> str:
    if not found.removed:
        return "nothing would go" if dry_run else "nothing had to go"
    kinds = sorted(Counter(node.type for node in found.removed).items())
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds)
    verb = "would go, freeing" if dry_run else f"gone in {found.seconds:.3f}s, freeing"
    return f"{counts}: {verb} {size(found.content_bytes)} of content"


def _text(finding: Finding) -> str:
    node = finding.node
    if not finding.chain:
        return f"{node.type} {node.key} is not held by anything: the next collection takes it"
    lines = [f"{node.type} {node.key} is alive:"]
    for depth, link in enumerate(finding.chain):
        branch = "  " * depth + ("└─ " if depth else "")
        lines.append(f"  {branch}{link.node.type} {link.node.key} ({link.reason})")
    return "\n".join(lines)


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        **_node(finding.node),
        "Alive": bool(finding.chain),
        "Chain": [{**_node(link.node), "Reason": link.reason} for link in finding.chain],
    }


def _collected(found: Collected) -> dict[str, Any]:
    return {
        "Removed": [{**_node(node), "Size": found.sizes.get(node, 0)} for node in found.removed],
        "ContentBytes": found.content_bytes,
        "Seconds": round(found.seconds, 6),
    }


def _node(node: CollectedNode) -> dict[str, Any]:
    return {"Namespace": node.namespace, "Type": node.type, "Name": node.key}


def _parser(command: str, description: str) -> Parser:
    options = parser(command, description)
    options.add_argument("--format", choices=("text", "json"), default="text")
    options.add_argument("--json", action="store_const", const="json", dest="format", help="as --format json")
    return options
