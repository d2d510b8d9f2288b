"""``hyctl inspect``"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from containerd_hybrid.cli.arguments import parser
from containerd_hybrid.cli.ended import noted_end
from containerd_hybrid.cli.failures import say
from containerd_hybrid.cli.find import find_container, find_image
from containerd_hybrid.cli.ps import state
from containerd_hybrid.cli.session import Session
from containerd_hybrid.cli.show import timestamp
from containerd_hybrid.client.client import AsyncClient
from containerd_hybrid.client.container import ContainerInfo
from containerd_hybrid.errors import HybridError, NotFoundError
from containerd_hybrid.images.api import Image
from containerd_hybrid.model.manifest import descriptor_to_json

FAILURE = 1


def main(command: str, arguments: Sequence[str], session: Session) -> int:
    options = parser(command, "Show all that is known about containers or images, as a JSON list.")
    options.add_argument(
        "names", nargs="+", metavar="NAME", help="of a container or, if there is none, an image"
    )
    return asyncio.run(_inspect(session, options.parse_args(arguments).names))


async def _inspect(session: Session, names: Sequence[str]) -> int:
    found: list[dict[str, Any]] = []
    code = 0
    async with session.client() as client:
        for name in names:
            try:
                found.append(await _one(client, name))
            except HybridError as error:
                say(error.message, error)
                code = FAILURE
    print(json.dumps(found, indent=4, ensure_ascii=False))
    return code


async def _one(client: AsyncClient, name: str) -> dict[str, Any]:
    try:
        return _container(await (await find_container(client, name)).info())
    except NotFoundError:
        try:
            return await _image(client, await find_image(client, name))
        except NotFoundError:
            raise NotFoundError(
                f"no container and no image {name!r} in namespace {client.namespace!r}"
            ) from None


def _container(info: ContainerInfo) -> dict[str, Any]:
    ended = noted_end(info.labels) if info.status is None else None
    return {
        "Id": info.id,
        "Created": timestamp(info.created_at),
        "Updated": timestamp(info.updated_at),
        "State": {
            "Status": state(info),
            "Pid": info.pid,
            "ExitCode": ended.status if ended else info.exit_status,
            "FinishedAt": timestamp(ended.exited_at if ended else info.exited_at),
        },
        "Image": info.image,
        "Runtime": info.runtime,
        "Snapshotter": info.snapshotter,
        "SnapshotKey": info.snapshot_key,
        "Labels": dict(info.labels),
        "Spec": info.spec,
    }


async def _image(client: AsyncClient, image: Image) -> dict[str, Any]:
    manifest, config = await client.images.config(image)
    return {
        "Name": image.name,
        "Target": descriptor_to_json(image.target),
        "Labels": dict(image.labels),
        "Created": timestamp(image.created_at),
        "Updated": timestamp(image.updated_at),
        "Platform": str(config.platform),
        "Config": {
            "Entrypoint": list(config.entrypoint),
            "Cmd": list(config.cmd),
            "Env": list(config.env),
            "User": config.user,
            "WorkingDir": config.working_dir,
            "StopSignal": config.stop_signal,
            "Labels": dict(config.labels),
            "ExposedPorts": list(config.exposed_ports),
            "Volumes": list(config.volumes),
        },
        "Layers": [descriptor_to_json(layer) for layer in manifest.layers],
        "DiffIds": [str(diff_id) for diff_id in config.diff_ids],
    }
