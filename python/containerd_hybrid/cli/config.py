"""``hyctl config explain``"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import spelled
from containerd_hybrid.client.client import AsyncClient
from containerd_hybrid.client.daemon import Configured, PullSources
from containerd_hybrid.errors import HybridError, InvalidArgumentError, InvalidReferenceError, NotFoundError

FAILURE = 1


def main(_: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(
        "config explain",
        "Show where the daemon's value of a key comes from, or from where it would pull an image.\n\n"
        "KEY is written as in a file of version 4, such as debug.level, or the name of a plugin or table.",
    )
    if list(arguments[:1]) not in (["explain"], ["-h"], ["--help"]):
        options.error("say: config explain KEY or config explain IMAGE")
    options.add_argument("--format", choices=("text", "json"), default="text")
    options.add_argument("--json", action="store_const", const="json", dest="format", help="as --format json")
    options.add_argument("what", metavar="KEY|IMAGE", nargs="?", default="", help="nothing: every key")
    chosen = options.parse_args(arguments[1:] if arguments[0] == "explain" else arguments)

    async def run() -> int:
        async with session.client() as client:
            found = await _explain(client, chosen.what)
            if isinstance(found, Configured):
                print(_key_json(found) if chosen.format == "json" else _key_text(found))
            else:
                who = {host.credential_host: await _credential(host.credential_host) for host in found.hosts}
                print(_image_json(found, who) if chosen.format == "json" else _image_text(found, who))
        return 0

    return asyncio.run(run())


async def _explain(client: AsyncClient, what: str) -> Configured | PullSources:
    """A key if there is one of that name, else an image."""
    if "/" in what or "@" in what or (":" in what and '"' not in what):
        return await client.daemon.explain_reference(what)
    try:
        return await client.daemon.explain_key(what)
    except (NotFoundError, InvalidArgumentError) as no_key:
        if "did you mean" in no_key.message:
            raise
        try:
            return await client.daemon.explain_reference(what)
        except (InvalidReferenceError, InvalidArgumentError):
            raise no_key from None


async def _credential(host: str) -> str:
    """Which credential of this user ``hyctl pull`` would send there; never the secret."""
    from containerd_hybrid.app.credentials import docker_credentials, docker_file

    try:
        found = await docker_credentials().get(host, "")
    except HybridError as error:
        return f"none: {error.message}"
    if found is None:
        return f"none, as {docker_file()} has none"
    if found.header:
        return f"a token of {docker_file()}"
    return (
        f"user {found.username} of {docker_file()}"
        if found.username
        else f"an identity token of {docker_file()}"
    )


def _key_text(found: Configured) -> str:
    lines = []
    for key in found.keys:
        lines.append(f"{key.key} = {key.value}")
        for source in key.sources:
            place = f"{source.place}:{source.line}" if source.line else source.place
            lines.append(f"    {place} says {source.value}")
        if not key.sources:
            lines.append("    the default")
        elif key.default and key.default != key.value:
            lines.append(f"    the default would be {key.default}")
    lines += [f"{one.key} is ignored\n    {one.file}: {one.reason}" for one in found.ignored]
    if found.files:
        lines.append(f"read in this order, a later one overrides: {', '.join(found.files)}")
    else:
        lines.append("no configuration file was read")
    return "\n".join(lines)


def _image_text(found: PullSources, who: dict[str, str]) -> str:
    says = f"by {found.configuration}" if found.configuration else "by default: no hosts.toml is about it"
    lines = [f"{found.reference} would be pulled, {says}, from"]
    for number, host in enumerate(found.hosts, 1):
        mirror = " (a mirror)" if host.mirror else ""
        lines.append(f"{number}. {host.url}{mirror}, to {', '.join(host.capabilities)}")
        lines.append(f"    TLS: {host.tls}")
        if host.proxy:
            lines.append(f"    through the proxy {host.proxy}")
        if host.headers:
            lines.append(f"    with the headers {', '.join(host.headers)}")
        lines.append(f"    credential: {who[host.credential_host]}")
    return "\n".join(lines)


def _key_json(found: Configured) -> str:
    return json.dumps(spelled(asdict(found)), indent=4, ensure_ascii=False)


def _image_json(found: PullSources, who: dict[str, str]) -> str:
    document: dict[str, Any] = spelled(asdict(found))
    for host in document["Hosts"]:
        host["Credential"] = who[host["CredentialHost"]]
    return json.dumps(document, indent=4, ensure_ascii=False)
