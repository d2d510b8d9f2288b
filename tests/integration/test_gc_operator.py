"""``hyctl gc`` on a daemon and without one."""

from __future__ import annotations

import json
import subprocess

import pytest
from tests.integration.client_worlds import World, connected, world  # noqa: F401 (a fixture)

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/busybox:latest"


@pytest.fixture
def ours(world: World) -> World:  # noqa: F811
    if world.name == "containerd":
        pytest.skip("containerd has no such service")
    return world


async def test_why_dry_run_and_run(ours: World, token: str) -> None:
    async with connected(ours, token) as client:
        image = await client.images.get(IMAGE)
        manifest, _ = await client.images.config(image)
        layer = str(manifest.layers[0].digest)
        (finding,) = await client.garbage.why(layer, "content")
        assert finding.chain[0].node.type == "images"
        assert finding.chain[-1].reason.startswith("label containerd.io/gc.ref.content")
        before = await client.garbage.collect(dry_run=True)
        assert layer not in {node.key for node in before.removed}
        await client.images.remove(IMAGE, sync=False)
        # The collector may have been quicker; then there is nothing left to show.
        found = await client.garbage.collect()
        assert (await client.garbage.collect(dry_run=True)).removed == ()
        for node in found.removed:
            if node.type == "content":
                assert found.sizes[node] > 0


def test_hyctl_says_it_in_words_and_in_json(ours: World, token: str) -> None:
    if not ours.address:
        pytest.skip("shown on the daemon; the service is the same one")

    def hyctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ours.hyctl(token), *arguments], capture_output=True, text=True, check=False, timeout=60
        )

    assert hyctl("image", "import", str(ours.archive)).returncode == 0
    try:
        why = hyctl("gc", "why", IMAGE)
        assert why.stdout == f"images {IMAGE} is alive:\n  images {IMAGE} (an image)\n", why.stderr
        shown = json.loads(hyctl("gc", "why", IMAGE, "--json").stdout)
        assert shown[0]["Alive"] is True
        assert shown[0]["Chain"][0]["Reason"] == "an image"
        nothing = hyctl("gc", "why", "no-such-thing")
        assert nothing.returncode == 1
        assert "nothing in namespace" in nothing.stderr
        dry = json.loads(hyctl("gc", "--dry-run", "--format", "json").stdout)
        assert set(dry) == {"Removed", "ContentBytes", "Seconds"}
        assert hyctl("gc", "run").returncode == 0
        assert hyctl("gc", "--dry-run").stdout == "nothing would go\n"
        assert hyctl("gc").returncode == 125
        assert hyctl("gc", "--help").returncode == 0
    finally:
        hyctl("image", "rm", IMAGE)
