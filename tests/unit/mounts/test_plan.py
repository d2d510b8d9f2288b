"""Which mounts the manager makes, and how types, templates and options are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from containerd_hybrid.model import Mount
from containerd_hybrid.mounts.api import ActiveMount
from containerd_hybrid.mounts.beneath import Roots
from containerd_hybrid.mounts.mkdir import MakeFolders
from containerd_hybrid.mounts.plan import Planner
from containerd_hybrid.mounts.transform import Format

XFS = Mount("xfs", "/img", ("loop",))
OVERLAY = Mount("format/overlay", "overlay", ("lowerdir={{ mount 0 }}",))
ACTIVE = [ActiveMount(Mount(f"t{n}", f"/s{n}", target=f"sub{n}"), f"/m/{n}", 1) for n in range(3)]


class Device:
    def mount(self, mount: Mount, mount_point: Path, active: Sequence[ActiveMount]) -> ActiveMount:
        raise NotImplementedError

    def unmount(self, mount_point: Path) -> None:
        raise NotImplementedError

    def alive(self, mount_point: Path) -> bool:
        raise NotImplementedError


PLANNER = Planner({"format": Format()}, {"device": Device()})


def split(
    *types: str, temporary: bool = False, allowed: Sequence[str] = ()
) -> tuple[list[str], list[str]] | None:
    plan = PLANNER.plan([Mount(kind, "s") for kind in types], temporary=temporary, allowed=allowed)
    if plan is None:
        return None
    return ([s.mount.type for s in plan.first], [s.mount.type for s in plan.rest])


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["bind"], None),
        (["unknown/overlay"], None),
        (["bind", "format/overlay"], (["bind"], ["format/overlay"])),
        (["format/overlay"], ([], ["format/overlay"])),
        (["device"], (["device"], [])),
        (["device", "bind"], (["device"], ["bind"])),
        (["format/device", "bind"], (["format/device"], ["bind"])),
        (["device", "bind", "format/overlay", "bind"], (["device", "bind"], ["format/overlay", "bind"])),
    ],
)
def test_all_up_to_the_last_that_needs_it(types: list[str], expected: object) -> None:
    assert split(*types) == expected


def test_a_temporary_activation_makes_everything() -> None:
    assert split("bind", "tmpfs", temporary=True) == (["bind", "tmpfs"], [])


@pytest.mark.parametrize("allowed", ["format/*", "format/overlay"])
def test_what_the_caller_mounts_by_itself_is_left_to_it(allowed: str) -> None:
    assert split("bind", "format/overlay", allowed=[allowed]) is None


def test_a_handler_that_the_caller_does_not_need_is_used_for_what_follows() -> None:
    assert split("device", "bind", allowed=["device"]) is None
    assert split("device", "format/x", allowed=["device"]) == (["device"], ["format/x"])


def test_transformers_are_applied_from_the_left() -> None:
    plan = PLANNER.plan([XFS, Mount("format/format/overlay", "{{ mount 0 }}")])
    assert plan is not None
    assert plan.rest[0].transformed(ACTIVE) == Mount("overlay", "/m/0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{{ mount 1 }}", "/m/1"),
        ("{{mount 1}}/up:{{ source 0 }}", "/m/1/up:/s0"),
        ("{{ target 2 }}", "sub2"),
        ("{{ overlay 0 2 }}", "/m/0:/m/1:/m/2"),
        ("{{ overlay 2 0 }}", "/m/2:/m/1:/m/0"),
        ("{{ overlay 1 1 }}", "/m/1"),
    ],
)
def test_templates(text: str, expected: str) -> None:
    mount = Format().transform(Mount("overlay", text, (text, "ro"), text), ACTIVE)
    assert mount == Mount("overlay", expected, (expected, "ro"), expected)


@pytest.mark.parametrize(
    "text",
    [
        "{{ mount 3 }}",
        "{{ overlay 0 3 }}",
        "{{ overlay 3 0 }}",
        "{{ mount -1 }}",
        "{{ mount }}",
        "{{ exec 0 }}",
        "{{}}",
    ],
)
def test_templates_that_cannot_be_filled(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="mount template"):
        Format().transform(Mount("overlay", text), ACTIVE)


# --- mkdir ---------------------------------------------------------------------------------------


def made(tmp_path: Path, *options: str) -> Mount:
    mkdir = MakeFolders(Roots([tmp_path / "root"]))
    return mkdir.transform(Mount("overlay", "o", options), [])


def option(path: object) -> str:
    return f"X-containerd.mkdir.path={path}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def test_folders_are_made_and_the_options_taken_out(tmp_path: Path, root: Path) -> None:
    mount = made(tmp_path, "index=off", option(root / "a"), option(f"{root}/a/b:755"), "ro")
    assert mount.options == ("index=off", "ro")
    assert (root / "a").stat().st_mode & 0o7777 == 0o700
    assert (root / "a" / "b").stat().st_mode & 0o7777 == 0o755


def test_an_existing_folder_gets_the_mode(tmp_path: Path, root: Path) -> None:
    (root / "a").mkdir(0o700)
    made(tmp_path, option(f"{root}/a:711"))
    assert (root / "a").stat().st_mode & 0o7777 == 0o711
    made(tmp_path, option(root / "a"))
    assert (root / "a").stat().st_mode & 0o7777 == 0o711


@pytest.mark.parametrize("bad", ["path=", "path=/x:8", "path=/x:755:1", "path=/x:7777", "mode=755"])
def test_mkdir_options_that_cannot_be_right(tmp_path: Path, root: Path, bad: str) -> None:
    with pytest.raises(InvalidArgumentError, match="mkdir option"):
        made(tmp_path, f"X-containerd.mkdir.{bad}")


def test_nothing_is_made_outside_of_the_roots(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UnimplementedError, match="no root"):
        made(tmp_path, option(tmp_path / "rootless"))
    with pytest.raises(InvalidArgumentError, match="must not contain"):
        made(tmp_path, option(root / ".." / "x"))
    with pytest.raises(InvalidArgumentError, match="a root itself"):
        made(tmp_path, option(root))
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_no_link_leads_out(tmp_path: Path, root: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "link").symlink_to(outside)
    with pytest.raises(NotFoundError, match="link: Not a directory"):
        made(tmp_path, option(root / "link" / "x"))
    with pytest.raises(InvalidArgumentError, match="is not a folder"):
        made(tmp_path, option(f"{root}/link:755"))
    assert list(outside.iterdir()) == []
    assert outside.stat().st_mode & 0o777 == 0o755


def test_the_parent_must_exist(tmp_path: Path, root: Path) -> None:
    with pytest.raises(NotFoundError, match="a: No such file"):
        made(tmp_path, option(root / "a" / "b"))
