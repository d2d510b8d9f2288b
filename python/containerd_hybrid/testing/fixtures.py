"""pytest fixtures. Use them with ``pytest_plugins = ["containerd_hybrid.testing.fixtures"]``."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd_hybrid.testing.blocking import BlockingGuard
from containerd_hybrid.testing.daemon import DaemonProcess, unmount_below
from containerd_hybrid.testing.leaks import TOKEN_VARIABLE, LeakCheck, mounts_below


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks that the fixtures read."""
    config.addinivalue_line(
        "markers", "may_block: code of ours may make blocking calls on the event loop here"
    )
    config.addinivalue_line("markers", "slow_callback(seconds): no callback may use more processor time")


@pytest.fixture
def blocking_guard(request: pytest.FixtureRequest) -> Iterator[BlockingGuard]:
    """Fails the test when code of the package blocks its event loop (see ``testing.blocking``)."""
    slow = request.node.get_closest_marker("slow_callback")
    guard = BlockingGuard(slow_seconds=slow.args[0] if slow else None)
    if request.node.get_closest_marker("may_block"):
        yield guard
        return
    with guard.active():
        yield guard
    guard.check()


@pytest.fixture
def token() -> str:
    """A word for the names of what a test makes: its namespace, cgroups, network namespaces."""
    return "t" + secrets.token_hex(4)


@pytest.fixture
def leak_check(
    token: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LeakCheck]:
    """Fails the test when it leaves mounts, namespaces, cgroups, processes or temporary files."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    check = LeakCheck(token, [tmp_path], temporary)
    yield check
    leaks = check.wait_clean()
    assert not leaks, "left behind: " + "; ".join(map(str, leaks))


@pytest.fixture
def short_folder(leak_check: LeakCheck) -> Iterator[Path]:
    """A folder with a short path, because a socket's path has 104 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    leak_check.watch(folder)
    yield folder
    leaks = leak_check.wait_clean()
    # Never remove what is below a mount: with a bind mount that would be the host's files.
    unmount_below(folder)
    if not mounts_below(folder):
        shutil.rmtree(folder)
    assert not leaks, "left behind: " + "; ".join(map(str, leaks))


@pytest.fixture
def daemon(leak_check: LeakCheck, short_folder: Path) -> Iterator[DaemonProcess]:
    """A daemon that serves. It is stopped at the end, and what a failed test left is taken away."""
    with DaemonProcess(short_folder).serving(leak_check) as process:
        yield process
