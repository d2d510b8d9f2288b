"""``hyctl gc`` and the library's way to the collector, on a daemon."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.images.archives import busybox_layer, oci_layout

import containerd_hybrid
from containerd_hybrid.testing.daemon import DaemonProcess

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/busybox:latest"


async def test_why_dry_run_and_run(daemon: DaemonProcess, token: str, tmp_path: Path) -> None:
    archive = oci_layout([busybox_layer()], IMAGE).write(tmp_path / "busybox.tar")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "containerd_hybrid.cli.main",
            "-a",
            daemon.address,
            "-n",
            token,
            "gc",
        ]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    async def hyctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(run, *arguments)

    async with await containerd_hybrid.connect_async(daemon.address, token) as client:
        await client.images.import_archive(archive)
        manifest, _ = await client.images.config(await client.images.get(IMAGE))
        layer = str(manifest.layers[0].digest)
        (finding,) = await client.garbage.why(layer, "content")
        assert finding.chain[0].node.type == "images"
        assert finding.chain[-1].reason.startswith("label containerd.io/gc.ref.content")
        assert layer not in {node.key for node in (await client.garbage.collect(dry_run=True)).removed}

        why = await hyctl("why", IMAGE)
        assert why.stdout == f"images {IMAGE} is alive:\n  images {IMAGE} (an image)\n", why.stderr
        assert (await hyctl("why", "busybox")).stdout == why.stdout
        shown = json.loads((await hyctl("why", layer[7:20], "--json")).stdout)
        assert (shown[0]["Name"], shown[0]["Alive"], shown[0]["Chain"][0]["Reason"]) == (
            layer,
            True,
            "an image",
        )
        nothing = await hyctl("why", "no-such-thing")
        assert (nothing.returncode, "nothing in namespace" in nothing.stderr) == (1, True)
        assert (await hyctl()).returncode == 125

        await client.images.remove(IMAGE, sync=False)
        # The collector may be quicker; then there is nothing left to tell of.
        for node in (found := await client.garbage.collect()).removed:
            assert node.type != "content" or found.sizes.get(node, 1) > 0
        assert (await client.garbage.collect(dry_run=True)).removed == ()
        assert (await hyctl("run")).stdout == "nothing had to go\n"
        dry = json.loads((await hyctl("--dry-run", "--format", "json")).stdout)
        assert (dry["Removed"], dry["ContentBytes"]) == ([], 0)
