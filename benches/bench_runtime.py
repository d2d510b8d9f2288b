"""The whole way, as a client sees it: import, run, many at once, output, memory; the OCI runtime alone."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import containerd_hybrid
from benches.conftest import Side, Versus
from containerd_hybrid.client.stdio import Streams
from containerd_hybrid.testing.images import (
    BUSYBOX_IMAGE,
    ImageArchive,
    add_file,
    add_folder,
    busybox_program,
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


@pytest.fixture
def accounts(sides: tuple[Side, Side]) -> Iterator[dict[str, Path]]:
    """A cpuacct cgroup for each daemon and all that it starts from now on."""
    top = Path("/sys/fs/cgroup/cpuacct")
    if not (top / "cpuacct.usage").exists():
        pytest.skip("the whole tree's processor time is read from cgroup v1's cpuacct")
    before = next(
        line.split(":", 2)[2]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if "cpuacct" in line.split(":")[1].split(",")
    )
    groups = {side.name: top / f"bench-{side.name}-{os.getpid()}" for side in sides}
    for side in sides:
        groups[side.name].mkdir()
        (groups[side.name] / "cgroup.procs").write_text(str(side.pid))
    try:
        yield groups
    finally:
        for side in sides:
            (top / before.lstrip("/") / "cgroup.procs").write_text(str(side.pid))
        for group in groups.values():
            for hierarchy in Path("/sys/fs/cgroup").glob(f"*/{group.name}"):
                hierarchy.rmdir()


def test_processor_time_of_the_whole_tree(versus: Versus, accounts: dict[str, Path]) -> None:
    """Client, daemon, shim, runtime and container; of many runs, because the rest goes on after a run."""
    rounds = 20
    used: dict[str, float] = {}

    def runs(side: Side) -> None:
        group = accounts[side.name]
        enter = f'echo 0 > {group}/tasks; exec "$@"'
        begin = int((group / "cpuacct.usage").read_text())
        for number in range(rounds):
            name = f"tree-{number}"
            run = (
                "run",
                "--rm",
                "--seccomp",
                "--cgroup",
                f"/{group.name}/{name}",
                BUSYBOX_IMAGE,
                name,
                "true",
            )
            subprocess.run(["sh", "-c", enter, "sh", *side.ctr.command(*run)], check=True)
        time.sleep(1)
        used[side.name] = (int((group / "cpuacct.usage").read_text()) - begin) / 1e6 / rounds

    runs(versus.theirs)
    versus.benchmark.pedantic(runs, args=(versus.ours,), rounds=1)
    versus.note("run --rm true, whole tree", "ms of CPU", used["ours"], used["containerd"])


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


def test_exec_by_the_library(versus: Versus) -> None:
    """Without a client's start: from the call until the exit is known, and 4 MiB of output."""
    for side in (versus.ours, versus.theirs):
        side.ctr("run", "-d", BUSYBOX_IMAGE, "stays", "sleep", "100000")
    shortest: dict[tuple[str, str], float] = {}

    def execs(side: Side) -> None:
        with containerd_hybrid.connect(side.ctr.address, side.ctr.namespace) as client:
            stays = client.containers.get("stays")
            for what, args in {
                "exec": ["true"],
                "4 MiB": ["dd", "if=/dev/zero", "bs=256k", "count=16"],
            }.items():
                times = []
                for _ in range(20):
                    begin = time.perf_counter()
                    process = stays.exec(args, Streams(stdout=lambda _: None))
                    assert process.wait().status == 0
                    process.detach()
                    times.append(time.perf_counter() - begin)
                shortest[side.name, what] = min(times) * 1000

    try:
        execs(versus.theirs)
        versus.benchmark.pedantic(execs, args=(versus.ours,), rounds=1)
    finally:
        for side in (versus.ours, versus.theirs):
            side.ctr("task", "delete", "--force", "stays")
            side.ctr("container", "delete", "stays")
    versus.note("exec true, library", "ms, minimum", shortest["ours", "exec"], shortest["containerd", "exec"])
    more = {name: shortest[name, "4 MiB"] - shortest[name, "exec"] for name in ("ours", "containerd")}
    versus.note("4 MiB more of output", "ms, minimum", more["ours"], more["containerd"])


