"""A snapshotter that another containerd uses: in a namespace of its own, held by a label that is hidden."""

from __future__ import annotations

from pathlib import Path

from tests.contract.snapshots.world import NS, open_world

from containerd_hybrid.model import Scope
from containerd_hybrid.snapshots.lent import LentSnapshotter

THEIRS = Scope("whatever they call it", "their lease")
OWN = Scope("lent-x")
ROOT = "containerd.io/gc.root"


async def test_the_other_side_sees_what_it_made_and_nothing_else(tmp_path: Path) -> None:
    async with open_world("native", tmp_path) as world:
        lent = LentSnapshotter(world.snapshotter, OWN.namespace)
        await world.commit("ours")
        await lent.prepare(THEIRS, "default/1/work", labels={"a": "b"})
        await lent.commit(Scope("another"), "default/2/base", "default/1/work", {"c": "d"})
        await lent.view(THEIRS, "default/3/see", "default/2/base")
        found = {info.name: dict(info.labels) async for info in lent.walk(THEIRS)}
        assert found == {"default/2/base": {"c": "d"}, "default/3/see": {}}
        assert await world.names() == ["ours"]
        assert not [info async for info in lent.walk(NS, [f'labels."{ROOT}"==none'])]
        held = [info.labels.get(ROOT) async for info in world.snapshotter.walk(OWN)]
        assert held == ["lent", "lent"]
        await lent.remove(THEIRS, "default/3/see")
        await lent.remove(THEIRS, "default/2/base")


async def test_it_stays_held_whatever_the_other_side_does_to_labels(tmp_path: Path) -> None:
    async with open_world("native", tmp_path) as world:
        lent = LentSnapshotter(world.snapshotter, OWN.namespace)
        await lent.prepare(THEIRS, "k", labels={ROOT: "theirs", "a": "b"})
        for labels, paths, expected in (
            ({"c": "d"}, ("labels",), {"c": "d"}),
            ({"e": "f"}, (), {"e": "f"}),
            ({}, ("labels.e",), {}),
            ({"g": "h"}, ("labels.g", f"labels.{ROOT}"), {"g": "h"}),
            ({}, (f"labels.{ROOT}",), {"g": "h"}),
        ):
            assert (await lent.update(THEIRS, "k", labels, paths)).labels == expected
            assert (await world.snapshotter.stat(OWN, "k")).labels[ROOT] == "lent"
        await lent.remove(THEIRS, "k")
