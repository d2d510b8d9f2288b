"""SIGKILL of the daemon takes no event of a call that was answered, and numbers go on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import containerd_hybrid
from containerd_hybrid import AsyncClient
from containerd_hybrid.errors import HybridError
from containerd_hybrid.proto.services.images.v1 import images_pb2
from containerd_hybrid.testing.daemon import DaemonProcess

pytestmark = pytest.mark.root

IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]


async def create(client: AsyncClient, name: str) -> None:
    request = images_pb2.CreateImageRequest()
    request.image.name = name
    request.image.target.media_type = "application/vnd.oci.image.manifest.v1+json"
    request.image.target.digest = "sha256:" + "0" * 64
    request.image.target.size = 1
    await client._calls.unary(IMAGES, "Create", request, images_pb2.CreateImageResponse)


@pytest.mark.parametrize("answered", [1, 60])
async def test_what_was_answered_is_in_the_log(short_folder: Path, token: str, answered: int) -> None:
    """Some clients make images as fast as they can; the daemon is killed when some calls were answered."""
    daemon = DaemonProcess(short_folder)
    daemon.start()
    acknowledged: list[str] = []
    enough = asyncio.Event()
    seen: list[int] = []

    async def make(client: AsyncClient, maker: int) -> None:
        for number in range(10_000):
            name = f"image-{maker}-{number}"
            try:
                await create(client, name)
            except HybridError:
                return
            acknowledged.append(name)
            if len(acknowledged) >= answered:
                enough.set()

    async def follow(client: AsyncClient) -> None:
        try:
            async for event in client.replay():
                seen.append(event.sequence)
        except HybridError:
            return

    try:
        async with await containerd_hybrid.connect_async(daemon.address, token) as client:
            tasks = [asyncio.create_task(make(client, maker)) for maker in range(4)]
            tasks.append(asyncio.create_task(follow(client)))
            await enough.wait()
            await asyncio.to_thread(daemon.kill)
            await asyncio.gather(*tasks)
        await asyncio.to_thread(daemon.start)
        async with await containerd_hybrid.connect_async(daemon.address, token) as client:
            events = [event async for event in client.replay(follow=False)]
            created = [event.fields["name"] for event in events if event.topic == "/images/create"]
            assert set(acknowledged) <= set(created)
            assert len(created) == len(set(created))
            # What a follower was told before is what the log has: no number was given twice.
            numbers = [event.sequence for event in events]
            assert seen == numbers[: len(seen)]
            rest = [
                event.sequence async for event in client.replay(after=seen[-1] if seen else 0, follow=False)
            ]
            assert seen + rest == numbers
            await create(client, "one-more")
            more = [event async for event in client.replay(after=numbers[-1], follow=False)]
            assert [event.fields["name"] for event in more] == ["one-more"]
    finally:
        daemon.stop_if_running()
