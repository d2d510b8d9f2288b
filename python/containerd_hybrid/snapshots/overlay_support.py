"""What the running kernel can do for overlay mounts on a given file system."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from containerd_hybrid._native import mount_all, remove_tree, unmount_all
from containerd_hybrid.errors import HybridError, UnimplementedError

_PREFIX = "check-"
_INDEX = Path("/sys/module/overlay/parameters/index")
_IDENTITY_MAP = ["0", "0", "4294967295"]


def check(root: Path) -> None:
    """Mount an overlay below ``root`` and delete a file through it, as images do.

    Raises:
        UnimplementedError: it does not work there; the message says why.
    """
    for left_by_a_killed_process in root.glob(f"{_PREFIX}*"):
        unmount_all(left_by_a_killed_process)
        remove_tree(left_by_a_killed_process)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=root) as name:
        folder = Path(name)
        for part in ("lower1", "lower2", "upper", "work", "merged"):
            (folder / part).mkdir()
        (folder / "lower1" / "file").touch()
        options = (
            f"lowerdir={folder}/lower2:{folder}/lower1",
            f"upperdir={folder}/upper",
            f"workdir={folder}/work",
            *(("userxattr",) if needs_userxattr(root) else ()),
        )
        merged = folder / "merged"
        try:
            mount_all([("overlay", "overlay", "", options)], merged)
        except HybridError as error:
            raise UnimplementedError(f"overlayfs does not work in {root}: {error.message}") from error
        try:
            (merged / "file").unlink()
            left = list(merged.iterdir())
        except OSError as error:
            raise UnimplementedError(f"overlayfs does not work in {root}: {error}") from error
        finally:
            unmount_all(merged)
        if left:
            # Without d_type the kernel cannot tell in a listing that an entry only hides another one.
            raise UnimplementedError(
                f"overlayfs does not work in {root}: its file system does not support d_type; "
                "XFS has to be formatted with ftype=1"
            )


def has_index() -> bool:
    """Whether the kernel knows the option ``index``."""
    return _INDEX.exists()


def can_map_ids() -> bool:
    """Whether lower layers may be idmapped mounts (Linux 5.19)."""
    return _kernel() >= (5, 19)


def needs_userxattr(root: Path) -> bool:
    """Whether the option ``userxattr`` is needed: in a user namespace (Linux 5.11), except on tmpfs."""
    return in_user_namespace() and _kernel() >= (5, 11) and _file_system(root) != "tmpfs"


def in_user_namespace() -> bool:
    """Whether this process is not in the machine's own user namespace."""
    try:
        return Path("/proc/self/uid_map").read_text("ascii").split() != _IDENTITY_MAP
    except FileNotFoundError:
        return False  # a kernel without user namespaces


def _kernel() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _file_system(path: Path) -> str:
    """The type of the mount that ``path`` is on: the last of those with its device."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            found = after.split()[0]
    return found
