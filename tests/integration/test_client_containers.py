"""The library's containers, on a stock containerd, on our daemon, and in process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.client_worlds import World, client, world

from containerd_hybrid import AsyncClient, AsyncContainer, MountPoint, RunOptions, Status, Streams
from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HybridError,
    InvalidArgumentError,
    NotFoundError,
)
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until_async

pytestmark = pytest.mark.root
__all__ = ["client", "world"]  # fixtures


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


# --- running to the end


async def test_exit_code_and_both_streams(client: AsyncClient) -> None:
    done = await client.containers.run("busybox", shell("echo out; echo err >&2; exit 7"))
    assert (done.status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


async def test_the_images_own_command_runs_without_another(client: AsyncClient) -> None:
    done = await client.containers.run("busybox", stdin=b"echo $0; exit 3\n")
    assert (done.status, done.stdout) == (3, b"/bin/sh\n")


async def test_an_entrypoint_of_the_callers_replaces_the_images(client: AsyncClient) -> None:
    options = RunOptions(entrypoint=("echo", "first"))
    assert (await client.containers.run("busybox", ["second"], options=options)).stdout == b"first second\n"


async def test_256_mib_of_output_are_whole(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", ["head", "-c", str(256 << 20), "/dev/zero"])
    digest, count = hashlib.sha256(), 0

    def take(data: bytes) -> None:
        nonlocal count
        digest.update(data)
        count += len(data)

    process = await container.start(Streams(stdout=take))
    assert (await process.wait()).status == 0
    assert count == 256 << 20
    expected = hashlib.sha256()
    for _ in range(256):
        expected.update(bytes(1 << 20))
    assert digest.digest() == expected.digest()
    await container.remove(force=True)


async def test_much_on_both_streams_at_once(client: AsyncClient) -> None:
    script = "yes out | head -c 20000000 & yes err | head -c 20000000 >&2; wait"
    done = await client.containers.run("busybox", shell(script))
    assert done.stdout == b"out\n" * 5_000_000
    assert done.stderr == b"err\n" * 5_000_000


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 20_000_003])
async def test_input_to_its_end(client: AsyncClient, size: int) -> None:
    data = os.urandom(size)
    done = await client.containers.run("busybox", ["sha256sum"], stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_input_that_is_not_read_keeps_nobody(client: AsyncClient) -> None:
    done = await client.containers.run("busybox", ["true"], stdin=bytes(10 << 20))
    assert done.status == 0


async def test_without_input_there_is_none(client: AsyncClient) -> None:
    assert (await client.containers.run("busybox", ["cat"])).stdout == b""


async def test_input_and_output_by_descriptors(client: AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"line\n" * 100_000)
    reading, writing = os.pipe()
    with (tmp_path / "in").open("rb") as source, os.fdopen(reading, "rb") as pipe:
        reader = asyncio.ensure_future(asyncio.to_thread(pipe.read))
        container = await client.containers.create("busybox", ["cat"])
        process = await container.start(Streams(stdin=source.fileno(), stdout=writing))
        await process.wait()
        os.close(writing)
        assert await reader == b"line\n" * 100_000
    await container.remove(force=True)


async def test_input_that_comes_little_by_little(client: AsyncClient) -> None:
    reading, writing = os.pipe()
    seen = bytearray()
    container = await client.containers.create("busybox", shell("while read line; do echo got $line; done"))
    process = await container.start(Streams(stdin=reading, stdout=seen.extend))
    for word in (b"one", b"two"):
        os.write(writing, word + b"\n")
        await until_async(lambda word=word: b"got " + word in seen, seen)
    os.close(writing)
    assert (await process.wait()).status == 0
    os.close(reading)
    await container.remove()


async def test_a_function_that_fails_does_not_stop_the_process(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", shell("yes | head -c 3000000; exit 5"))

    def fail(data: bytes) -> None:
        raise ValueError("no room")

    process = await container.start(Streams(stdout=fail))
    with pytest.raises(ValueError, match="no room"):
        await process.wait()
    assert (await process.delete()).status == 5
    await container.remove()


async def test_nobody_has_to_take_the_output(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", shell("yes | head -c 3000000; echo x >&2; exit 5"))
    process = await container.start(Streams(stdin=b""))
    assert (await process.wait()).status == 5
    await container.remove()
    container = await client.containers.create("busybox", shell("yes | head -c 3000000; exit 6"))
    assert (await (await container.start()).wait()).status == 6
    await container.remove()


# --- terminals


async def test_a_terminal(client: AsyncClient) -> None:
    reading, writing = os.pipe()
    seen = bytearray()
    # It ends when all has come: containerd 1.6's shim loses what a process wrote last to a terminal.
    script = "tty; stty size; read line; stty size; echo got $line; read end; exit 9"
    container = await client.containers.create("busybox", shell(script), options=RunOptions(terminal=True))
    process = await container.create_task(Streams(stdin=reading, stdout=seen.extend))
    await process.resize(100, 30)
    await process.start()
    await until_async(lambda: b"30 100\r\n" in seen, seen)
    await process.resize(120, 40)
    os.write(writing, b"typed\n")
    await until_async(lambda: b"40 120\r\ngot typed\r\n" in seen, seen)
    assert b"/dev/pts/0\r\n" in seen or b"/dev/console\r\n" in seen
    assert b"\ntyped\r\n" in seen  # the echo of the terminal
    os.write(writing, b"\n")
    assert (await process.wait()).status == 9
    os.close(writing)
    os.close(reading)
    await container.remove()


async def test_control_c_and_end_of_input_on_a_terminal(client: AsyncClient) -> None:
    for key, expected in ((b"\x03", 130), (b"\x04", 0)):
        reading, writing = os.pipe()
        seen = bytearray()
        script = "trap 'exit 130' INT; cat; exit $?"
        options = RunOptions(terminal=True)
        container = await client.containers.create("busybox", shell(script), options=options)
        process = await container.start(Streams(stdin=reading, stdout=seen.extend))
        # The terminal's echo, then cat's own: a key that comes before cat runs would reach the shell alone.
        os.write(writing, b"typed\n")
        await until_async(lambda seen=seen: seen.count(b"typed") == 2, seen)
        os.write(writing, key)
        assert (await process.wait()).status == expected
        os.close(writing)
        os.close(reading)
        await container.remove()


async def test_a_terminal_that_nobody_looks_at(client: AsyncClient) -> None:
    options = RunOptions(terminal=True)
    container = await client.containers.create("busybox", shell("yes | head -c 1000000"), options=options)
    assert (await (await container.start()).wait()).status == 0
    await container.remove()


# --- one step after the other


async def test_a_life(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", ["sleep", "1000"], id="life", labels={"k": "v"})
    info = await container.info()
    assert (info.id, info.status, info.labels["k"], info.args) == ("life", None, "v", ["sleep", "1000"])
    with pytest.raises(NotFoundError):
        await container.task()
    process = await container.create_task()
    assert await process.status() is Status.CREATED
    await process.start()
    assert await process.status() is Status.RUNNING
    assert process.pid > 0
    assert Path(f"/proc/{process.pid}").exists()
    (listed,) = await client.containers.list()
    assert (listed.status, listed.pid, listed.image) == (
        Status.RUNNING,
        process.pid,
        "docker.io/library/busybox:latest",
    )
    with pytest.raises(AlreadyExistsError):
        await container.create_task()
    with pytest.raises(FailedPreconditionError, match="container 'life' still runs: stop it first"):
        await container.remove()
    await process.kill("KILL")
    assert (await process.wait()).status == 137
    assert await process.status() is Status.STOPPED
    (listed,) = await client.containers.list()
    assert (listed.status, listed.exit_status) == (Status.STOPPED, 137)
    assert listed.exited_at > listed.created_at
    assert (await process.delete()).status == 137
    again = await container.start()
    await again.stop(timeout=0.1)
    await container.remove()
    with pytest.raises(NotFoundError):
        await client.containers.get("life")


async def test_another_client_finds_it_and_waits_for_it(world: World, client: AsyncClient) -> None:
    container = await client.containers.create("busybox", ["sleep", "1000"], id="shared")
    await container.start()
    if world.address:
        async with await world.connect(client.namespace) as other:
            process = await (await other.containers.get("shared")).task()
            waiting = asyncio.ensure_future(process.wait())
            await process.kill(signal.SIGKILL)
            assert (await waiting).status == 137
    await container.remove(force=True)


async def test_stop_asks_first(client: AsyncClient) -> None:
    script = "trap 'exit 42' TERM; touch /ready; while true; do sleep 0.05; done"
    container = await client.containers.create("busybox", shell(script))
    process = await container.start()
    await until_async(lambda: is_there(container, "/ready"), "the trap")
    await process.stop("TERM", timeout=GIVE_UP_SECONDS)
    assert (await process.delete()).status == 42
    await container.remove()


async def is_there(container: AsyncContainer, path: str) -> bool:
    process = await container.exec(["test", "-e", path])
    try:
        return (await process.wait()).status == 0
    finally:
        await process.delete()


async def test_pause_and_resume_and_the_removal_of_one_that_is_paused(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", ["sleep", "1000"])
    process = await container.start()
    await process.pause()
    assert await process.status() is Status.PAUSED
    await process.resume()
    assert await process.status() is Status.RUNNING
    await process.pause()
    await container.remove(force=True)


async def test_removal_of_one_that_never_ran(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", ["sleep", "1000"])
    await container.remove()
    container = await client.containers.create("busybox", ["sleep", "1000"])
    await container.create_task()
    await container.remove(force=True)


async def test_labels_change(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", labels={"a": "1", "b": "2"})
    await container.set_labels({"a": "", "c": "3"})
    labels = (await container.info()).labels
    assert "a" not in labels
    assert (labels["b"], labels["c"]) == ("2", "3")
    found = await client.containers.list(["labels.c==3"])
    assert [info.id for info in found] == [container.id]
    await container.remove()


# --- what it sees


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "uid=0(root) gid=0(root) groups=0(root)"),
        ("alice", "uid=1000(alice) gid=1000(alice) groups=10(wheel),44(video),1000(alice)"),
        ("1000", "uid=1000(alice) gid=1000(alice) groups=10(wheel),44(video),1000(alice)"),
        ("alice:video", "uid=1000(alice) gid=44(video) groups=44(video)"),
        ("1234", "uid=1234 gid=0(root) groups=0(root)"),
        ("1234:4321", "uid=1234 gid=4321 groups=4321"),
        ("nobody", "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)"),
    ],
)
async def test_users(client: AsyncClient, user: str, expected: str) -> None:
    done = await client.containers.run("busybox", ["id"], options=RunOptions(user=user))
    words = done.stdout.decode().split()
    groups = ",".join(sorted(words[2].removeprefix("groups=").split(","), key=lambda g: int(g.split("(")[0])))
    assert f"{words[0]} {words[1]} groups={groups}" == expected


async def test_a_user_that_the_image_does_not_know_leaves_no_snapshot(client: AsyncClient) -> None:
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match="no user 'bob' in the image's /etc/passwd"):
            await client.containers.create("busybox", id="same", options=RunOptions(user="bob"))
    await (await client.containers.create("busybox", id="same")).remove()


async def test_environment_folder_and_name(client: AsyncClient) -> None:
    options = RunOptions(
        env={"ADDED": "a b=c", "FROM_IMAGE": "changed"}, working_dir="/tmp", hostname="myname"
    )
    done = await client.containers.run(
        "busybox", shell("echo $ADDED; echo $FROM_IMAGE; pwd; hostname"), options=options
    )
    assert done.stdout.decode().splitlines() == ["a b=c", "changed", "/tmp", "myname"]


async def test_mounts(client: AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    options = RunOptions(
        mounts=(
            MountPoint(str(tmp_path), "/writable"),
            MountPoint.parse(f"{tmp_path}:/readable:ro"),
            MountPoint.parse("type=tmpfs,dst=/memory,options=size=1m:mode=700"),
        )
    )
    script = (
        "cat /readable/file; echo new > /writable/new; echo x > /readable/x 2>&1 || echo refused; "
        "grep -c ' /memory tmpfs .*size=1024k' /proc/mounts"
    )
    done = await client.containers.run("busybox", shell(script), options=options)
    assert done.stdout.decode().split() == ["content", "refused", "1"]
    assert (tmp_path / "new").read_text() == "new\n"


async def test_a_root_that_cannot_be_written(client: AsyncClient) -> None:
    script = "touch /x 2>/dev/null || echo refused; touch /tmp/x 2>/dev/null || echo refused"
    done = await client.containers.run("busybox", shell(script), options=RunOptions(read_only=True))
    assert done.stdout == b"refused\nrefused\n"


async def test_capabilities(client: AsyncClient) -> None:
    async def effective(options: RunOptions) -> int:
        done = await client.containers.run(
            "busybox", ["grep", "CapEff", "/proc/self/status"], options=options
        )
        return int(done.stdout.split()[1], 16)

    kill, net_admin = 1 << 5, 1 << 12
    usual = await effective(RunOptions())
    assert usual & kill
    assert not usual & net_admin
    changed = await effective(
        RunOptions(capabilities_added=("net_admin",), capabilities_dropped=("CAP_KILL",))
    )
    assert changed == (usual | net_admin) & ~kill
    assert await effective(RunOptions(capabilities_dropped=("ALL",))) == 0
    with pytest.raises(InvalidArgumentError, match="there is no capability 'FLY'"):
        await client.containers.create("busybox", options=RunOptions(capabilities_added=("FLY",)))


async def test_privileged(client: AsyncClient) -> None:
    script = (
        "ls /dev/kmsg /dev/loop-control; grep -c ' /sys sysfs rw' /proc/mounts; grep CapEff /proc/self/status"
    )
    done = await client.containers.run("busybox", shell(script), options=RunOptions(privileged=True))
    words = done.stdout.decode().split()
    assert words[:3] == ["/dev/kmsg", "/dev/loop-control", "1"]
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapBnd" in line)
    assert int(words[-1], 16) == int(own.split()[1], 16)


async def test_the_hosts_network(client: AsyncClient) -> None:
    script = "readlink /proc/self/ns/net; cat /etc/hosts | wc -l"
    inside = (await client.containers.run("busybox", shell(script))).stdout.split()
    shared = (
        await client.containers.run("busybox", shell(script), options=RunOptions(host_network=True))
    ).stdout.split()
    own = str(Path("/proc/self/ns/net").readlink()).encode()
    assert inside[0] != own
    assert shared[0] == own
    assert int(shared[1]) == Path("/etc/hosts").read_text().count("\n")


@contextmanager
def cgroup_file(pid: int, *names: str) -> Iterator[str]:
    """The first of the files that the process's cgroups have; v1 and v2 name them differently."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for folder in (*controllers.split(","), "", "unified"):
            for name in names:
                file = Path("/sys/fs/cgroup") / folder / path.lstrip("/") / name
                if file.exists():
                    yield file.read_text().strip()
                    return
    pytest.fail(f"no cgroup of {pid} has one of {names}")


