"""The daemon is killed at many moments of an operation: nothing half-made shows, and nothing stays."""

from __future__ import annotations

import contextlib
import hashlib
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.conftest import clean

from containerd_hybrid.testing.ctr import Ctr, end_ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import (
    ImageArchive,
    add_file,
    add_folder,
    busybox_layer,
    tar_of,
    write_archive,
)
from containerd_hybrid.testing.leaks import LeakCheck, mounts_below
from containerd_hybrid.testing.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]

IMAGE = "example.com/moments:1"
MOMENTS = 15


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox, a layer of one large file that does not compress, and one of many small files."""
    chance = random.Random(7)

    def small(archive: object) -> None:
        for folder in range(20):
            add_folder(archive, f"small/{folder}")  # type: ignore[arg-type]
            for file in range(50):
                add_file(archive, f"small/{folder}/{file}", b"%d" % file)  # type: ignore[arg-type]

    layers = [
        busybox_layer(),
        tar_of(lambda archive: add_file(archive, "large", chance.randbytes(12 << 20))),
        tar_of(small),
    ]
    image = ImageArchive(IMAGE, layers, {"Env": ["PATH=/bin"], "WorkingDir": "/"})
    return write_archive(tmp_path_factory.mktemp("moments") / "image.tar", [image])


@dataclass(frozen=True, slots=True)
class World:
    """One daemon and a namespace of it."""

    daemon: DaemonProcess
    ctr: Ctr
    check: LeakCheck
    archive: Path

    def kill_during(self, *arguments: str, after: float) -> None:
        """Start ``ctr``, kill the daemon ``after`` seconds, and start the next one."""
        process = self.ctr.start(
            *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(after)
        self.daemon.kill()
        end_ctr(process)
        self.daemon.start()

    def bundles(self) -> set[str]:
        folder = self.daemon.state / "io.containerd.runtime.v2.task" / self.ctr.namespace
        return {path.name for path in folder.iterdir()} if folder.exists() else set()

    def tasks(self) -> dict[str, str]:
        return {line.split()[0]: line.split()[2] for line in self.ctr("task", "ls").splitlines()[1:]}

    def processes(self) -> list[str]:
        """What the test started and still runs, but for the daemon."""
        mine = f"{self.daemon.pid} "
        found = [leak.what for leak in self.check.leaks() if leak.kind == "process"]
        return [what for what in found if not what.startswith(mine)]

    def mounts(self) -> list[str]:
        return mounts_below(self.daemon.folder)

    def blobs(self) -> list[Path]:
        return list((self.daemon.root / "io.containerd.content.v1.content" / "blobs").glob("*/*"))

    def ingests(self) -> list[Path]:
        return list((self.daemon.root / "io.containerd.content.v1.content" / "ingest").glob("*"))

    def snapshots(self) -> list[Path]:
        return list((self.daemon.root / "io.containerd.snapshotter.v1.overlayfs" / "snapshots").glob("*"))

    def listed(self) -> set[str]:
        """The blobs that clients are told of."""
        return {digest.partition(":")[2] for digest in self.ctr("content", "ls", "-q").split()}

    def _tasks_of_bundles(self) -> tuple[dict[str, str], ...]:
        """The tasks, when they are those of the bundles; else nothing."""
        tasks = self.tasks()
        return (tasks,) if set(tasks) == self.bundles() else ()

    def assert_whole(self) -> None:
        """All that can be seen is all there: nothing is half-made."""
        for blob in self.blobs():
            with contextlib.suppress(FileNotFoundError):  # the collector is at work meanwhile
                assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        listed = self.listed()
        gone = listed - {blob.name for blob in self.blobs()}
        assert not gone & self.listed()
        if self.ctr("image", "ls", "-q"):
            assert "complete" in self.ctr("image", "check"), self.ctr("image", "check")
        # A shim that was about to leave may do so meanwhile.
        tasks = until(self._tasks_of_bundles, lambda: f"{self.tasks()} and {self.bundles()}")[0]
        assert set(tasks.values()) <= {"CREATED", "RUNNING", "STOPPED"}
        assert set(tasks) <= set(self.ctr("container", "ls", "-q").split())

    def assert_everything_goes(self) -> None:
        """Whatever is there can be removed, and with it everything on disk and every process."""
        clean(self.ctr)
        # Collects at once what was held by nothing any more.
        self.ctr("leases", "create", "--id", "collect")
        self.ctr("leases", "rm", "--sync", "collect")
        until_empty("bundles", self.bundles)
        until_empty("processes", self.processes)
        until_empty("mounts", self.mounts)
        until_empty("blobs", self.blobs)
        until_empty("ingests", self.ingests)
        until_empty("snapshots", self.snapshots)


def until_empty(name: str, what: Callable[[], object]) -> None:
    until(lambda: not what(), lambda: f"no {name}, but {what()}")


@pytest.fixture
def world(daemon: DaemonProcess, token: str, leak_check: LeakCheck, archive: Path) -> World:
    return World(daemon, Ctr(daemon.address, token), leak_check, archive)


def moments(duration: float) -> list[float]:
    """From before the first call to after the last, one in each fifteenth."""
    return [duration * 1.1 * (number + random.random()) / MOMENTS for number in range(MOMENTS)]


def timed(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def test_killed_while_an_image_is_imported(world: World) -> None:
    again = ("image", "import", str(world.archive))
    duration = timed(lambda: world.ctr(*again))
    world.assert_everything_goes()
    for moment in moments(duration):
        world.kill_during(*again, after=moment)
        world.assert_whole()
        world.ctr(*again)
        # Told by its status: ctr drops the output of what ends before ctr has opened the FIFO.
        complete = f"test $(ls small | wc -l) = 20 && test $(wc -c < large) = {12 << 20}"
        world.ctr("run", "--rm", IMAGE, "c", "sh", "-c", complete)
        world.assert_whole()
        world.assert_everything_goes()


def test_killed_while_a_container_is_run(world: World) -> None:
    world.ctr("image", "import", str(world.archive))
    run = ("run", "-d", IMAGE, "c", "sleep", "1000")
    duration = timed(lambda: world.ctr(*run))
    world.ctr("task", "delete", "--force", "c")
    world.ctr("container", "delete", "c")
    for moment in moments(duration):
        world.kill_during(*run, after=moment)
        world.assert_whole()
        if "c" in world.tasks():
            world.ctr.run("task", "delete", "--force", "c")
        if world.ctr("container", "ls", "-q"):
            world.ctr("container", "delete", "c")
        # ctr removes neither when it is cut off before it has made a container of it.
        world.ctr.run("snapshot", "rm", "c")
        until_empty("bundles", world.bundles)
        until_empty("processes", world.processes)
        until_empty("mounts", world.mounts)
        world.ctr("run", "--rm", IMAGE, "c", "true")
    world.assert_everything_goes()


def test_killed_while_a_task_is_deleted(world: World) -> None:
    world.ctr("image", "import", str(world.archive))
    run = ("run", "-d", IMAGE, "c", "sleep", "1000")
    delete = ("task", "delete", "--force", "c")
    world.ctr(*run)
    duration = timed(lambda: world.ctr(*delete))
    world.ctr("container", "delete", "c")
    for moment in moments(duration):
        world.ctr(*run)
        world.kill_during(*delete, after=moment)
        world.assert_whole()
        # Whose shim may be about to leave by itself.
        if "c" in world.tasks():
            world.ctr.run(*delete)
        until_empty("tasks", world.tasks)
        world.ctr("container", "delete", "c")
        until_empty("bundles", world.bundles)
        until_empty("processes", world.processes)
        until_empty("mounts", world.mounts)
    world.assert_everything_goes()


def test_killed_while_twenty_containers_come_and_go(world: World) -> None:
    """Creation, start, exit and removal of many, all under way when the daemon is killed."""
    world.ctr("image", "import", str(world.archive))
    for moment in (0.3, 0.8, 1.6):
        running = [
            world.ctr.start(
                *("run", "--rm", IMAGE, f"c{number}", "sh", "-c", f"sleep 0.{number % 5}"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(20)
        ]
        time.sleep(moment)
        world.daemon.kill()
        for process in running:
            end_ctr(process)
        world.daemon.start()
        world.assert_whole()
        for task in world.tasks():
            world.ctr.run("task", "delete", "--force", task)
        for container in world.ctr("container", "ls", "-q").split():
            world.ctr("container", "delete", container)
        until_empty("bundles", world.bundles)
        until_empty("processes", world.processes)
        until_empty("mounts", world.mounts)
    world.assert_everything_goes()


def test_an_import_cut_off_by_its_client_leaves_what_the_next_one_goes_on_from(world: World) -> None:
    """The client dies, not the daemon: no mount and no working snapshot is in the next one's way."""
    again = ("image", "import", str(world.archive))
    duration = timed(lambda: world.ctr(*again))
    world.assert_everything_goes()
    for moment in moments(duration)[::3]:
        process = world.ctr.start(*again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        process.kill()
        process.wait()
        world.ctr(*again)
        world.assert_whole()
        world.assert_everything_goes()
