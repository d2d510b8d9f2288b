"""The leak check sees what appeared and belongs to the test, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from containerd_hybrid.testing.leaks import TOKEN_VARIABLE, LeakCheck, mounts_below

SLEEP = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def check_of(tmp_path: Path) -> LeakCheck:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return LeakCheck("t0ken", [tmp_path], temporary)


def test_what_was_there_before_is_no_leak(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "old").touch()
    check = LeakCheck("t0ken", [tmp_path], tmp_path / "tmp")
    assert check.leaks() == []
    (tmp_path / "tmp" / "new").touch()
    assert [str(leak) for leak in check.leaks()] == [f"file {tmp_path}/tmp/new"]


def test_a_child_is_a_leak_while_it_runs(tmp_path: Path) -> None:
    check = check_of(tmp_path)
    child = subprocess.Popen(SLEEP, stdin=subprocess.PIPE)
    (leak,) = check.leaks()
    assert leak.kind == "process"
    assert leak.what.startswith(f"{child.pid} ")
    child.communicate()
    assert check.leaks() == []


def test_a_process_that_left_the_family_is_known_by_its_token(tmp_path: Path) -> None:
    check = check_of(tmp_path)
    read, write = os.pipe()
    # setsid ends at once; its child goes to init and lives until the pipe is closed.
    environment = {**os.environ, TOKEN_VARIABLE: "t0ken"}
    subprocess.run(["setsid", "--fork", *SLEEP], stdin=read, env=environment, check=True)
    os.close(read)
    try:
        # While it becomes another program, the kernel shows no environment of it.
        while not (leaks := check.leaks()):
            time.sleep(0.01)
        assert [leak.kind for leak in leaks] == ["process"]
    finally:
        os.close(write)
    assert check.wait_clean() == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mount_below_the_folder_is_a_leak(tmp_path: Path) -> None:
    check = check_of(tmp_path)
    target = tmp_path / "with space"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    try:
        assert [str(leak) for leak in check.leaks()] == [f"mount {target}"]
        assert mounts_below(tmp_path) == [str(target)]
    finally:
        subprocess.run(["umount", target], check=True)
    assert check.leaks() == []
