"""What a starting daemon finds in its folders: rubbish, stale sockets, and what it was not there to see."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import clean

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import BUSYBOX_IMAGE, busybox_archive
from containerd_hybrid.testing.leaks import mounts_below
from containerd_hybrid.testing.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
def ctr(daemon: DaemonProcess, token: str, tmp_path: Path) -> Iterator[Ctr]:
    ctr = Ctr(daemon.address, token)
    ctr("image", "import", str(busybox_archive(tmp_path / "busybox.tar")))
    yield ctr
    clean(ctr)


def folder_of_bundles(daemon: DaemonProcess, token: str) -> Path:
    return daemon.state / "io.containerd.runtime.v2.task" / token


def pid_of(ctr: Ctr, id: str) -> int:
    (line,) = (line for line in ctr("task", "ls").splitlines()[1:] if line.split()[0] == id)
    return int(line.split()[1])


def test_the_exit_that_nobody_saw_is_told_when_the_daemon_is_back(
    daemon: DaemonProcess, ctr: Ctr, token: str
) -> None:
    ctr("run", "-d", BUSYBOX_IMAGE, "c", "sh", "-c", "while [ ! -e /end ]; do sleep 0.02; done; exit 9")
    pid = pid_of(ctr, "c")
    daemon.kill()
    (Path(f"/proc/{pid}/root") / "end").touch()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the container does not end")
    # The daemon listens for shims elsewhere at first, so that we are there before the event is.
    other = daemon.folder / "other.ttrpc"
    daemon.write_config(f'version = 3\n[ttrpc]\naddress = "{other}"\n')
    Path(daemon.ttrpc_address).unlink(missing_ok=True)
    daemon.start()
    seen = daemon.folder / "events"
    with seen.open("wb") as file:
        events = ctr.start("events", stdout=file, stderr=file)
        try:
            number = 0
            while b"/namespaces/update" not in seen.read_bytes():
                ctr("namespace", "label", token, f"number={(number := number + 1)}")
            assert b"/tasks/exit" not in seen.read_bytes()
            Path(daemon.ttrpc_address).symlink_to(other)
            until(lambda: b"/tasks/exit" in seen.read_bytes(), "no event comes")
        finally:
            events.terminate()
            events.wait()
    (line,) = (line for line in seen.read_text().splitlines() if "/tasks/exit" in line)
    event = json.loads(line[line.index("{") :])
    assert (event["container_id"], event["pid"], event["exit_status"]) == ("c", pid, 9)
    assert f" {token} " in line
    assert "exit code 9" in ctr.run("task", "delete", "c").stderr


def test_rubbish_in_the_state_folder_keeps_no_daemon_from_starting(
    daemon: DaemonProcess, ctr: Ctr, token: str
) -> None:
    ctr("run", "-d", BUSYBOX_IMAGE, "real", "sleep", "1000")
    daemon.kill()
    top = folder_of_bundles(daemon, token)

    def bundle(name: str, **files: str) -> Path:
        folder = top / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file.replace("__", ".")).write_text(text)
        return folder

    bundle("empty")
    bundle("only-config", config__json="{}")
    bundle("broken-config", config__json="{")
    bundle("broken-bootstrap", config__json="{}", bootstrap__json="{nonsense")
    bundle("no-socket", config__json="{}", bootstrap__json=bootstrap("unix:///no/such/socket"))
    bundle("odd-protocol", config__json="{}", bootstrap__json=bootstrap("unix:///x", protocol="smoke"))
    bundle("file-for-folder").rmdir()
    (top / "file-for-folder").write_text("a file")
    os.mkfifo(bundle("fifo-for-address") / "address")
    os.mkfifo(bundle("fifo-for-bootstrap") / "bootstrap.json")
    os.mkfifo(bundle("fifo-for-program") / "shim-binary-path")
    (bundle("dangling") / "work").symlink_to("/no/such/folder")
    bundle(".half-removed", config__json="{}")
    bundle("not an identifier", config__json="{}")
    # A socket that was left when its shim was killed.
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(daemon.folder / "stale"))
    stale.close()
    bundle("stale", config__json="{}", bootstrap__json=bootstrap(f"unix://{daemon.folder}/stale"))
    bundle("stale-old", config__json="{}", address=f"unix://{daemon.folder}/stale")
    (daemon.state / "io.containerd.runtime.v2.task" / "a-file").write_text("")
    (daemon.state / "what-is-this").mkdir()

    daemon.start()
    lines = [line.split() for line in ctr("task", "ls").splitlines()[1:]]
    assert [(line[0], line[2]) for line in lines] == [("real", "RUNNING")]
    assert ctr("task", "exec", "--exec-id", "e", "real", "echo", "here") == "here\n"
    # What is no bundle by its name, and where a shim may run that cannot be reached, is reported and left.
    kept = ["broken-bootstrap", "not an identifier", "odd-protocol"]
    assert sorted(path.name for path in top.iterdir()) == sorted([*kept, "file-for-folder", "real"])
    for name in kept:
        assert f"{token}/{name}" in daemon.log
    (top / "file-for-folder").unlink()
    (top / "not an identifier" / "config.json").unlink()
    (top / "not an identifier").rmdir()
    # The names are free again.
    for name in ("stale", "empty", "fifo-for-address", "broken-bootstrap", "odd-protocol"):
        ctr("run", "--rm", BUSYBOX_IMAGE, name, "true")


def bootstrap(address: str, protocol: str = "ttrpc") -> str:
    return json.dumps({"version": 3, "address": address, "protocol": protocol})


def test_a_shim_that_takes_connections_and_never_answers(daemon: DaemonProcess, ctr: Ctr, token: str) -> None:
    daemon.kill()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(daemon.folder / "silent"))
        silent.listen(64)
        bundle = folder_of_bundles(daemon, token) / "silent"
        bundle.mkdir(parents=True)
        (bundle / "config.json").write_text("{}")
        (bundle / "bootstrap.json").write_text(bootstrap(f"unix://{daemon.folder}/silent"))
        daemon.write_config('version = 3\n[timeouts]\n"io.containerd.timeout.shim.load" = "1s"\n')
        daemon.start()
        assert f"{token}/silent" in daemon.log
        # Others are served meanwhile.
        ctr("run", "--rm", BUSYBOX_IMAGE, "c", "true")
        daemon.kill()
    daemon.start()
    assert ctr("task", "ls", "-q") == ""
    assert not bundle.exists()


def test_what_is_mounted_in_a_bundle_is_unmounted_and_not_deleted(
    daemon: DaemonProcess, ctr: Ctr, token: str, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("of the host")
    daemon.kill()
    bundle = folder_of_bundles(daemon, token) / "half"
    (bundle / "rootfs").mkdir(parents=True)
    (bundle / "config.json").write_text("{}")
    bind(precious, bundle / "rootfs")
    hidden = folder_of_bundles(daemon, token) / ".half-removed"
    (hidden / "rootfs").mkdir(parents=True)
    bind(precious, hidden / "rootfs")
    daemon.start()
    assert (precious / "file").read_text() == "of the host"
    assert not bundle.exists()
    # A removal begins by unmounting: a mount in what is half removed is not ours to judge, it is reported.
    if hidden.exists():
        assert str(hidden) in daemon.log
        subprocess.run(["umount", str(hidden / "rootfs")], check=True)
        daemon.restart(crash=True)
        assert not hidden.exists()
    assert mounts_below(daemon.folder) == []
    assert (precious / "file").read_text() == "of the host"


def bind(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), None, 4096, None):  # MS_BIND
        raise OSError(ctypes.get_errno(), "mount", str(target))


def test_sigterm_ends_the_daemon_while_containers_run_and_clients_wait(
    daemon: DaemonProcess, ctr: Ctr, token: str
) -> None:
    ctr("run", "-d", BUSYBOX_IMAGE, "c", "sh", "-c", "while [ ! -e /end ]; do sleep 0.02; done; exit 4")
    waits = ctr.start("task", "attach", "c", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    watches = ctr.start("events", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    pid = pid_of(ctr, "c")
    assert daemon.stop() == 0
    assert Path(f"/proc/{pid}").exists()
    _, said = waits.communicate()
    assert waits.returncode != 0, said
    watches.wait()
    daemon.start()
    (Path(f"/proc/{pid}/root") / "end").touch()
    until(lambda: "STOPPED" in ctr("task", "ls"), "the container does not end")
    assert "exit code 4" in ctr.run("task", "delete", "c").stderr