@pytest.fixture
def config(versus: Versus) -> dict[str, Any]:
    """What ``ctr run --seccomp`` makes of the image's configuration."""
    side = versus.ours
    side.ctr("container", "create", "--seccomp", BUSYBOX_IMAGE, "spec", "true")
    try:
        spec: dict[str, Any] = json.loads(side.ctr("container", "info", "--spec", "spec"))
    finally:
        side.ctr("container", "delete", "spec")
    return spec


def test_the_runtime_alone(versus: Versus, config: dict[str, Any], disk: Path) -> None:
    """create, start, the program's end, delete: our program beside runc, with the same bundle."""
    ours = Path(containerd_hybrid.__file__).parent / "_bin" / "containerd-hybrid-runtime"
    programs = {"ours": str(ours) if ours.exists() else "containerd-hybrid-runtime", "containerd": "runc"}
    bundle = disk / "bundle"
    for folder in ("bin", "dev", "proc", "sys", "run", "tmp", "etc"):
        (bundle / "rootfs" / folder).mkdir(parents=True)
    shutil.copy(busybox_program(), bundle / "rootfs/bin/true")
    config["root"] = {"path": "rootfs"}
    group = f"bench-runtime-{os.getpid()}"

    def cycle(side: Side) -> None:
        command = [programs[side.name], "--root", str(disk / f"runtime-{side.name}")]
        name = f"cycle-{side.name}"
        config["linux"]["cgroupsPath"] = f"/{group}/{name}"
        (bundle / "config.json").write_text(json.dumps(config))
        quiet = subprocess.DEVNULL
        create = [*command, "create", "--bundle", str(bundle), name]
        subprocess.run(create, stdin=quiet, stdout=quiet, stderr=quiet, check=True)
        subprocess.run([*command, "start", name], check=True)
        while b"stopped" not in subprocess.run([*command, "state", name], capture_output=True).stdout:
            pass
        subprocess.run([*command, "delete", name], check=True)

    try:
        versus.time("create, start, delete by the program", cycle, rounds=15, daemon=False)
    finally:
        for hierarchy in Path("/sys/fs/cgroup").glob(f"*/{group}"):
            hierarchy.rmdir()
        shutil.rmtree(bundle)


def test_twenty_at_once(versus: Versus) -> None:
    def run(side: Side) -> None:
        with ThreadPoolExecutor(20) as pool:
            list(
                pool.map(lambda n: side.ctr("run", "--rm", BUSYBOX_IMAGE, f"at-once-{n}", "true"), range(20))
            )

    versus.time("20 × run --rm true at once", run, rounds=3)


def test_two_hundred_at_once(versus: Versus) -> None:
    """All are running before the first is ended; by the library, for 200 clients are more work than that."""

    async def all_at_once(side: Side) -> None:
        client = await containerd_hybrid.connect_async(side.ctr.address, side.ctr.namespace)

        async def start(number: int) -> Callable[[], Any]:
            container = await client.containers.create(BUSYBOX_IMAGE, ["sleep", "1000"], id=f"many-{number}")
            await container.start()
            return lambda: container.remove(force=True)

        try:
            ends = await asyncio.gather(*(start(number) for number in range(200)))
            await asyncio.gather(*(end() for end in ends))
        finally:
            await client.close()

    def run(side: Side) -> None:
        asyncio.run(all_at_once(side))
        assert side.ctr("task", "ls", "-q") == side.ctr("container", "ls", "-q") == ""
        assert not list(Path("/sys/fs/cgroup").glob(f"*/{side.ctr.namespace}/many-*"))
        assert "/many-" not in Path("/proc/self/mountinfo").read_text()

    versus.time("200 running at once, and ended", run, rounds=1)


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
        try:
            container = int(side.ctr("task", "ls").split("idle")[1].split()[0])
            shim = int(Path(f"/proc/{container}/stat").read_text().rpartition(") ")[2].split()[1])
            time.sleep(2)  # that is what idle means
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
