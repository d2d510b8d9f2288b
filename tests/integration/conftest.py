"""A daemon for the tests of this folder, and ``ctr`` with a namespace of its own for each test.

``CONTAINERD_ADDRESS_FOR_TESTS`` names a daemon that runs already: with a real containerd there, the
tests show that they ask for what containerd does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.images import busybox_archive
from containerd_hybrid.testing.leaks import remove_cgroups


@pytest.fixture(scope="session")
def busybox_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_archive(tmp_path_factory.mktemp("images") / "busybox.tar")


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    given = os.environ.get("CONTAINERD_ADDRESS_FOR_TESTS")
    if given:
        return given
    daemon: DaemonProcess = request.getfixturevalue("daemon")
    return daemon.address


@pytest.fixture
def ctr(address: str, token: str, busybox_tar: Path) -> Iterator[Ctr]:
    """``ctr`` in a fresh namespace with the busybox image; what a test left there fails it."""
    client = Ctr(address, token)
    client("image", "import", str(busybox_tar))
    try:
        yield client
        assert client("task", "ls", "-q") == ""
        assert client("container", "ls", "-q") == ""
    finally:
        clean(client)


def clean(ctr: Ctr) -> None:
    """Remove everything in the namespace, and it."""
    for task in ctr("task", "ls", "-q").split():
        ctr.run("task", "delete", "--force", task)
    for container in ctr("container", "ls", "-q").split():
        ctr.run("container", "delete", container)
    for snapshot in reversed([line.split()[0] for line in ctr("snapshot", "ls").splitlines()[1:]]):
        ctr.run("snapshot", "rm", snapshot)
    images = ctr("image", "ls", "-q").split()
    if images:
        ctr("image", "rm", "--sync", *images)
    for lease in ctr("leases", "ls", "-q").split():
        ctr.run("leases", "rm", "--sync", lease)
    for snapshot in reversed([line.split()[0] for line in ctr("snapshot", "ls").splitlines()[1:]]):
        ctr.run("snapshot", "rm", snapshot)
    for digest in ctr("content", "ls", "-q").split():
        ctr.run("content", "rm", digest)
    ctr("namespace", "rm", ctr.namespace)
    remove_cgroups(ctr.namespace)
