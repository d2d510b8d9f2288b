"""Mounts rewritten by their option strings."""

from __future__ import annotations

import pytest

from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.options import read_only, without_volatile


def options_of(mount: Mount) -> tuple[str, ...]:
    (changed,) = read_only([mount])
    assert (changed.type, changed.source, changed.target) == (mount.type, mount.source, mount.target)
    return changed.options


def test_a_bind_gets_ro_once_and_keeps_the_rest() -> None:
    assert options_of(Mount("bind", "/s", ("rbind", "rw"), "sub")) == ("rbind", "ro")
    assert options_of(Mount("ext4", "/i", ("ro", "loop", "uidmap=0:1:1"))) == ("loop", "uidmap=0:1:1", "ro")


def test_the_upper_folder_of_an_overlay_becomes_its_first_lower_one() -> None:
    options = ("index=off", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a", "volatile")
    mount = Mount("overlay", "overlay", (*options, "uidmap=0:1:1", "gidmap=0:1:1"))
    assert options_of(mount) == ("index=off", "lowerdir=/u:/b:/a", "ro")


def test_an_overlay_without_an_upper_folder_stays_as_it_is() -> None:
    assert options_of(Mount("overlay", "overlay", ("lowerdir=/b:/a",))) == ("lowerdir=/b:/a", "ro")


@pytest.mark.parametrize(
    ("upper", "lower"), [("/a:b", "/a\\:b"), ("/a\\:b", "/a\\:b"), ("/a\\\\:b", "/a\\\\\\:b")]
)
def test_a_colon_in_the_upper_folder_separates_nothing(upper: str, lower: str) -> None:
    mount = Mount("overlay", "overlay", (f"upperdir={upper}", "workdir=/w", "lowerdir=/l"))
    assert options_of(mount) == (f"lowerdir={lower}:/l", "ro")


@pytest.mark.parametrize("option", ["volatile", "fsync=volatile"])
def test_volatile_is_dropped_from_overlays_only(option: str) -> None:
    overlay = Mount("overlay", "overlay", ("lowerdir=/l", option, "index=off"))
    other = Mount("tmpfs", "tmpfs", (option,))
    assert without_volatile([overlay, other]) == [
        Mount("overlay", "overlay", ("lowerdir=/l", "index=off")),
        other,
    ]
