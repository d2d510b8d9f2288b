"""A daemon of one's own, on folders and a socket of one's own, as a process that tests can kill."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from containerd_hybrid.testing.leaks import LeakCheck, mounts_below
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

_MNT_DETACH = 2
_OPT = "io.containerd.internal.v1.opt"


class DaemonError(AssertionError):
    """The daemon did not do what was expected; the message has the end of its log."""


class DaemonProcess:
    """``containerd-hybrid`` with everything below ``folder``.

    ``config`` is TOML that the daemon reads; ``environment`` is added to this process's own. Nothing
    runs before :meth:`start`. The folders outlive :meth:`stop` and :meth:`kill`, as a machine's do.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: str = "version = 3\n",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.state = folder / "state"
        self.address = str(folder / "containerd.sock")
        self.log_file = folder / "daemon.log"
        self._config = folder / "config.toml"
        self.write_config(config)
        self._arguments = list(arguments)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ttrpc_address(self) -> str:
        """Where shims publish."""
        return self.address + ".ttrpc"

    @property
    def pid(self) -> int:
        """The process id. DaemonError when it does not run."""
        return self._running().pid

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, running or ended. DaemonError when there was none."""
        return self._running()

    def write_config(self, config: str) -> None:
        """Replace the configuration file, for the next start or SIGHUP."""
        if _OPT not in config:
            # Else its folders were made below /opt.
            config += f'\n[plugins."{_OPT}"]\npath = "{self.folder}/opt"\n'
        self._config.write_text(config)

    @property
    def log(self) -> str:
        """All it has logged, over restarts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def command(self) -> list[str]:
        """The program and its arguments."""
        return [
            *(sys.executable, "-m", "containerd_hybrid.app.main"),
            *("--config", str(self._config), "--address", self.address),
            *("--root", str(self.root), "--state", str(self.state), "--log-level", "debug"),
            *self._arguments,
        ]

    def start(self) -> DaemonProcess:
        """Start it and wait until it says that it serves (sd_notify's READY=1).

        Raises:
            DaemonError: it ended instead, or did not get ready.
        """
        if self._process is not None and self._process.poll() is None:
            raise DaemonError(f"the daemon runs already as {self._process.pid}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, self.log_file.open("ab") as log:
            # Abstract, because a test's folder may be too deep for a socket's path.
            notified.bind(f"\0containerd-hybrid-test-{os.getpid()}-{time.monotonic_ns()}")
            notified.settimeout(0.05)
            name = "@" + notified.getsockname()[1:].decode()
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment, "NOTIFY_SOCKET": name},
                start_new_session=True,
            )
            self._wait_ready(notified)
        return self

    def _wait_ready(self, notified: socket.socket) -> None:
        process = self._running()
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < give_up:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in notified.recv(4096).splitlines():
                    return
            if process.poll() is not None:
                raise DaemonError(f"the daemon ended with {process.returncode}:\n{self._log_end()}")
        self.kill()
        raise DaemonError(f"the daemon was not ready in {GIVE_UP_SECONDS} s:\n{self._log_end()}")

    def stop(self, seconds: float = GIVE_UP_SECONDS) -> int:
        """SIGTERM, and wait; its exit code. Containers run on."""
        return self._end(signal.SIGTERM, seconds)

    def stop_if_running(self) -> None:
        """As :meth:`stop`; a daemon that a test has ended already is fine."""
        if self._process is not None and self._process.poll() is None:
            code = self.stop()
            if code != 0:
                raise DaemonError(f"the daemon ended with {code}:\n{self._log_end()}")

    def kill(self) -> int:
        """SIGKILL, as a crash would be."""
        return self._end(signal.SIGKILL, GIVE_UP_SECONDS)

    def restart(self, *, crash: bool = False) -> DaemonProcess:
        """Stop it (or kill it) and start it on the same folders."""
        _ = self.kill() if crash else self.stop()
        return self.start()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._running().send_signal(number)

    def wait_for_log(self, text: str) -> None:
        """Wait until ``text`` is in the log."""
        until(lambda: text in self.log, lambda: f"{text!r} is not in the log:\n{self._log_end()}")

    @contextlib.contextmanager
    def serving(self, check: LeakCheck | None = None) -> Iterator[Self]:
        """It serves in the block and is stopped at its end; what a failure left is taken away."""
        self.start()
        try:
            yield self
            self.stop_if_running()
        finally:
            self.cleanup(check)

    def cleanup(self, check: LeakCheck | None = None) -> None:
        """Take away what a failed test left: the daemon, processes of the test, mounts below the folder."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        if check is not None:
            for leak in check.leaks():
                if leak.kind == "process":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(leak.what.split()[0]), signal.SIGKILL)
        unmount_below(self.folder)

    def _end(self, number: signal.Signals, seconds: float) -> int:
        process = self._running()
        process.send_signal(number)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise DaemonError(f"the daemon did not end on {number.name}:\n{self._log_end()}") from None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise DaemonError("the daemon was not started")
        return self._process

    def _log_end(self) -> str:
        return "\n".join(self.log.splitlines()[-40:])


def unmount_below(folder: Path) -> None:
    """Detach every mount below ``folder``, the deepest first."""
    libc = ctypes.CDLL(None, use_errno=True)
    for target in reversed(mounts_below(folder)):
        libc.umount2(os.fsencode(target), _MNT_DETACH)
