"""Which of several differs does it, and mounts that are made for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from containerd_hybrid.diff.activating import ActivatingDiffer
from containerd_hybrid.diff.api import AppliedLayer, DiffOptions
from containerd_hybrid.diff.ordered import OrderedApplier, OrderedComparer
from containerd_hybrid.errors import InvalidArgumentError, UnimplementedError
from containerd_hybrid.model import Descriptor, Digest, Mount, Scope
from containerd_hybrid.mounts.api import Activation, ActiveMount

NS = Scope("default", "lease")
LAYER = Descriptor("layer", Digest.of(b"x"), 1)


class _Differ:
    """Answers, or fails as it is told; remembers the mounts it was given."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.seen: list[Any] = []

    async def apply(
        self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount], **how: Any
    ) -> AppliedLayer:
        self.seen.append((list(mounts), how))
        if self.failure:
            raise self.failure
        return AppliedLayer(layer)

    async def compare(
        self, scope: Scope, lower: Sequence[Mount], upper: Sequence[Mount], options: DiffOptions
    ) -> Descriptor:
        self.seen.append((list(lower), list(upper)))
        if self.failure:
            raise self.failure
        return LAYER


async def test_the_first_that_can_does_it() -> None:
    cannot, can, never = _Differ(UnimplementedError("no")), _Differ(), _Differ()
    differs: dict[str, Any] = {"a": cannot, "b": can, "c": never}
    await OrderedApplier(differs).apply(NS, LAYER, [], sync=True)
    await OrderedComparer(differs).compare(NS, [], [], DiffOptions())
    assert (len(cannot.seen), len(can.seen), len(never.seen)) == (2, 2, 0)
    assert can.seen[0] == ([], {"sync": True})


async def test_a_failure_is_not_passed_on_to_the_next() -> None:
    never = _Differ()
    differs: dict[str, Any] = {"a": _Differ(InvalidArgumentError("damaged")), "b": never}
    with pytest.raises(InvalidArgumentError, match=r"^damaged$"):
        await OrderedApplier(differs).apply(NS, LAYER, [])
    assert never.seen == []


async def test_when_none_can_each_says_why() -> None:
    differs: dict[str, Any] = {
        "a": _Differ(UnimplementedError("no")),
        "b": _Differ(UnimplementedError("never")),
    }
    with pytest.raises(UnimplementedError, match=r"^a: no; b: never$"):
        await OrderedApplier(differs).apply(NS, LAYER, [])


class _Manager:
    """Makes everything but the last mount."""

    def __init__(self) -> None:
        self.active: dict[str, list[Mount]] = {}
        self.asked: list[list[Mount]] = []

    def handles(self, mounts: Sequence[Mount], allowed: Sequence[str] = ()) -> bool:
        return any("/" in mount.type or mount.type == "erofs" for mount in mounts)

    async def activate(self, scope: Scope, name: str, mounts: Sequence[Mount]) -> Activation:
        assert scope.lease is None
        self.active[name] = list(mounts)
        self.asked.append(list(mounts))
        made = tuple(ActiveMount(mount, f"/m/{index}", 0) for index, mount in enumerate(mounts[:-1]))
        if not made:
            return Activation(name, (ActiveMount(mounts[0], "/m/0", 0),))
        return Activation(name, made, (Mount("overlay", "overlay", ("lowerdir=/m/0",)),))

    async def deactivate(self, scope: Scope, name: str) -> None:
        del self.active[name]


BLOCK = [
    Mount("mkfs/ext4", "/rw.img", ("X-containerd.mkfs.size=1", "rw", "loop")),
    Mount("erofs", "/layer.erofs", ("ro", "loop")),
    Mount("format/mkdir/overlay", "overlay", ("X-containerd.mkdir.path=/x", "lowerdir={{ mount 1 }}")),
]


async def test_mounts_are_made_for_the_call_and_no_longer() -> None:
    inner, manager = _Differ(), _Manager()
    differ = ActivatingDiffer(inner, inner, manager)  # type: ignore[arg-type]
    await differ.apply(NS, LAYER, BLOCK, blind=True)
    await differ.apply(NS, LAYER, [Mount("bind", "/x")])
    overlay = Mount("overlay", "overlay", ("lowerdir=/m/0",))
    assert inner.seen == [([overlay], {"blind": True}), ([Mount("bind", "/x")], {})]
    inner.failure = InvalidArgumentError("damaged")
    with pytest.raises(InvalidArgumentError):
        await differ.apply(NS, LAYER, BLOCK)
    assert manager.asked == [BLOCK, BLOCK]
    assert manager.active == {}


async def test_nothing_is_made_or_written_for_a_comparison() -> None:
    """A second loop device that writes an image in use would destroy it."""
    inner, manager = _Differ(), _Manager()
    differ = ActivatingDiffer(inner, inner, manager)  # type: ignore[arg-type]
    await differ.compare(NS, [Mount("erofs", "/layer.erofs", ("ro", "loop"))], BLOCK, DiffOptions())
    assert manager.asked[1] == [
        Mount("ext4", "/rw.img", ("loop", "ro", "noload")),
        BLOCK[1],
        Mount("format/overlay", "overlay", ("lowerdir={{ mount 1 }}",)),
    ]
    [(lower, upper)] = inner.seen
    assert lower == [Mount("bind", "/m/0", ("ro", "rbind"))]
    assert upper[0].type == "overlay"
    assert manager.active == {}
