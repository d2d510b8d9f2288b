"""The whole way, as a client sees it: import and unpack, run, many at once, output, memory."""

from __future__ import annotations

import random
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benches.conftest import Side, Versus
from containerd_hybrid.testing.images import (
    BUSYBOX_IMAGE,
    ImageArchive,
    add_file,
    add_folder,
    tar_of,
    write_archive,
)

_MIXED = "example.com/bench/mixed:1"
_TINY = "example.com/bench/tiny:1"


@pytest.fixture(scope="session")
def mixed_archive(disk: Path) -> Path:
    """Four layers of 64 MiB with files of all sizes, half of their bytes compressible."""
    chance = random.Random(1)

    def fill(archive: tarfile.TarFile, number: int) -> None:
        left, count = 64 << 20, 0
        while left > 0:
            size = min(left, int(chance.paretovariate(0.7) * 2000))
            half = chance.randbytes(size // 2)
            add_file(archive, f"layer{number}/file{count}", half + b"x" * (size - len(half)))
            left -= max(size, 1)
            count += 1

    layers = [tar_of(lambda archive, number=number: fill(archive, number)) for number in range(4)]
    return write_archive(disk / "mixed.tar", [ImageArchive(_MIXED, layers)])


@pytest.fixture(scope="session")
def tiny_archive(disk: Path) -> Path:
    """One layer of 20,000 tiny files."""

    def fill(archive: tarfile.TarFile) -> None:
        for folder in range(200):
            add_folder(archive, f"d{folder}")
            for file in range(100):
                add_file(archive, f"d{folder}/f{file}", b"tiny %d" % file)

    return write_archive(disk / "tiny.tar", [ImageArchive(_TINY, [tar_of(fill)])])


def test_import_and_unpack_of_a_mixed_image(versus: Versus, mixed_archive: Path) -> None:
    versus.time(
        "import+unpack, 4 × 64 MiB",
        lambda side: side.ctr("image", "import", str(mixed_archive)),
        rounds=3,
        reset=lambda side: side.ctr("image", "rm", "--sync", _MIXED),
    )


def test_import_and_unpack_of_tiny_files(versus: Versus, tiny_archive: Path) -> None:
    versus.time(
        "import+unpack, 20,000 tiny files",
        lambda side: side.ctr("image", "import", str(tiny_archive)),
        rounds=3,
        reset=lambda side: side.ctr("image", "rm", "--sync", _TINY),
    )


def test_run_true(versus: Versus) -> None:
    versus.time(
        "run --rm true", lambda side: side.ctr("run", "--rm", BUSYBOX_IMAGE, "one", "true"), rounds=15
    )


def test_exec_true(versus: Versus) -> None:
    for side in (versus.ours, versus.theirs):
        side.ctr("run", "-d", BUSYBOX_IMAGE, "stays", "sleep", "100000")
    try:
        versus.time(
            "task exec true",
            lambda side: side.ctr("task", "exec", "--exec-id", str(time.monotonic_ns()), "stays", "true"),
            rounds=15,
        )
    finally:
        for side in (versus.ours, versus.theirs):
            side.ctr("task", "delete", "--force", "stays")
            side.ctr("container", "delete", "stays")


def test_twenty_at_once(versus: Versus) -> None:
    def run(side: Side) -> None:
        with ThreadPoolExecutor(20) as pool:
            list(
                pool.map(lambda n: side.ctr("run", "--rm", BUSYBOX_IMAGE, f"at-once-{n}", "true"), range(20))
            )

    versus.time("20 × run --rm true at once", run, rounds=3)


def test_one_gib_of_output(versus: Versus) -> None:
    def run(side: Side) -> None:
        command = side.ctr.command(
            "run", "--rm", BUSYBOX_IMAGE, "much", "dd", "if=/dev/zero", "bs=1M", "count=1024"
        )
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    # Shims copy it; the daemons have no part in it.
    versus.time("1 GiB of output", run, rounds=3, daemon=False)


def test_memory_of_daemon_and_shim(versus: Versus) -> None:
    def measured(side: Side) -> dict[str, float]:
        side.ctr("run", "-d", BUSYBOX_IMAGE, "idle", "sleep", "100000")
        time.sleep(1)
        try:
            container = int(side.ctr("task", "ls").split("idle")[1].split()[0])
            shim = int(Path(f"/proc/{container}/stat").read_text().rpartition(") ")[2].split()[1])
            return {"daemon": pss(side.pid), "shim": pss(shim)}
        finally:
            side.ctr("task", "delete", "--force", "idle")
            side.ctr("container", "delete", "idle")

    ours = versus.benchmark.pedantic(measured, args=(versus.ours,), rounds=1)
    theirs = measured(versus.theirs)
    for what in ("daemon", "shim"):
        versus.note(f"memory of the {what}", "MiB PSS", ours[what], theirs[what])


def pss(pid: int) -> float:
    """Proportional set size in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no Pss of {pid}")