async def test_limits(client: AsyncClient) -> None:
    options = RunOptions(memory_limit=64 << 20, cpus=0.5, pids_limit=50)
    container = await client.containers.create("busybox", ["sleep", "1000"], options=options)
    process = await container.start()
    with cgroup_file(process.pid, "memory.limit_in_bytes", "memory.max") as value:
        assert int(value) == 64 << 20
    with cgroup_file(process.pid, "cpu.cfs_quota_us", "cpu.max") as value:
        assert int(value.split()[0]) == 50_000
    with cgroup_file(process.pid, "pids.max") as value:
        assert int(value) == 50
    await container.remove(force=True)


async def test_who_takes_too_much_memory_is_killed(client: AsyncClient) -> None:
    done = await client.containers.run(
        "busybox", ["tail", "/dev/zero"], options=RunOptions(memory_limit=16 << 20)
    )
    assert done.status == 137


# --- further processes


async def test_exec(client: AsyncClient) -> None:
    container = await client.containers.create(
        "busybox", ["sleep", "1000"], options=RunOptions(env={"INIT": "i"}, working_dir="/tmp")
    )
    await container.start()
    out, err = bytearray(), bytearray()
    process = await container.exec(
        shell("echo $INIT $MORE; pwd; id -un; cat; echo err >&2; exit 3"),
        Streams(b"input", out.extend, err.extend),
        env={"MORE": "m"},
        user="alice",
    )
    assert (await process.wait()).status == 3
    assert out.decode().split() == ["i", "m", "/tmp", "alice", "input"]
    assert err == b"err\n"
    assert (await process.delete()).status == 3
    assert (await (await container.exec(["pwd"], working_dir="/home")).wait()).status == 0
    await container.remove(force=True)


