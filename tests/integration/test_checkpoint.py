"""Checkpoints through ``ctr``: of tasks, of containers, back into containers. criu is a fake that says so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.integration.test_ctr_run import remove, start_sleeper, wait_until_gone

from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonProcess

FAKE = str(Path(__file__).with_name("fake_criu_runc"))

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed"),
]


def sleeper(ctr: Ctr, id: str, runtime: str = FAKE) -> None:
    start_sleeper(ctr, id, "--runc-binary", runtime)


def checkpoint_images(ctr: Ctr) -> list[str]:
    return [name for name in ctr("image", "ls", "-q").split() if "checkpoint" in name]


def content(ctr: Ctr) -> set[str]:
    return set(ctr("content", "ls", "-q").split())


def scratch(daemon: DaemonProcess) -> list[Path]:
    return [path for path in daemon.root.rglob(".scratch-*") if path.exists()]


def test_a_task_is_checkpointed_and_runs_on_or_ends(ctr: Ctr) -> None:
    sleeper(ctr, "stays")
    sleeper(ctr, "ends")
    ctr("task", "checkpoint", "stays")
    ctr("task", "checkpoint", "--exit", "ends")
    wait_until_gone(ctr, "ends")
    assert "RUNNING" in ctr("task", "ls").split("stays")[1].splitlines()[0]
    assert sorted(name.split("/")[2].split(":")[0] for name in checkpoint_images(ctr)) == ["ends", "stays"]
    remove(ctr, "stays")
    remove(ctr, "ends")


def test_a_checkpoint_in_a_folder_makes_no_image(ctr: Ctr, tmp_path: Path) -> None:
    sleeper(ctr, "c1")
    ctr("task", "checkpoint", "--image-path", str(tmp_path), "c1")
    assert (tmp_path / "inventory.img").read_text() == "fake-criu dumped c1\n"
    assert checkpoint_images(ctr) == []
    remove(ctr, "c1")


def test_a_container_goes_on_in_another(ctr: Ctr, daemon: DaemonProcess) -> None:
    sleeper(ctr, "c1")
    ctr("container", "checkpoint", "--task", "--image", "--rw", "c1", "checkpoint:1")
    remove(ctr, "c1")
    ctr("container", "restore", "--rw", "--live", "c2", "checkpoint:1")
    assert "RUNNING" in ctr("task", "ls").split("c2")[1]
    assert list(daemon.state.rglob("c2/checkpoint")) == [], "unpacked for the start, and gone with it"
    ctr("task", "kill", "-s", "KILL", "c2")
    wait_until_gone(ctr, "c2")
    remove(ctr, "c2")


def test_a_failed_checkpoint_leaves_nothing(ctr: Ctr, daemon: DaemonProcess) -> None:
    sleeper(ctr, "unlucky")
    before = content(ctr)
    done = ctr.run("task", "checkpoint", "--exit", "unlucky")
    assert done.returncode != 0
    assert "OCI runtime checkpoint failed" in done.stderr
    assert "fake-criu: dump of unlucky failed" in done.stderr
    assert content(ctr) <= before  # an import leaves an index, which is collected
    assert ctr("content", "active").splitlines()[1:] == []
    assert scratch(daemon) == []
    assert "RUNNING" in ctr("task", "ls")
    remove(ctr, "unlucky")


def test_a_failed_restore_leaves_nothing(ctr: Ctr, daemon: DaemonProcess) -> None:
    sleeper(ctr, "c1")
    ctr("container", "checkpoint", "--task", "--image", "--rw", "c1", "checkpoint:1")
    remove(ctr, "c1")
    done = ctr.run("container", "restore", "--rw", "--live", "unlucky", "checkpoint:1")
    assert done.returncode != 0
    assert "fake-criu: restore of unlucky failed" in done.stderr
    ctr.run("task", "delete", "--force", "unlucky")
    ctr.run("container", "delete", "unlucky")
    assert list(daemon.state.rglob("unlucky")) == []


@pytest.fixture
def without_criu(tmp_path: Path) -> str:
    """runc, with no criu to be found."""
    script = tmp_path / "runc-without-criu"
    script.write_text(f'#!/bin/sh\nPATH={tmp_path} exec {shutil.which("runc")} "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_without_criu_the_error_says_so(ctr: Ctr, without_criu: str) -> None:
    sleeper(ctr, "c1", without_criu)
    before = content(ctr)
    done = ctr.run("task", "checkpoint", "c1")
    assert done.returncode != 0
    assert "criu" in done.stderr
    assert "not found" in done.stderr
    assert content(ctr) <= before  # an import leaves an index, which is collected
    assert "RUNNING" in ctr("task", "ls")
    remove(ctr, "c1")


def test_the_real_criu(ctr: Ctr) -> None:
    criu = shutil.which("criu")
    if criu is None:
        pytest.skip("criu is not installed")
    checked = subprocess.run([criu, "check"], capture_output=True, text=True, check=False)
    if checked.returncode:
        lines = (checked.stdout + checked.stderr).strip().splitlines()
        pytest.skip(f"criu does not work on this kernel: {lines[-1] if lines else 'criu check fails'}")
    start_sleeper(ctr, "c1")
    ctr("container", "checkpoint", "--task", "--image", "--rw", "c1", "checkpoint:1")
    remove(ctr, "c1")
    ctr("container", "restore", "--rw", "--live", "c2", "checkpoint:1")
    assert "RUNNING" in ctr("task", "ls").split("c2")[1]
    remove(ctr, "c2")
