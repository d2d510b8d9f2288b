"""A real containerd's images become ours: by links, checked, once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import ImageArchive, add_file, busybox_layer, tar_of, write_archive
from containerd_hybrid.testing.leaks import remove_cgroups

pytestmark = pytest.mark.root

BUSYBOX = "docker.io/library/busybox:latest"
OTHER = "docker.io/library/other:1"


@pytest.fixture
def stock(short_folder: Path, token: str) -> Iterator[Path]:
    """The root of a containerd that has run: two namespaces, two images, leases."""
    folder = short_folder / "stock"
    folder.mkdir()
    archive = write_archive(
        short_folder / "images.tar",
        [
            ImageArchive(BUSYBOX, [busybox_layer()]),
            ImageArchive(OTHER, [tar_of(lambda tar: add_file(tar, "file", b"x" * 9000))]),
        ],
    )
    with StockContainerd(folder) as containerd:
        ctr = Ctr(containerd.address, token)
        ctr("image", "import", str(archive))
        ctr("image", "label", OTHER, "kept=yes")
        ctr("leases", "create", "--id", "forever", "--expires", "0", "why=test")
        ctr("namespace", "create", f"{token}-more", "made=there")
    return folder / "root"


@pytest.fixture
def cgroups(daemon: DaemonProcess, token: str) -> Iterator[None]:
    """The namespace's own, which containers leave."""
    yield
    remove_cgroups(token)


def hyctl(daemon: DaemonProcess, namespace: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "containerd_hybrid.cli.main", "--address", daemon.address]
    return subprocess.run(
        [*command, "--namespace", namespace, *arguments], capture_output=True, text=True, check=False
    )


def told(daemon: DaemonProcess, token: str, *arguments: str) -> list[dict[str, Any]]:
    done = hyctl(daemon, token, "adopt", "--json", *arguments)
    assert done.stderr == "", done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def blobs(root: Path) -> Path:
    return root / "io.containerd.content.v1.content/blobs/sha256"


@pytest.mark.usefixtures("cgroups")
def test_images_of_a_containerd_run_here(daemon: DaemonProcess, token: str, stock: Path) -> None:
    there = {path.name: path.stat().st_ino for path in blobs(stock).iterdir()}
    planned = told(daemon, token, "--dry-run", str(stock))
    assert hyctl(daemon, token, "image", "ls", "-q").stdout == ""
    adopted = told(daemon, token, "--verify", str(stock))
    assert planned == adopted
    assert {one["Outcome"] for one in adopted} == {"adopted"}
    assert {one["Name"] for one in adopted if one["Kind"] == "image"} == {BUSYBOX, OTHER}
    # The same files, not copies of them. (The archive's index belongs to no image; it may be collected.)
    ours = {path.name: path.stat().st_ino for path in blobs(daemon.root).iterdir()}
    assert len(ours) >= 6
    assert ours.items() <= there.items()
    assert hyctl(daemon, token, "gc", "run").returncode == 0
    done = hyctl(daemon, token, "run", "--rm", "busybox", "echo", "as before")
    assert (done.returncode, done.stdout) == (0, "as before\n"), done.stderr
    ctr = Ctr(daemon.address, token)
    assert "why=test" in ctr("leases", "ls")
    assert "made=there" in ctr("namespace", "ls")
    assert "kept=yes" in ctr("image", "ls")
    # Once more changes nothing.
    again = told(daemon, token, str(stock))
    assert {one["Outcome"] for one in again if one["Kind"] != "content"} == {"present"}
    assert "were here already" in hyctl(daemon, token, "adopt", str(stock)).stdout


def test_damaged_and_missing_blobs_are_told_and_not_taken(
    daemon: DaemonProcess, token: str, stock: Path
) -> None:
    sizes = sorted((path.stat().st_size, path.name) for path in blobs(stock).iterdir())
    (_, gone), (_, flipped) = sizes[-2:]
    (blobs(stock) / gone).unlink()
    path = blobs(stock) / flipped
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    adopted = told(daemon, token, "--verify", "--only", token, str(stock))
    outcomes = {one["Name"].removeprefix("sha256:"): one["Outcome"] for one in adopted}
    assert outcomes[gone] == "missing"
    assert outcomes[flipped] == "damaged"
    here = {path.name for path in blobs(daemon.root).iterdir()}
    assert not here & {gone, flipped}
    assert f"{token}-more" not in Ctr(daemon.address, token)("namespace", "ls")
    done = hyctl(daemon, token, "adopt", "--only", token, str(stock))
    assert done.returncode == 1
    assert f"{token}: content sha256:{gone}: missing" in done.stdout


def test_what_cannot_be_adopted_is_said(
    daemon: DaemonProcess, token: str, short_folder: Path, stock: Path
) -> None:
    nothing = hyctl(daemon, token, "adopt", str(short_folder))
    assert "no containerd has the root" in nothing.stderr
    assert "has no namespace nowhere" in hyctl(daemon, token, "adopt", "--only", "nowhere", str(stock)).stderr
    with StockContainerd(stock.parent):
        running = hyctl(daemon, token, "adopt", str(stock))
    assert (running.returncode, "stop the containerd" in running.stderr) == (1, True)


@pytest.mark.usefixtures("cgroups")
def test_a_copy_where_links_are_impossible(
    daemon: DaemonProcess, token: str, stock: Path, short_folder: Path
) -> None:
    elsewhere = short_folder / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "adopt", elsewhere], check=True)
    try:
        subprocess.run(["cp", "-a", f"{stock}/.", elsewhere], check=True)
        assert {one["Outcome"] for one in told(daemon, token, str(elsewhere))} == {"adopted"}
    finally:
        subprocess.run(["umount", elsewhere], check=True)
    assert {path.name for path in blobs(daemon.root).iterdir()} <= {p.name for p in blobs(stock).iterdir()}
    assert list((daemon.root / "io.containerd.content.v1.content/ingest").iterdir()) == []
    assert hyctl(daemon, token, "run", "--rm", "busybox", "true").returncode == 0


def test_a_daemon_does_not_start_on_the_root_of_a_containerd(stock: Path, short_folder: Path) -> None:
    before = sorted(path.name for path in blobs(stock).iterdir())
    command = [sys.executable, "-m", "containerd_hybrid.app.main", "--root", str(stock)]
    places = ["--state", str(short_folder / "s"), "--address", str(short_folder / "a.sock")]
    config = short_folder / "none.toml"
    config.write_text("version = 3\n")
    done = subprocess.run(
        [*command, *places, "--config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"hyctl adopt {stock}" in done.stderr
    assert sorted(path.name for path in blobs(stock).iterdir()) == before
