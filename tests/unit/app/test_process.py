"""The daemon as a process: locks, folders, inheritance, the service manager, stack dumps."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from containerd_hybrid.app import stacks
from containerd_hybrid.app.notify import READY, Notifier
from containerd_hybrid.app.process import FolderLocks, make_folders, set_oom_score
from containerd_hybrid.errors import FailedPreconditionError, InvalidConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Folders


def test_folders_have_their_modes_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        make_folders(tmp_path / "a" / "root", tmp_path / "state", tmp_path / "temp")
    finally:
        os.umask(previous)
    assert [mode(tmp_path / name) for name in ("a/root", "state", "temp")] == [0o700, 0o711, 0o700]


def test_a_root_that_is_too_open_is_closed_and_a_state_folder_is_left_as_it_is(tmp_path: Path) -> None:
    for name in ("root", "state"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    make_folders(tmp_path / "root", tmp_path / "state", None)
    assert (mode(tmp_path / "root"), mode(tmp_path / "state")) == (0o700, 0o755)


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="different paths"):
        make_folders(tmp_path, tmp_path, None)
    with pytest.raises(InvalidConfigError, match="absolute"):
        make_folders(Path("relative"), tmp_path, None)


# Locks


def test_one_daemon_for_a_folder(tmp_path: Path) -> None:
    for name in ("root", "state", "other"):
        (tmp_path / name).mkdir()
    first, second = FolderLocks(), FolderLocks()
    first.take(tmp_path / "root", tmp_path / "state")
    with pytest.raises(FailedPreconditionError) as caught:
        second.take(tmp_path / "other", tmp_path / "state")
    assert caught.value.message.startswith(
        f"{tmp_path}/state is in use by the daemon with process id {os.getpid()}:"
    )
    first.release()
    second.take(tmp_path / "other", tmp_path / "state")
    second.release()


def test_the_lock_goes_with_the_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from containerd_hybrid.app.process import FolderLocks\n"
        "FolderLocks().take(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"locked\n"
    locks = FolderLocks()
    with pytest.raises(FailedPreconditionError, match=str(child.pid)):
        locks.take(tmp_path)
    child.kill()
    child.communicate()
    locks.take(tmp_path)
    locks.release()


def test_a_containerd_that_runs_is_noticed(tmp_path: Path) -> None:
    database = tmp_path / "io.containerd.metadata.v1.bolt" / "meta.db"
    database.parent.mkdir()
    with database.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FailedPreconditionError, match="in use by containerd"):
            FolderLocks().take(tmp_path)
    locks = FolderLocks()
    locks.take(tmp_path)
    locks.release()


def test_an_oom_score_out_of_range() -> None:
    with pytest.raises(InvalidConfigError, match="between -1000 and 1000"):
        set_oom_score(1001)


# Inheritance


def test_nothing_is_inherited(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from containerd_hybrid.app.process import shed_inheritance
own = [os.open(sys.argv[1], os.O_RDONLY) for _ in range(2)][1]  # the first takes the place of stdin
os.close(0)
shed_inheritance()
os.fstat(own)
try:
    os.fstat(int(sys.argv[2]))
    print("inherited")
except OSError:
    print("closed")
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), oct(os.umask(0)), signal.getsignal(signal.SIGCHLD).name)
print(os.readlink("/proc/self/fd/0"))
"""
    with (tmp_path / "file").open("w") as inherited:
        result = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "file"), str(inherited.fileno())],
            pass_fds=[inherited.fileno()],
            preexec_fn=lambda: (
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
                signal.signal(signal.SIGCHLD, signal.SIG_IGN),
                os.umask(0o077),
                os.close(0),
            ),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert result.stdout.splitlines() == ["closed", "set() 0o22 SIG_DFL", "/dev/null"]


# The service manager


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool
) -> None:
    name = f"@test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notifier = Notifier()
        assert "NOTIFY_SOCKET" not in os.environ, "children must not speak for the daemon"
        notifier.send(READY)
        assert manager.recv(100) == b"READY=1"
        with notifier.reloading():
            assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(100) == b"READY=1"


def test_a_service_manager_that_is_gone_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    Notifier().send(READY)
    assert "service manager was not told" in caplog.text


# Stack dumps


@pytest.mark.may_block
async def test_a_dump_has_threads_and_tasks_and_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    caplog.set_level(logging.INFO)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    path = tmp_path / f"containerd.{os.getpid()}.stacks.log"
    path.symlink_to(precious)

    async def waits_in_vain() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(waits_in_vain(), name="the waiter")
    await asyncio.sleep(0)
    stacks.dump(asyncio.get_running_loop())
    task.cancel()
    text = path.read_text()
    assert "waits_in_vain" in text
    assert "task the waiter" in text
    assert "[MainThread]" in text
    assert precious.read_text() == "mine"
    assert mode(path) == 0o600
    assert "BEGIN stack dump" in caplog.text
