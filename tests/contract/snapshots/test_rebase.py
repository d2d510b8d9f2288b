"""Layers that are applied in any order and strung together when they are committed."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from tests.contract.snapshots.world import NS, World, activated

from containerd_hybrid.diff.walking import WalkingDiffer
from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.model import Descriptor, Digest, Scope
from containerd_hybrid.model.descriptor import OCI_LAYER
from containerd_hybrid.mounts.linux import LinuxMounter
from containerd_hybrid.snapshots.api import rebasable

pytestmark = pytest.mark.root


class _Blobs:
    """As much of a content store as applying needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def add(self, *entries: tuple[str, str]) -> Descriptor:
        """A layer of files (path, content) and folders (path with a slash)."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for name, content in entries:
                member = tarfile.TarInfo(name.rstrip("/"))
                member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                member.mode = 0o755 if name.endswith("/") else 0o644
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
        digest = Digest.of(data.getvalue())
        (self._folder / digest.hex).write_bytes(data.getvalue())
        return Descriptor(OCI_LAYER, digest, len(data.getvalue()))

    async def open_blob(self, scope: Scope, digest: Digest) -> int:
        return os.open(self._folder / digest.hex, os.O_RDONLY)


@pytest.fixture(autouse=True)
def _rebasing_driver(world: World) -> None:
    if "rebase" not in world.snapshotter.capabilities:
        pytest.skip(f"the driver {world.driver.name} needs parents before their children")


async def test_layers_are_applied_backwards(world: World, tmp_path: Path) -> None:
    """Deletions and folders that hide others work on layers which were not there yet."""
    blobs = _Blobs(tmp_path / "blobs")
    layers = [
        blobs.add(
            ("kept", "1"), ("deleted", "1"), ("folder/", ""), ("folder/old", "1"), ("d/", ""), ("d/x", "1")
        ),
        blobs.add((".wh.deleted", ""), ("folder/", ""), ("folder/.wh..wh..opq", ""), ("folder/new", "2")),
        blobs.add(("d/", ""), ("d/.wh.x", ""), ("d/y", "3")),
    ]
    differ = WalkingDiffer(blobs, LinuxMounter(tmp_path / "mounts"))  # type: ignore[arg-type]
    sn = world.snapshotter
    for number in (2, 1, 0):
        mounts = rebasable(await sn.prepare(NS, f"a{number}"))
        with activated(mounts, world.work) as left:
            await differ.apply(NS, layers[number], left)
    for number in (0, 1, 2):
        await sn.commit(NS, f"c{number}", f"a{number}", {}, f"c{number - 1}" if number else "")
    assert [(await sn.stat(NS, f"c{number}")).parent for number in (0, 1, 2)] == ["", "c0", "c1"]
    assert sorted(await world.view("c2")) == [".", "d", "d/y", "folder", "folder/new", "kept"]
    assert sorted(await world.view("c1")) == [".", "d", "d/x", "folder", "folder/new", "kept"]
    with world.mounted(await sn.prepare(NS, "container", "c2")) as root:
        assert (root / "d" / "y").read_text() == "3"
        (root / "kept").write_text("4")


async def test_the_parent_has_to_be_there_and_committed(world: World) -> None:
    sn = world.snapshotter
    await sn.prepare(NS, "a")
    await sn.prepare(NS, "active")
    with pytest.raises(NotFoundError, match="parent snapshot below does not exist"):
        await sn.commit(NS, "c", "a", {}, "below")
    with pytest.raises(InvalidArgumentError, match='parent "active" is not committed snapshot'):
        await sn.commit(NS, "c", "a", {}, "active")
    assert await world.names() == ["a", "active"]
    await sn.commit(NS, "below", "active")
    await sn.commit(NS, "c", "a", {}, "below")
    assert (await sn.stat(NS, "c")).parent == "below"
