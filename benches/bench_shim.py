"""The shim by itself: many at once with nothing left, output into FIFOs and files, memory of an idle one."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benches.conftest import Side, Versus
from containerd_hybrid.testing.images import BUSYBOX_IMAGE

_MANY = 200
# As many clients as this start containers at a time: a client takes a process and some memory itself.
_CLIENTS = 20


def test_two_hundred_at_once(versus: Versus) -> None:
    """All run at the same time; then all are stopped and deleted, and nothing of them is left."""

    def names(side: Side) -> list[str]:
        return [f"many-{side.name}-{number}" for number in range(_MANY)]

    def start(side: Side, name: str) -> None:
        side.ctr("run", "-d", BUSYBOX_IMAGE, name, "sleep", "100000")

    def run(side: Side) -> None:
        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(lambda name: start(side, name), names(side)))
        assert side.ctr("task", "ls").count("RUNNING") == _MANY
        side.ctr("task", "delete", "--force", *names(side))
        side.ctr("container", "delete", *names(side))
        assert side.ctr("task", "ls", "-q") == ""
        mounts = Path("/proc/self/mountinfo").read_text()
        assert not any(f"/{name}/" in mounts for name in names(side))
        for name in names(side):
            assert not list(Path("/sys/fs/cgroup").glob(f"*/{side.ctr.namespace}/{name}"))

    versus.time(f"{_MANY} at once: start, stop, delete", run, rounds=2)


def test_output_into_a_file(versus: Versus, tmp_path: Path) -> None:
    """The shim appends what the container writes: 1 GiB through ``--log-uri file://``."""

    def run(side: Side) -> None:
        log = tmp_path / f"{side.name}.log"
        side.ctr("run", "-d", "--log-uri", f"file://{log}", BUSYBOX_IMAGE, "much", *_WRITER)
        # containerd's shim tells of the exit before it has written everything.
        while log.stat().st_size < 1 << 30:
            time.sleep(0.001)
        side.ctr("task", "delete", "--force", "much")
        side.ctr("container", "delete", "much")
        log.unlink()

    versus.time("1 GiB into a log file", run, rounds=3, daemon=False)


_WRITER = ("dd", "if=/dev/zero", "bs=1M", "count=1024", "status=none")


def test_four_mib_there_and_back(versus: Versus) -> None:
    """4 MiB through standard input, ``cat``, and standard output, a hundred times."""
    data = bytes(4 << 20) * 100

    def run(side: Side) -> None:
        command = side.ctr.command("run", "--rm", BUSYBOX_IMAGE, "echo", "head", "-c", str(len(data)))
        done = subprocess.run(command, input=data, stdout=subprocess.DEVNULL, check=True)
        assert done.returncode == 0

    versus.time("400 MiB through stdin and stdout", run, rounds=3, daemon=False)
