"""Snapshots for user namespaces: the layers' owners are shifted by the mount, not on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.snapshots.world import NS, World

pytestmark = pytest.mark.root

_LABELS = {
    "containerd.io/snapshot/uidmapping": "0:100000:65536",
    "containerd.io/snapshot/gidmapping": "0:200000:65536",
}


@pytest.fixture(autouse=True)
def _mapping_driver(world: World) -> None:
    if "remap-ids" not in world.driver.capabilities:
        pytest.skip(f"the driver {world.driver.name} cannot map IDs on this kernel")


async def test_owners_of_all_layers_are_mapped(world: World) -> None:
    def second(root: Path) -> None:
        (root / "second").write_text("x")

    await world.commit("one", "", lambda root: (root / "first").mkdir())
    await world.commit("two", "one", second)
    for kind in (world.snapshotter.prepare, world.snapshotter.view):
        with world.mounted(await kind(NS, kind.__name__, "two", _LABELS)) as root:
            for name in ("first", "second"):
                found = (root / name).stat()
                assert (found.st_uid, found.st_gid) == (100_000, 200_000)
    with world.mounted(await world.snapshotter.mounts(NS, "prepare")) as root:
        assert (root.stat().st_uid, root.stat().st_gid) == (100_000, 200_000)
    with world.mounted(await world.snapshotter.view(NS, "plain", "two")) as root:
        assert (root / "first").stat().st_uid == 0


async def test_a_snapshot_without_a_parent_is_mapped_too(world: World) -> None:
    """As in containerd, its root belongs to the mapped root before it is mapped by the mount."""
    if world.driver.name != "overlayfs":
        pytest.skip("erofs maps only what has layers, as in containerd")
    mounts = await world.snapshotter.prepare(NS, "a", "", _LABELS)
    source = Path(mounts[0].source).stat()
    assert (source.st_uid, source.st_gid) == (100_000, 200_000)
    assert mounts[0].options == ("uidmap=0:100000:65536", "gidmap=0:200000:65536", "rw", "rbind")
