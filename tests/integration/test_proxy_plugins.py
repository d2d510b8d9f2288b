"""Snapshotters, content and differs of another daemon: a real containerd behind ours."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import clean

from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import LeakCheck
from containerd_hybrid.testing.waiting import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        "CONTAINERD_ADDRESS_FOR_TESTS" in os.environ, reason="the daemon needs a configuration of its own"
    ),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="containerd is not installed"),
]
BUSYBOX = "docker.io/library/busybox:latest"
# A proxy takes the place of the plug-in whose name it has.
BEHIND_OURS = """\
version = 4
disabled_plugins = ["io.containerd.content.v1.content"]
[proxy_plugins.native]
  type = "snapshot"
  address = "{address}"
[proxy_plugins.stock]
  type = "content"
  address = "{address}"
  platform = "linux/arm64"
  capabilities = ["one", "two"]
  exports = {{ colour = "blue" }}
[proxy_plugins.walking]
  type = "io.containerd.differ.v1"
  address = "{address}"
[proxy_plugins.pods]
  type = "sandbox"
  address = "{address}"
[proxy_plugins.odd]
  type = "cake"
  address = "{address}"
"""


@pytest.fixture
def stock(leak_check: LeakCheck, short_folder: Path) -> Iterator[StockContainerd]:
    folder = short_folder / "stock"
    folder.mkdir()
    with StockContainerd(folder) as running:
        yield running


@pytest.fixture
def daemon(leak_check: LeakCheck, short_folder: Path, stock: StockContainerd) -> Iterator[DaemonProcess]:
    folder = short_folder / "ours"
    folder.mkdir()
    with DaemonProcess(folder, config=BEHIND_OURS.format(address=stock.address)).serving(
        leak_check
    ) as process:
        yield process


def _snapshots(ctr: Ctr, name: str) -> list[list[str]]:
    """Their names with the parents', if any, and kinds."""
    return [line.split() for line in ctr("snapshot", "--snapshotter", name, "ls").splitlines()[1:]]


def test_a_container_from_another_daemons_snapshots_and_content(
    daemon: DaemonProcess, stock: StockContainerd, token: str, busybox_tar: Path
) -> None:
    ours, theirs = Ctr(daemon.address, token), Ctr(stock.address, token)
    content = Ctr(stock.address, "containerd-hybrid")
    theirs("image", "import", "--no-unpack", str(busybox_tar))  # for the differ, which has its own namespaces
    ours("image", "import", "--snapshotter", "native", str(busybox_tar))
    manifest = ours("image", "ls").splitlines()[1].split()[2]
    assert manifest in content("content", "ls", "-q").split()
    kept = _snapshots(theirs, "native")
    assert [kind for *_, kind in kept] == ["Committed"]
    assert kept[0][0].startswith(f"{token}/")
    said = ours("run", "--rm", "--snapshotter", "native", BUSYBOX, "c", "sh", "-c", "echo hi > /f; cat /f")
    assert said == "hi\n"
    ours("image", "rm", "--sync", BUSYBOX)
    assert _snapshots(ours, "native") == _snapshots(theirs, "native") == []
    assert content("content", "ls", "-q") == ""
    clean(ours)


def test_plug_ins_show_what_they_are(daemon: DaemonProcess, token: str) -> None:
    ours = Ctr(daemon.address, token)
    listed = {tuple(line.split()[:2]): line.split()[2:] for line in ours("plugins", "ls").splitlines()}
    assert listed["io.containerd.content.v1", "stock"] == ["linux/arm64", "ok"]
    assert listed["io.containerd.sandbox.controller.v1", "pods"][-1] == "ok"
    assert listed["io.containerd.differ.v1", "walking"][-1] == "ok"
    assert not [name for _, name in listed if name == "odd"]
    daemon.wait_for_log("unknown proxy plugin type")
    detailed = ours("plugins", "ls", "-d", "id==stock")
    for expected in ("one", "two", "colour", "blue"):
        assert expected in detailed


def test_who_is_not_there_is_named(daemon: DaemonProcess, stock: StockContainerd, token: str) -> None:
    ours = Ctr(daemon.address, token)
    stock.stop()
    failed = ours.run("snapshot", "--snapshotter", "native", "prepare", "key")
    assert failed.returncode
    assert f"proxy plugin native at {stock.address}" in failed.stderr
    assert failed.stderr.rstrip().endswith("unavailable")
    assert _snapshots(ours, "native") == []
    stock.start()
    prepare = ("snapshot", "--snapshotter", "native", "prepare", "key")
    until(lambda: ours.run(*prepare).returncode == 0, "the connection comes back")
    assert _snapshots(ours, "native") == [["key", "Active"]]
    ours("snapshot", "--snapshotter", "native", "rm", "key")
