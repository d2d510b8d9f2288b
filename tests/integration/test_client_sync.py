"""The library without async, against real daemons."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest
from tests.integration.client_worlds import World, world

import containerd_hybrid
from containerd_hybrid import Client, Status, Streams
from containerd_hybrid.errors import FailedPreconditionError, HybridError, UnavailableError
from containerd_hybrid.testing.leaks import remove_cgroups
from containerd_hybrid.testing.processes import arguments
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

pytestmark = pytest.mark.root
__all__ = ["world"]  # a fixture


@pytest.fixture
def client(world: World, token: str) -> Iterator[Client]:
    if world.address:
        connected = containerd_hybrid.connect(world.address, token)
    else:
        connected = containerd_hybrid.open(world.folder / "root", world.folder / "state", token)
    with connected:
        if world.name == "containerd":
            command = ["ctr", "-a", world.address, "-n", token, "image", "import", str(world.archive)]
            subprocess.run(command, check=True, capture_output=True)
        else:
            connected.images.import_archive(world.archive)
        try:
            yield connected
            assert connected.containers.list() == []
            until(lambda: not world.leftovers(), world.leftovers)
        finally:
            for info in connected.containers.list():
                connected.containers.get(info.id).remove(force=True)
            for image in connected.images.list():
                connected.images.remove(image.name)
            remove_cgroups(token)
    until(lambda: "containerd-hybrid" not in [thread.name for thread in threading.enumerate()])


def test_a_life(client: Client) -> None:
    assert client.version()
    done = client.containers.run("busybox", ["sh", "-c", "cat; exit 3"], stdin=b"input")
    assert (done.status, done.stdout) == (3, b"input")
    container = client.containers.create("busybox", ["sleep", "1000"], id="life")
    process = container.start()
    assert process.status() is Status.RUNNING
    out = bytearray()
    other = container.exec(["echo", "beside"], Streams(stdout=out.extend))
    assert (other.wait().status, out) == (0, b"beside\n")
    other.delete()
    (info,) = client.containers.list()
    assert (info.id, info.pid) == ("life", process.pid)
    with pytest.raises(FailedPreconditionError):
        container.remove()
    # Before that it is runc, which a first signal may end.
    until(lambda: arguments(process.pid) == ["sleep", "1000"], lambda: arguments(process.pid))
    process.stop(timeout=0)
    assert process.wait().status == 137
    container.remove()
    with pytest.raises(HybridError):
        client.containers.get("life")


def test_control_c_ends_a_run_and_leaves_nothing(world: World, client: Client) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        until(lambda: any(info.status is Status.RUNNING for info in client.containers.list()))
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        client.containers.run("busybox", ["sleep", "1000"])
    thread.join(GIVE_UP_SECONDS)
    until(lambda: not client.containers.list())
    until(lambda: not world.leftovers(), world.leftovers)


def test_many_threads_share_a_client(client: Client) -> None:
    results: dict[int, bytes] = {}

    def run(number: int) -> None:
        results[number] = client.containers.run("busybox", ["echo", str(number)]).stdout

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GIVE_UP_SECONDS)
    assert results == {number: b"%d\n" % number for number in range(8)}


def test_events_end_with_the_loop_over_them(client: Client) -> None:
    seen: list[str] = []
    listening = threading.Event()

    def listen() -> None:
        for event in client.events(['topic=="/tasks/exit"']):
            seen.append(event.topic)
            break
        listening.set()

    def heard() -> bool:
        client.containers.run("busybox", ["true"])
        return listening.is_set()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    until(heard, "an event")
    thread.join(GIVE_UP_SECONDS)
    assert seen == ["/tasks/exit"]


def test_folders_in_use_are_refused(world: World, client: Client) -> None:
    if world.address:
        pytest.skip("only a runtime without a daemon has folders")
    with pytest.raises((FailedPreconditionError, UnavailableError)):
        containerd_hybrid.open(world.folder / "root", world.folder / "state")


def test_containers_outlive_a_runtime_without_a_daemon(world: World, token: str) -> None:
    if world.address:
        pytest.skip("only a runtime without a daemon ends with its client")
    place = (world.folder / "root", world.folder / "state", token)
    with containerd_hybrid.open(*place) as first:
        first.images.import_archive(world.archive)
        pid = first.containers.create("busybox", ["sleep", "1000"], id="stays").start().pid
    with containerd_hybrid.open(*place) as second:
        process = second.containers.get("stays").task()
        assert (process.pid, process.status()) == (pid, Status.RUNNING)
        second.containers.get("stays").remove(force=True)
        second.images.remove("busybox")
    remove_cgroups(token)
