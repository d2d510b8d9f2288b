"""Containers and images by what people call them: a name, or the beginning of an id."""

from __future__ import annotations

from containerd_hybrid.client.client import AsyncClient
from containerd_hybrid.client.container import AsyncContainer
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.images.api import Image

# Shorter beginnings of a digest could as well be a name.
_SHORTEST_ID = 4


async def find_container(client: AsyncClient, name: str) -> AsyncContainer:
    """
    Raises:
        NotFoundError, InvalidArgumentError: no container, or several, are called so.
    """
    try:
        return await client.containers.get(name)
    except (NotFoundError, InvalidArgumentError):
        found = [info.id for info in await client.containers.list() if name and info.id.startswith(name)]
    if not found:
        raise NotFoundError(f"no container {name!r} in namespace {client.namespace!r}: see hyctl ps -a")
    if len(found) > 1:
        raise InvalidArgumentError(f"{name!r} is the beginning of several containers: {', '.join(found)}")
    return await client.containers.get(found[0])


async def find_image(client: AsyncClient, name: str) -> Image:
    """By name, or by the beginning of its digest.

    Raises:
        NotFoundError, InvalidArgumentError: no image, or several different ones, are called so.
    """
    try:
        return await client.images.get(name)
    except NotFoundError:
        wanted = name.removeprefix("sha256:")
        found = [
            image
            for image in await client.images.list()
            if len(wanted) >= _SHORTEST_ID and image.target.digest.hex.startswith(wanted)
        ]
        if not found:
            raise
    if len({image.target.digest for image in found}) > 1:
        names = ", ".join(image.name for image in found)
        raise InvalidArgumentError(f"{name!r} is the beginning of several images: {names}")
    return found[0]


def familiar(name: str) -> tuple[str, str]:
    """Repository and tag of an image's name, without what everybody leaves out."""
    repository, at, digest = name.partition("@")
    tag = ""
    if ":" in repository.rpartition("/")[2]:
        repository, _, tag = repository.rpartition(":")
    repository = repository.removeprefix("docker.io/").removeprefix("library/")
    return repository, tag or (digest if at else "<none>")
