"""The real containerd, to compare with: a private one, on folders and a socket of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.testing.daemon import DaemonError, unmount_below
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

_CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.restart"]

[grpc]
  address = "{folder}/c.sock"
"""


class StockContainerd:
    """An installed ``containerd`` with everything below ``folder``. Used as ``with``.

    ``config`` is TOML that goes after what the configuration file has anyway; ``program`` is the path of
    another one than PATH has.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: str = "",
        environment: dict[str, str] | None = None,
        program: str | None = None,
    ) -> None:
        """
        Raises:
            NotFoundError: it is not installed.
        """
        program = shutil.which(program or "containerd")
        if program is None:
            raise NotFoundError("containerd is not installed: apt-get install containerd")
        self.folder = folder
        self.address = str(folder / "c.sock")
        self.log_file = folder / "containerd.log"
        self._program = program
        self._more_config = config
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id. DaemonError when it does not run."""
        if self._process is None:
            raise DaemonError("containerd was not started")
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it answers."""
        config = self.folder / "config.toml"
        config.write_text(_CONFIG.format(folder=self.folder) + self._more_config)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        try:
            until(self._answers, "an answer of containerd")
        except AssertionError as error:
            self.stop()
            raise DaemonError(f"containerd did not start:\n{self.log_file.read_text()[-2000:]}") from error
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "containerd ended"
        command = ["ctr", "--address", self.address, "version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        """End it; containers run on."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(GIVE_UP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
        unmount_below(self.folder)
