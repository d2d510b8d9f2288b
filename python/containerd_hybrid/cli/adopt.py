"""``hyctl adopt``"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from containerd_hybrid.adopt.api import Adopted, Outcome
from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import size

FAILURE = 1

_QUIET = {Outcome.ADOPTED, Outcome.PRESENT}
_BAD = {Outcome.MISSING, Outcome.DAMAGED, Outcome.CONFLICT}


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(
        command,
        "Take over the images, blobs, leases and namespaces of a containerd of this machine, which must not "
        "be running. Blobs are linked, not copied, where the file system allows. Its containers and "
        "snapshots stay its own.",
    )
    options.add_argument("folder", metavar="FOLDER", help="its root, such as /var/lib/containerd")
    options.add_argument(
        "--only", action="append", default=[], metavar="NAMESPACE", help="only this namespace"
    )
    options.add_argument("--verify", action="store_true", help="compare digests, not only sizes")
    options.add_argument("--dry-run", action="store_true", help="change nothing")
    options.add_argument("--verbose", action="store_true", help="tell of each thing, not only of exceptions")
    options.add_argument("--json", action="store_true", help="a JSON document a line for each thing")
    chosen = options.parse_args(arguments)
    folder = str(Path(chosen.folder).absolute())

    async def run() -> list[Adopted]:
        told = []
        async with session.client() as client:
            async for one in client.daemon.adopt(
                folder,
                namespaces=chosen.only,
                verify=chosen.verify,
                dry_run=chosen.dry_run,
            ):
                told.append(one)
                if chosen.json:
                    print(json.dumps(_document(one), ensure_ascii=False))
                elif chosen.verbose or one.outcome not in _QUIET:
                    print(f"{one.namespace}: {one.kind} {one.name}: {one.outcome.value}")
        return told

    told = asyncio.run(run())
    if not chosen.json:
        print(_summary(told, chosen.dry_run))
    return FAILURE if any(one.outcome in _BAD for one in told) else 0


def _document(one: Adopted) -> dict[str, object]:
    return {
        "Kind": one.kind,
        "Namespace": one.namespace,
        "Name": one.name,
        "Outcome": one.outcome.value,
        "Size": one.size,
    }


def _summary(told: list[Adopted], dry_run: bool) -> str:
    new = [one for one in told if one.outcome is Outcome.ADOPTED]
    counts = Counter(one.kind for one in new)
    what = ", ".join(f"{counts[kind]} {kind}" for kind in ("namespace", "image", "content", "lease"))
    verb = "would be adopted" if dry_run else "adopted"
    text = f"{what} {verb} ({size(sum(one.size for one in new))})"
    present = sum(one.outcome is Outcome.PRESENT for one in told)
    return f"{text}, {present} were here already" if present else text
