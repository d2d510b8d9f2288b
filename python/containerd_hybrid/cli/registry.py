"""``hyctl pull`` and ``hyctl push``, also as verbs of ``hyctl image``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Self, TextIO

from containerd_hybrid.cli.arguments import pairs, parser
from containerd_hybrid.cli.find import find_image
from containerd_hybrid.cli.main import Parser
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import size
from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model import Platform
from containerd_hybrid.registry.api import Credential, Credentials, RegistryOptions
from containerd_hybrid.transfer.api import Progress

FAILURE = 1


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    return push(arguments, session) if command == "push" else pull(arguments, session)


def pull(arguments: Sequence[str], session: Session) -> int:
    options = parser("pull", "Fetch an image from its registry, and unpack it.")
    options.add_argument("--platform", default="", metavar="OS/ARCH", help="instead of this machine's")
    options.add_argument("--all-platforms", action="store_true", help="the layers of all of them")
    options.add_argument("--no-unpack", action="store_true", help="leave that to the first run")
    options.add_argument("--snapshotter", default="", metavar="NAME", help="to unpack with")
    _add_registry_options(options)
    options.add_argument("image", metavar="IMAGE")
    chosen = options.parse_args(arguments)

    async def work() -> None:
        async with session.client() as client:
            with _Status(chosen.quiet) as status:
                image = await client.images.pull(
                    chosen.image,
                    platform=_platform(chosen),
                    all_platforms=chosen.all_platforms,
                    unpack=not chosen.no_unpack,
                    snapshotter=chosen.snapshotter,
                    registry=_registry(chosen),
                    progress=status.tell,
                )
        print(image.name if chosen.quiet else f"Pulled: {image.name}\nDigest: {image.target.digest}")

    asyncio.run(work())
    return 0


def push(arguments: Sequence[str], session: Session) -> int:
    options = parser("push", "Send an image to the registry that its name says, or to another one.")
    options.add_argument("--platform", default="", metavar="OS/ARCH", help="only what this one needs")
    _add_registry_options(options)
    options.add_argument("image", metavar="IMAGE")
    options.add_argument("target", nargs="?", default="", metavar="NAME", help="to push it as")
    chosen = options.parse_args(arguments)

    async def work() -> None:
        async with session.client() as client:
            image = await find_image(client, chosen.image)
            with _Status(chosen.quiet) as status:
                await client.images.push(
                    image.name,
                    chosen.target,
                    platform=_platform(chosen),
                    registry=_registry(chosen),
                    progress=status.tell,
                )
        name = chosen.target or image.name
        print(name if chosen.quiet else f"Pushed: {name}\nDigest: {image.target.digest}")

    asyncio.run(work())
    return 0


def _add_registry_options(options: Parser) -> None:
    options.add_argument("-q", "--quiet", action="store_true", help="print the name only")
    options.add_argument(
        "--anonymous", action="store_true", help="send no credentials (default: those of docker login)"
    )
    options.add_argument("--plain-http", action="store_true", help="speak no TLS to the registry")
    options.add_argument(
        "--hosts-dir", default="", metavar="FOLDER", help="with REGISTRY/hosts.toml, for the daemon to read"
    )
    options.add_argument(
        "--header", action="append", default=[], metavar="NAME=VALUE", help="to send with each request"
    )


def _registry(chosen: argparse.Namespace) -> RegistryOptions:
    from containerd_hybrid.app.credentials import docker_credentials

    credentials: Credentials = _Nobody() if chosen.anonymous else docker_credentials()
    scheme = "http" if chosen.plain_http else ""
    return RegistryOptions(chosen.hosts_dir, scheme, pairs(chosen.header, "header"), credentials)


class _Nobody:
    """No credentials for any host."""

    async def get(self, host: str, reference: str) -> Credential | None:
        return None


def _platform(chosen: argparse.Namespace) -> Platform | None:
    if chosen.platform and getattr(chosen, "all_platforms", False):
        raise InvalidArgumentError("--platform and --all-platforms exclude each other")
    return Platform.parse(chosen.platform) if chosen.platform else None


class _Status:
    """One line on a terminal that says how far a transfer is; nothing elsewhere."""

    def __init__(self, quiet: bool, out: TextIO = sys.stderr) -> None:
        self._out = out if out.isatty() and not quiet else None
        self._blobs: dict[str, Progress] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write("")

    def tell(self, step: Progress) -> None:
        if not step.name:
            self._write(step.event)
        elif step.parents or step.name in self._blobs:
            self._blobs[step.name] = step
            self._write(self._line())

    def _line(self) -> str:
        steps = self._blobs.values()
        there = sum(step.total if step.event.startswith("extract") else step.progress for step in steps)
        if any(step.event == "extracting" for step in steps):
            return f"Unpacking {size(sum(step.total for step in steps))}"
        return f"{size(there)} of {size(sum(step.total for step in steps))}"

    def _write(self, text: str) -> None:
        if self._out is not None:
            self._out.write(f"\r\x1b[K{text}")
            self._out.flush()