async def test_exec_on_a_terminal(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", ["sleep", "1000"])
    await container.start()
    out = bytearray()
    reading, writing = os.pipe()
    script = "read x; stty size; echo $TERM; read x"
    process = await container.exec(shell(script), Streams(reading, out.extend), terminal=True)
    await process.resize(90, 20)
    os.write(writing, b"\n")
    await until_async(lambda: b"20 90\r\nxterm\r\n" in out, out)
    os.write(writing, b"\n")
    assert (await process.wait()).status == 0
    os.close(writing)
    os.close(reading)
    await process.delete()
    await container.remove(force=True)


async def test_an_exec_that_cannot_start_leaves_the_container_as_it_was(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", ["sleep", "1000"])
    init = await container.start()
    for _ in range(2):
        with pytest.raises(HybridError, match="nope"):
            await container.exec(["nope"], Streams(stdout=lambda data: None), exec_id="same")
    with pytest.raises(InvalidArgumentError, match="no user 'bob'"):
        await container.exec(["true"], user="bob")
    assert await init.status() is Status.RUNNING
    assert not list(Path("/run").glob(f"containerd-hybrid-fifo-{os.getpid()}-*"))
    await container.remove(force=True)


async def test_exec_needs_a_container_that_runs(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", ["sleep", "1000"], id="still")
    with pytest.raises(NotFoundError):
        await container.exec(["true"])
    process = await container.create_task()
    with pytest.raises(FailedPreconditionError, match="container 'still' does not run"):
        await container.exec(["true"])
    await process.discard()
    await container.remove()


async def test_what_an_exec_leaves_running_does_not_keep_its_caller(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", ["sleep", "1000"])
    await container.start()
    out = bytearray()
    process = await container.exec(shell("sleep 1000 & echo done"), Streams(stdout=out.extend))
    assert (await process.wait()).status == 0
    assert out == b"done\n"
    await process.delete()
    await container.remove(force=True)


# --- what goes wrong


@pytest.mark.parametrize("args", [["nope"], ["/tmp"], ["/etc/passwd"]])
async def test_a_failing_start_leaves_nothing(world: World, client: AsyncClient, args: list[str]) -> None:
    with pytest.raises(HybridError, match=args[0]):
        await client.containers.run("busybox", args, id="bad")
    container = await client.containers.create("busybox", args, id="bad")
    with pytest.raises(HybridError, match=args[0]):
        await container.start(Streams(b"", lambda data: None, lambda data: None))
    assert (await container.info()).status is None
    await until_async(lambda: not world.leftovers(), world.leftovers)
    await container.remove()


async def test_a_mount_of_something_that_is_not_there(world: World, client: AsyncClient) -> None:
    options = RunOptions(mounts=(MountPoint("/does/not/exist", "/x"),))
    with pytest.raises(HybridError, match="/does/not/exist"):
        await client.containers.run("busybox", ["true"], options=options)
    await until_async(lambda: not world.leftovers(), world.leftovers)


async def test_an_unknown_runtime_is_named(client: AsyncClient) -> None:
    with pytest.raises(HybridError, match=r"nope"):
        await client.containers.run("busybox", ["true"], runtime="io.containerd.nope.v1")


async def test_an_id_is_taken_once(client: AsyncClient) -> None:
    container = await client.containers.create("busybox", id="once")
    with pytest.raises(AlreadyExistsError, match="container 'once' already exists: remove it or choose"):
        await client.containers.create("busybox", id="once")
    assert await container.info()
    await container.remove()


async def test_an_image_that_is_not_here(client: AsyncClient) -> None:
    with pytest.raises(NotFoundError, match=r"image 'docker.io/library/nope:latest' not found"):
        await client.containers.create("nope")


async def test_limits_that_cannot_be(client: AsyncClient) -> None:
    for options in (RunOptions(memory_limit=-1), RunOptions(cpus=0), RunOptions(pids_limit=0)):
        with pytest.raises(InvalidArgumentError, match="too small"):
            await client.containers.create("busybox", options=options)


async def test_a_cancelled_run_leaves_nothing(world: World, client: AsyncClient) -> None:
    async def one_runs() -> bool:
        assert not running.done(), running.exception()
        return any(info.status is Status.RUNNING for info in await client.containers.list())

    async def none_is_left() -> bool:
        return not await client.containers.list()

    for steps in (0, 1, 5, 30):
        running = asyncio.ensure_future(client.containers.run("busybox", ["sleep", "1000"], stdin=b""))
        if steps == 30:
            await until_async(one_runs, "a container that runs")
        for _ in range(steps):
            await asyncio.sleep(0.002)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until_async(none_is_left, "no container any more")
    await until_async(lambda: not world.leftovers(), world.leftovers)


async def test_twenty_at_once(world: World, client: AsyncClient) -> None:
    done = await asyncio.gather(
        *(client.containers.run("busybox", shell(f"echo {n}; exit {n}")) for n in range(20))
    )
    assert [result.status for result in done] == list(range(20))
    assert [result.stdout for result in done] == [b"%d\n" % n for n in range(20)]


async def test_events_tell_the_story(client: AsyncClient) -> None:
    topics: list[str] = []
    listening = asyncio.Event()

    async def listen() -> None:
        async for event in client.events(['topic~="^/tasks/"', 'topic=="/containers/create"']):
            assert event.namespace == client.namespace
            listening.set()
            # Shims of those that ran before may still have something to tell.
            if "told" not in (event.fields.get("container_id"), event.fields.get("id")):
                continue
            topics.append(event.topic)
            if event.topic == "/tasks/delete":
                assert event.fields["exit_status"] == 3
                return

    async def listens() -> bool:
        await client.containers.run("busybox", ["true"])
        return listening.is_set() or task.done()

    task = asyncio.ensure_future(listen())
    await until_async(listens, "an event")
    await client.containers.run("busybox", shell("exit 3"), id="told")
    await asyncio.wait_for(task, GIVE_UP_SECONDS)
    assert topics == [
        "/containers/create",
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ]


async def test_threads_end_with_their_processes(client: AsyncClient) -> None:
    for _ in range(3):
        await client.containers.run("busybox", ["cat"], stdin=b"x")

    def left() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("stdio")]

    await until_async(lambda: not left(), left)


async def test_descriptors_do_not_pile_up(client: AsyncClient) -> None:
    async def run_some() -> int:
        for _ in range(10):
            await client.containers.run("busybox", ["cat"], stdin=b"x")
            with pytest.raises(HybridError):
                await client.containers.run("busybox", ["nope"])
        return len(list(Path("/proc/self/fd").iterdir()))

    # The first runs make threads and connections that are kept.
    before = await run_some()
    # Twenty processes more; one descriptor of each that stayed open would be twenty.
    assert await run_some() < before + 10


async def test_ctr_sees_the_same(world: World, client: AsyncClient) -> None:
    if not world.address:
        pytest.skip("nothing listens for ctr when there is no daemon")
    container = await client.containers.create("busybox", ["sleep", "1000"], id="both")
    process = await container.start()
    shown = subprocess.run(
        ["ctr", "-a", world.address, "-n", client.namespace, "task", "ls"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[1].split() == ["both", str(process.pid), "RUNNING"]
    await container.remove(force=True)
