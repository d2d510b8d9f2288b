"""Both sides of a comparison: our daemon and the installed containerd, on a file system of their own.

The two take turns, round by round, so that a noisy machine hits both. A row of the summary says how
many times containerd's time ours is: below 1 is faster. Only ratios are meant to be quoted.

``-s`` is not needed: the summary comes at the end, and ``--benchmark-json FILE`` keeps all pairs.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess, unmount_below
from containerd_hybrid.testing.images import busybox_archive

_DISK = 8 << 30
_ROWS: list[tuple[str, str, float, float]] = []


@dataclass(frozen=True, slots=True)
class Side:
    """One daemon of the comparison."""

    name: str
    ctr: Ctr
    pid: int


@dataclass(frozen=True, slots=True)
class Versus:
    """Runs a thing on both sides in turn and notes the ratio."""

    ours: Side
    theirs: Side
    benchmark: BenchmarkFixture

    def time(
        self,
        name: str,
        action: Callable[[Side], object],
        *,
        rounds: int = 5,
        reset: Callable[[Side], object] = lambda _side: None,
        daemon: bool = True,
    ) -> None:
        """Time ``action``; ``reset`` runs after each time, untimed. The first round only warms up.

        ``daemon`` also compares the processor time of the daemons, with that of their ended children.
        """
        turns = {side.name: _Turns(side, action) for side in (self.ours, self.theirs)}
        ours, theirs = turns[self.ours.name], turns[self.theirs.name]

        def theirs_first() -> None:
            if ours.seconds:
                reset(self.ours)
            theirs.take()
            reset(self.theirs)

        self.benchmark.pedantic(ours.take, setup=theirs_first, rounds=rounds, warmup_rounds=1)
        reset(self.ours)
        self.note(name, "s, minimum", min(ours.counted), min(theirs.counted))
        self.note(name, "s, median", statistics.median(ours.counted), statistics.median(theirs.counted))
        if daemon and ours.processor and theirs.processor:
            self.note(name, "s, daemon CPU", ours.processor / rounds, theirs.processor / rounds)

    def note(self, name: str, unit: str, ours: float, theirs: float) -> None:
        """Keep a pair of figures for the summary and the JSON report."""
        self.benchmark.extra_info[f"{name} ({unit})"] = {
            "ours": ours,
            "containerd": theirs,
            "ratio": ours / theirs,
        }
        _ROWS.append((name, unit, ours, theirs))


class _Turns:
    """What one side took, turn by turn."""

    def __init__(self, side: Side, action: Callable[[Side], object]) -> None:
        self._side = side
        self._action = action
        self.seconds: list[float] = []
        self.processor = 0.0

    @property
    def counted(self) -> list[float]:
        """Without the first, which warms up; with ``--benchmark-disable`` there is no other."""
        return self.seconds[1:] or self.seconds

    def take(self) -> None:
        busy = processor_seconds(self._side.pid)
        begin = time.perf_counter()
        self._action(self._side)
        self.seconds.append(time.perf_counter() - begin)
        if len(self.seconds) > 1:
            self.processor += processor_seconds(self._side.pid) - busy


def processor_seconds(pid: int) -> float:
    """User and system time of a process and its ended children (proc_pid_stat(5), fields 14 to 17).

    In steps of a clock tick, usually 10 ms.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int, *, reset: bool = False) -> float:
    """The most resident memory of a process since it began, or since the last ``reset`` (proc(5)), in MiB."""
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no VmHWM of {pid}")


@pytest.fixture(scope="session")
def disk() -> Iterator[Path]:
    """A fresh ext4 of its own: the machine's may be slow or full of leftovers.

    Its file is in ``BENCH_FOLDER``; in one of memory (``/dev/shm``) syncs cost nothing on either side.
    """
    folder = Path(tempfile.mkdtemp(prefix="ch-bench-", dir=os.environ.get("BENCH_FOLDER", "/tmp")))
    image, mounted = folder / "disk", folder / "m"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(_DISK)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    try:
        yield mounted
    finally:
        unmount_below(mounted)
        shutil.rmtree(folder)


def clear(side: Side) -> None:
    """Take away what a benchmark that failed left, and the folders that runc leaves for a namespace."""
    for task in side.ctr("task", "ls", "-q").split():
        side.ctr.run("task", "delete", "--force", task)
    namespace = side.ctr.namespace
    groups = Path("/sys/fs/cgroup")
    for folder in (
        *groups.glob(f"*/{namespace}"),
        groups / namespace,
        Path("/run/containerd/runc", namespace),
    ):
        if folder.is_dir():
            folder.rmdir()


def compiled(disk: Path) -> dict[str, str]:
    """Environment for modules compiled once, as an installed package's are, wherever this one runs from."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(disk / "pycache")}


@pytest.fixture(scope="session")
def sides(disk: Path) -> Iterator[tuple[Side, Side]]:
    """Both daemons, with the busybox image. ``BENCH_CONTAINERD`` names a folder with another containerd."""
    other = os.environ.get("BENCH_CONTAINERD")
    if other:
        os.environ["PATH"] = f"{other}:{os.environ['PATH']}"
    if shutil.which("containerd") is None or shutil.which("ctr") is None:
        pytest.skip("containerd is not installed, there is nothing to compare with")
    archive = busybox_archive(disk / "busybox.tar")
    ours, theirs = disk / "ours", disk / "theirs"
    ours.mkdir()
    theirs.mkdir()
    daemon = DaemonProcess(ours, arguments=("--log-level", "info"), environment=compiled(disk))
    daemon.start()
    try:
        with StockContainerd(theirs) as stock:
            pair = (
                Side("ours", Ctr(daemon.address, "bench-ours"), daemon.pid),
                Side("containerd", Ctr(stock.address, "bench-stock"), stock.pid),
            )
            # Namespaces of their own, because runc knows containers by namespace and id alone.
            for side in pair:
                side.ctr("image", "import", str(archive))
            try:
                yield pair
            finally:
                for side in pair:
                    clear(side)
    finally:
        daemon.stop_if_running()
        daemon.cleanup()


@pytest.fixture
def versus(sides: tuple[Side, Side], benchmark: BenchmarkFixture) -> Versus:
    return Versus(sides[0], sides[1], benchmark)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _ROWS:
        return
    terminalreporter.section("ours beside containerd, in one run")
    for name, unit, ours, theirs in _ROWS:
        terminalreporter.write_line(
            f"{name:<44} {unit:<12} {ours:>10.3f} {theirs:>10.3f}   ratio {ours / theirs:.2f}"
        )
