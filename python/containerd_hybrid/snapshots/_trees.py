"""Stand-in of the native module's ``disk_usage`` and ``remove_tree`` until it is built."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from containerd_hybrid.errors import UnknownError
from containerd_hybrid.model import Mount


def disk_usage(path: str) -> tuple[int, int]:
    seen: set[tuple[int, int]] = set()
    size = 0
    for folder, _, files in os.walk(path):
        for found in [folder, *(os.path.join(folder, name) for name in files)]:  # noqa: PTH118
            stat = os.lstat(found)
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                size += stat.st_blocks * 512
    return size, len(seen)


def remove_tree(path: str) -> None:
    shutil.rmtree(Path(path))


def mount(mount: Mount, target: Path) -> None:
    done = subprocess.run(
        ["mount", "-t", mount.type, "-o", ",".join(mount.options), mount.source, str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnknownError(done.stderr.strip())


def unmount(target: Path) -> None:
    subprocess.run(["umount", str(target)], check=True)
