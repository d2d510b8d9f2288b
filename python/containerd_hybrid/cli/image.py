"""``hyctl image``"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.each import for_each
from containerd_hybrid.cli.find import familiar, find_image
from containerd_hybrid.cli.main import Parser
from containerd_hybrid.cli.registry import pull, push
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import age, size, table, timestamp
from containerd_hybrid.client.client import AsyncClient
from containerd_hybrid.errors import HybridError, InvalidArgumentError
from containerd_hybrid.images.api import Image
from containerd_hybrid.model import Platform

FAILURE = 1


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    if command == "images":
        return _list(arguments, session)
    options = parser("image", _DESCRIPTION)
    options.add_argument("verb", choices=sorted(_VERBS), metavar="VERB")
    options.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = options.parse_args(arguments)
    return _VERBS[chosen.verb](chosen.arguments, session)


def _import(arguments: Sequence[str], session: Session) -> int:
    options = parser("image import", "Read images from an OCI layout or a docker save archive (tar, gzip).")
    _add_platform(options, "the only one to take")
    options.add_argument("--name", default="", help="for all of the archive together")
    options.add_argument(
        "--base-name", default="import", metavar="NAME", help="for images that have a tag only"
    )
    options.add_argument("--no-unpack", action="store_true", help="leave that to the first run")
    options.add_argument("--snapshotter", default="", metavar="NAME", help="to unpack with")
    options.add_argument("archive", metavar="FILE", help="- for the standard input")
    chosen = options.parse_args(arguments)

    async def work(client: AsyncClient) -> None:
        images = await client.images.import_archive(
            sys.stdin.buffer if chosen.archive == "-" else chosen.archive,
            name=chosen.name,
            base_name=chosen.base_name,
            platform=_platform(chosen),
            unpack=not chosen.no_unpack,
            snapshotter=chosen.snapshotter,
        )
        for image in images:
            print(f"Loaded image: {image.name}")

    return asyncio.run(_with_client(session, work))


def _export(arguments: Sequence[str], session: Session) -> int:
    options = parser("image export", "Write images as an OCI layout that docker load reads too.")
    _add_platform(options, "instead of this machine's")
    options.add_argument("--all-platforms", action="store_true", help="all that the images have")
    options.add_argument("-o", "--output", default="-", metavar="FILE", help="default: the standard output")
    options.add_argument("images", nargs="+", metavar="IMAGE")
    chosen = options.parse_args(arguments)
    if chosen.output == "-" and sys.stdout.isatty():
        raise InvalidArgumentError("an archive does not go to a terminal: use -o FILE, or a pipe")

    async def work(client: AsyncClient) -> None:
        await client.images.export_archive(
            [(await find_image(client, name)).name for name in chosen.images],
            sys.stdout.buffer if chosen.output == "-" else chosen.output,
            platform=_platform(chosen),
            all_platforms=chosen.all_platforms,
        )

    return asyncio.run(_with_client(session, work))


def _list(arguments: Sequence[str], session: Session) -> int:
    options = parser("image ls", "List images.")
    options.add_argument("-q", "--quiet", action="store_true", help="digests only")
    options.add_argument(
        "-f", "--filter", action="append", default=[], metavar="FILTER", help="as containerd has them"
    )
    options.add_argument("--no-trunc", action="store_true", help="whole digests")
    options.add_argument(
        "--format", choices=("table", "json"), default="table", help="json: one object a line"
    )
    chosen = options.parse_args(arguments)

    async def work(client: AsyncClient) -> None:
        images = sorted(await client.images.list(chosen.filter), key=lambda image: -image.created_at)

        def digest(image: Image) -> str:
            return str(image.target.digest) if chosen.no_trunc else image.target.digest.hex[:12]

        if chosen.quiet:
            for image in images:
                print(digest(image))
            return
        sizes = [await _size(client, image) for image in images]
        if chosen.format == "json":
            for image, count in zip(images, sizes, strict=True):
                print(json.dumps(_row(image, count)))
            return
        rows = [
            (
                *familiar(image.name),
                digest(image),
                f"{age(image.created_at)} ago",
                size(count) if count else "-",
            )
            for image, count in zip(images, sizes, strict=True)
        ]
        print(table(("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"), rows))

    return asyncio.run(_with_client(session, work))


def _remove(arguments: Sequence[str], session: Session) -> int:
    options = parser("image rm", "Remove images by name; what no other name needs is removed with them.")
    options.add_argument(
        "--async", action="store_true", dest="later", help="do not wait for the space to be free"
    )
    options.add_argument("images", nargs="+", metavar="IMAGE")
    chosen = options.parse_args(arguments)

    async def work(client: AsyncClient) -> int:
        async def one(name: str) -> str:
            image = await find_image(client, name)
            await client.images.remove(image.name, sync=not chosen.later)
            return f"Untagged: {image.name}"

        return await for_each(chosen.images, one)

    return asyncio.run(_with_client(session, work))


def _tag(arguments: Sequence[str], session: Session) -> int:
    options = parser("image tag", "Give an image one more name.")
    options.add_argument("source", metavar="IMAGE")
    options.add_argument("target", metavar="NAME")
    chosen = options.parse_args(arguments)

    async def work(client: AsyncClient) -> None:
        await client.images.tag((await find_image(client, chosen.source)).name, chosen.target)

    return asyncio.run(_with_client(session, work))


def _unpack(arguments: Sequence[str], session: Session) -> int:
    options = parser("image unpack", "Unpack images, so that containers start at once.")
    _add_platform(options, "instead of this machine's")
    options.add_argument("--snapshotter", default="", metavar="NAME", help="to unpack with")
    options.add_argument("images", nargs="+", metavar="IMAGE")
    chosen = options.parse_args(arguments)

    async def work(client: AsyncClient) -> int:
        async def one(name: str) -> str:
            image = await find_image(client, name)
            await client.images.unpack(image.name, snapshotter=chosen.snapshotter, platform=_platform(chosen))
            return f"Unpacked: {image.name}"

        return await for_each(chosen.images, one)

    return asyncio.run(_with_client(session, work))


async def _with_client(session: Session, work: Callable[[AsyncClient], Awaitable[int | None]]) -> int:
    async with session.client() as client:
        return await work(client) or 0


async def _size(client: AsyncClient, image: Image) -> int:
    """Bytes of what the image is made of, as stored; 0 when it is not all here for this machine."""
    try:
        manifest, _ = await client.images.config(image)
    except HybridError:
        return 0
    return manifest.config.size + sum(layer.size for layer in manifest.layers)


def _row(image: Image, count: int) -> dict[str, object]:
    repository, tag = familiar(image.name)
    return {
        "Name": image.name,
        "Repository": repository,
        "Tag": tag,
        "Digest": str(image.target.digest),
        "MediaType": image.target.media_type,
        "CreatedAt": timestamp(image.created_at),
        "Size": count,
        "Labels": dict(image.labels),
    }


def _add_platform(options: Parser, what: str) -> None:
    options.add_argument("--platform", default="", metavar="OS/ARCH", help=f"{what}, such as linux/arm64")


def _platform(options: argparse.Namespace) -> Platform | None:
    return Platform.parse(options.platform) if options.platform else None


_DESCRIPTION = """\
Look after images.

verbs:
  pull       fetch an image from its registry
  push       send an image to a registry
  import     read images from an archive
  export     write images into an archive
  ls         list images
  rm         remove images
  tag        give an image one more name
  unpack     unpack images before they are run"""

_VERBS: dict[str, Callable[[Sequence[str], Session], int]] = {
    "import": _import,
    "export": _export,
    "ls": _list,
    "pull": pull,
    "push": push,
    "rm": _remove,
    "tag": _tag,
    "unpack": _unpack,
}
