"""Layers stored once: images whose blobs were dropped, or are recipes, run, and leave as they came."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import (
    ImageArchive,
    add_file,
    busybox_layer,
    tar_of,
    write_archive,
)
from containerd_hybrid.testing.leaks import remove_cgroups

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/once:1"
LABEL = "io.containerd.hybrid/unpacked-layers"


@pytest.fixture
def archive(short_folder: Path) -> Path:
    upper = tar_of(lambda tar: add_file(tar, "etc/said", b"hello\n" * 5000))
    return write_archive(
        short_folder / "once.tar", [ImageArchive(IMAGE, [busybox_layer(), upper], compress=False)]
    )


@pytest.fixture
def ctr(daemon: DaemonProcess, token: str) -> Iterator[Ctr]:
    yield Ctr(daemon.address, token)
    remove_cgroups(token)


def hyctl(daemon: DaemonProcess, token: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "containerd_hybrid.cli.main", "--address", daemon.address]
    return subprocess.run(
        [*command, "--namespace", token, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def bring(daemon: DaemonProcess, ctr: Ctr, archive: Path, policy: str) -> None:
    """Import and unpack; the collector has been there afterwards."""
    ctr("namespaces", "create", ctr.namespace, f"{LABEL}={policy}")
    for arguments in (("image", "import", str(archive)), ("gc", "run")):
        done = hyctl(daemon, ctr.namespace, *arguments)
        assert done.returncode == 0, done.stderr


def layers_in(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        names = {entry.name: entry for entry in tar.getmembers()}

        def read(name: str) -> bytes:
            file = tar.extractfile(names[name])
            assert file is not None
            return file.read()

        def document(digest: str) -> Any:
            return json.loads(read(f"blobs/sha256/{digest.removeprefix('sha256:')}"))

        (manifest,) = json.loads(read("index.json"))["manifests"]
        layers = [layer["digest"] for layer in document(manifest["digest"])["layers"]]
        for layer in layers:
            data = read(f"blobs/sha256/{layer.removeprefix('sha256:')}")
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer
        return layers


def stored(daemon: DaemonProcess, layers: list[str]) -> list[str]:
    content = daemon.root / "io.containerd.content.v1.content"
    return [
        kind
        for layer in layers
        for kind in ("blobs", "recipes")
        if (content / kind / "sha256" / layer.removeprefix("sha256:")).exists()
    ]


def says_hello(ctr: Ctr) -> bool:
    return ctr("run", "--rm", IMAGE, "c", "wc", "-l", "/etc/said").split()[0] == "5000"


def test_an_image_whose_blobs_were_dropped(
    daemon: DaemonProcess, ctr: Ctr, archive: Path, short_folder: Path
) -> None:
    layers = layers_in(archive)
    bring(daemon, ctr, archive, "drop")
    assert stored(daemon, layers) == []
    assert says_hello(ctr)
    (line,) = [line for line in ctr("images", "check").splitlines() if IMAGE in line]
    assert " incomplete (" in line
    assert line.split()[-1] == "true"  # unpacked
    out = short_folder / "out.tar"
    done = hyctl(daemon, ctr.namespace, "image", "export", "-o", str(out), IMAGE)
    assert done.returncode == 1
    assert "was dropped after it had been unpacked with overlayfs" in done.stderr


def test_an_image_whose_blobs_are_recipes(
    daemon: DaemonProcess, ctr: Ctr, archive: Path, short_folder: Path
) -> None:
    layers = layers_in(archive)
    bring(daemon, ctr, archive, "recipe")
    assert stored(daemon, layers) == ["recipes", "recipes"]
    assert says_hello(ctr)
    (line,) = [line for line in ctr("images", "check").splitlines() if IMAGE in line]
    assert " complete (" in line
    # By the daemon, and by a client that reads the blobs itself in many parts.
    ours, theirs = short_folder / "ours.tar", short_folder / "theirs.tar"
    done = hyctl(daemon, ctr.namespace, "image", "export", "-o", str(ours), IMAGE)
    assert done.returncode == 0, done.stderr
    ctr("image", "export", str(theirs), IMAGE)
    assert layers_in(ours) == layers_in(theirs) == layers
    done = hyctl(daemon, ctr.namespace, "fsck", "--json", "--only", ctr.namespace)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["Layers"], summary["PassedOver"]) == (2, 0)
    # Files that a disk has changed are told of, and the image leaves nothing.
    (said,) = (daemon.root / "io.containerd.snapshotter.v1.overlayfs/snapshots").glob("*/fs/etc/said")
    said.write_bytes(b"HELLO\n" * 5000)
    done = hyctl(daemon, ctr.namespace, "fsck", "--json", "--only", ctr.namespace)
    problem = json.loads(done.stdout.splitlines()[0])
    assert (done.returncode, problem["Kind"], problem["Name"]) == (1, "content", layers[1])
    assert "cannot be made of the files" in problem["What"]
    ctr("image", "rm", "--sync", IMAGE)
    assert stored(daemon, layers) == []


def test_recipes_outlive_a_daemon_that_is_killed(
    daemon: DaemonProcess, ctr: Ctr, archive: Path, short_folder: Path
) -> None:
    layers = layers_in(archive)
    bring(daemon, ctr, archive, "recipe")
    daemon.kill()
    daemon.start()
    out = short_folder / "out.tar"
    done = hyctl(daemon, ctr.namespace, "image", "export", "-o", str(out), IMAGE)
    assert done.returncode == 0, done.stderr
    assert layers_in(out) == layers
    assert stored(daemon, layers) == ["recipes", "recipes"]
