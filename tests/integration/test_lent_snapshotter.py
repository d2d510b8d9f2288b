"""A real containerd with our snapshotter: its containers run on layers that our daemon keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import clean

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.ctr import Ctr, find_ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import LeakCheck, remove_cgroups

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd needs root"),
    pytest.mark.skipif(
        "CONTAINERD_ADDRESS_FOR_TESTS" in os.environ, reason="the daemon needs a configuration of its own"
    ),
]
BUSYBOX = "docker.io/library/busybox:latest"
OURS = """\
version = 4
[plugins."io.containerd.server.v1.snapshots"]
address = "{folder}/lent.sock"
snapshotters = {{ hybrid = "overlayfs", copies = "native" }}
"""
THEIRS = """
[proxy_plugins.hybrid]
  type = "snapshot"
  address = "{folder}/lent.sock"
[proxy_plugins.copies]
  type = "snapshot"
  address = "{folder}/lent.sock"
[proxy_plugins.unknown]
  type = "snapshot"
  address = "{folder}/lent.sock"
"""


@pytest.fixture
def daemon(leak_check: LeakCheck, short_folder: Path) -> Iterator[DaemonProcess]:
    folder = short_folder / "ours"
    folder.mkdir()
    with DaemonProcess(folder, config=OURS.format(folder=folder)).serving(leak_check) as process:
        yield process


@pytest.fixture(params=[1, 2], ids=["containerd1", "containerd2"])
def theirs(
    request: pytest.FixtureRequest, short_folder: Path, daemon: DaemonProcess, token: str
) -> Iterator[Ctr]:
    """ctr on a containerd that has our snapshotters."""
    try:
        program = find_ctr(request.param)
    except NotFoundError as error:
        pytest.skip(error.message)
    beside = Path(program).parent
    folder = short_folder / "theirs"
    folder.mkdir()
    with StockContainerd(
        folder,
        config=THEIRS.format(folder=daemon.folder),
        program=str(beside / "containerd"),
        environment={**os.environ, "PATH": f"{beside}:{os.environ['PATH']}"},
    ) as running:
        yield Ctr(running.address, token, program)
    # runc leaves what it made for the namespace.
    remove_cgroups(token)
    state = Path("/run/containerd/runc", token)
    if state.is_dir():
        state.rmdir()


def _names(ctr: Ctr, snapshotter: str) -> list[str]:
    lines = ctr("snapshots", "--snapshotter", snapshotter, "ls").splitlines()[1:]
    return sorted(line.split()[0] for line in lines)


@pytest.mark.parametrize(("name", "own"), [("hybrid", "overlayfs"), ("copies", "native")])
def test_containers_run_on_layers_that_our_daemon_keeps(
    daemon: DaemonProcess, theirs: Ctr, token: str, busybox_tar: Path, name: str, own: str
) -> None:
    ours, lent = Ctr(daemon.address, token), Ctr(daemon.address, f"lent-{name}")
    # The same image here, whose snapshots are nobody else's affair.
    ours("images", "import", "--snapshotter", own, str(busybox_tar))
    kept = _names(ours, own)
    assert len(kept) == 1
    local = () if theirs.program == find_ctr(1) else ("--local",)
    theirs("images", "import", *local, "--snapshotter", name, str(busybox_tar))
    assert [entry.rpartition("/")[2] for entry in _names(lent, own)] == kept
    run = ("run", "--rm", "--snapshotter", name, BUSYBOX)
    assert theirs(*run, "one", "sh", "-c", "echo hi > /f; cat /f") == "hi\n"
    theirs("snapshots", "--snapshotter", name, "prepare", "work", kept[0])
    assert '"lent"' not in theirs("snapshots", "--snapshotter", name, "info", "work")
    theirs("snapshots", "--snapshotter", name, "label", "work", "a=b")
    assert "a=b" in theirs("snapshots", "--snapshotter", name, "label", "work", "c=d")
    # Ours collects what is its own, and nothing that the other one has.
    ours("images", "rm", "--sync", BUSYBOX)
    assert _names(ours, own) == []
    assert {entry.rpartition("/")[2] for entry in _names(lent, own)} >= {kept[0], "work"}
    # The other one collects what it has here, and finds nothing else.
    theirs("snapshots", "--snapshotter", name, "rm", "work")
    theirs("images", "rm", "--sync", BUSYBOX)
    assert _names(theirs, name) == _names(lent, own) == []
    ours("images", "import", "--snapshotter", own, str(busybox_tar))
    theirs("snapshots", "--snapshotter", name, "prepare", "other")
    theirs("snapshots", "--snapshotter", name, "rm", "other")
    theirs("leases", "create", "--id", "gone")
    theirs("leases", "rm", "--sync", "gone")
    assert _names(ours, own) == kept
    assert _names(lent, own) == []
    refused = theirs.run("snapshots", "--snapshotter", "unknown", "prepare", "x")
    assert "snapshotter not loaded: unknown" in refused.stderr
    clean(ours)


def test_a_snapshotter_that_is_not_here_is_told_in_the_log(short_folder: Path) -> None:
    config = OURS.format(folder=short_folder).replace("native", "nowhere")
    daemon = DaemonProcess(short_folder, config=config)
    daemon.start()
    daemon.stop()
    assert "there is no snapshotter 'nowhere' here: use one of" in daemon.log
    assert not (short_folder / "lent.sock").exists()
