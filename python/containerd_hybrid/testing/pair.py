"""containerd and our daemon side by side, for tests that ask both the same."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.ctr import find_ctr
from containerd_hybrid.testing.daemon import DaemonProcess


class DaemonPair:
    """An installed containerd of that ``major`` release and ours, below ``folder``. Used as ``with``.

    ``program`` is the ctr of the same release; containerd is the one of its folder.
    """

    def __init__(self, folder: Path, major: int, *, config: str = "") -> None:
        """``config`` is TOML that both get besides what they have anyway.

        Raises:
            NotFoundError: no such release is installed.
        """
        self.major = major
        self.program = find_ctr(major)
        beside = Path(self.program).parent
        environment = {**os.environ, "PATH": f"{beside}:{os.environ['PATH']}"}
        for name in ("c", "o"):
            (folder / name).mkdir()
        self.theirs = StockContainerd(
            folder / "c", program=str(beside / "containerd"), environment=environment, config=config
        )
        self.ours = DaemonProcess(folder / "o", config=f"version = 2\n{config}")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._stack.enter_context(self.theirs)
            self._stack.callback(self.ours.cleanup)
            self.ours.start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            self.ours.stop_if_running()
