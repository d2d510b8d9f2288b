"""checkpoint and restore: what the runtime asks criu for, and what it makes of the answers.

criu itself does not work on every kernel: ``fake_criu`` stands in for it and says its name.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.integration import fake_criu
from tests.integration.runtime_kit import (
    MARKS,
    Cli,
    ConsoleSocket,
    Spec,
    clis,
    names,
    ours,
    walled,
    walls,
)

__all__ = ["clis", "ours", "walled", "walls"]  # fixtures

pytestmark = MARKS

CLONE_NEWNET = 0x40000000


class Criu:
    """The fake, installed in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        shutil.copy(fake_criu.__file__, folder / "fake_criu.py")
        self.program = folder / "criu"
        self.program.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/fake_criu.py "$@"\n')
        self.program.chmod(0o755)

    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "requests").read_text().splitlines()]

    def options(self) -> dict[str, list[Any]]:
        """Of the last request, by field numbers."""
        found: dict[str, list[Any]] = self.requests()[-1]["2"][0]
        return found


@pytest.fixture
def criu(short_folder: Path) -> Criu:
    return Criu(short_folder / "fake")


def running(cli: Cli, criu: Criu, change: Any = None) -> str:
    name = cli.create("sleep", "1000", change=change)
    cli.ok("start", name)
    return name


def with_volume(source: Path) -> Any:
    def change(spec: Spec) -> None:
        mount = {"destination": "/data", "type": "bind", "source": str(source), "options": ["rbind"]}
        spec["mounts"].append(mount)

    return change


def cli_with(cli: Cli, criu: Criu, *args: str, **kwargs: Any) -> str:
    return cli.ok("--criu", str(criu.program), *args, **kwargs)


def test_a_container_goes_into_files_and_comes_back(walled: Cli, criu: Criu, short_folder: Path) -> None:
    images, work = short_folder / "images", short_folder / "work"
    name = running(walled, criu, with_volume(short_folder))
    pid = walled.state(name)["pid"]
    bundle = Path(walled.state(name)["bundle"])
    paths = ("--image-path", str(images), "--work-path", str(work))
    flags = ("--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks")
    modes = ("--manage-cgroups-mode", "full", "--empty-ns", "network")
    cli_with(walled, criu, "checkpoint", *paths, *flags, *modes, name)
    assert (images / "inventory.img").read_text() == fake_criu.NAME
    assert (work / "dump.log").exists()
    assert names(walled.root) == []
    asked = criu.options()
    assert asked["2"] == [pid]
    assert [asked[field] for field in ("4", "5", "7", "8", "12", "24")] == [[1]] * 6
    assert asked["34"] == [4]
    assert asked["38"] == [CLONE_NEWNET]
    assert asked["13"] == [str(bundle / "rootfs")]
    assert {"1": ["/data"], "2": ["/data"]} in asked["23"]
    assert {"1": ["/proc/timer_list"], "2": ["/dev/null"]} in asked["23"]
    assert walled.token in asked["44"][0]

    pid_file = short_folder / "pid"
    cli_with(
        walled,
        criu,
        "restore",
        *("--bundle", str(bundle), "--detach", "--no-subreaper", "--pid-file", str(pid_file)),
        *(*paths, *flags, *modes, name),
    )
    state = walled.state(name)
    assert state["status"] == "running"
    assert state["pid"] == int(pid_file.read_text()) != pid
    asked, request = criu.options(), criu.requests()[-1]
    assert {"1": ["/data"], "2": [str(short_folder)]} in asked["23"]
    assert {"1": ["/dev/null"], "2": ["/dev/null"]} in asked["23"]
    assert asked["26"] == [1]
    assert request["root is a mount"] == [True]
    # criu itself was there, so that what it makes is too, and knows where that is.
    assert all(walled.token in line for line in request["cgroups"] if not line.startswith("0:"))
    assert all(walled.token in root["2"][0] for root in asked["25"])
    assert walled.token in Path(f"/proc/{state['pid']}/cgroup").read_text()
    assert not (walled.root / name / "criu-root").exists()
    walled.ok("delete", "--force", name)
    assert names(walled.root) == []


def test_a_container_that_runs_on(walled: Cli, criu: Criu, short_folder: Path) -> None:
    name = running(walled, criu)
    before = walled.state(name)
    parent, images = short_folder / "parent", short_folder / "images"
    cli_with(walled, criu, "checkpoint", "--pre-dump", "--image-path", str(parent), name)
    assert criu.requests()[-1]["1"] == [fake_criu.PRE_DUMP]
    assert criu.options()["15"] == [1]
    assert "23" not in criu.options()
    link = ("--parent-path", "../parent", "--leave-running", "--auto-dedup")
    cli_with(walled, criu, "checkpoint", *link, "--image-path", str(images), name)
    assert criu.options()["14"] == ["../parent"]
    assert criu.options()["16"] == [1]
    assert walled.state(name) == before
    walled.ok("pause", name)
    cli_with(walled, criu, "checkpoint", "--leave-running", "--image-path", str(images), name)
    walled.ok("resume", name)
    pages = ("--page-server", "192.0.2.1:4711", "--lazy-pages", "--leave-running")
    cli_with(walled, criu, "checkpoint", *pages, "--image-path", str(images), name)
    assert criu.options()["11"] == [{"1": ["192.0.2.1"], "2": [4711]}]
    assert criu.options()["48"] == [1]
    walled.ok("delete", "--force", name)


def test_streams_and_namespaces_from_outside(walled: Cli, criu: Criu, short_folder: Path) -> None:
    """A pipe that was standard output is the restorer's now; a joined network namespace is joined again."""

    def joined(spec: Spec) -> None:
        network = next(n for n in spec["linux"]["namespaces"] if n["type"] == "network")
        network["path"] = f"/proc/{os.getppid()}/ns/net"
        network["path"] = "/proc/self/ns/net"

    images = short_folder / "images"
    bundle = walled.bundle("sleep", "1000", change=joined)
    name = f"{walled.token}-pipe"
    walled.ok("create", "--bundle", str(bundle), name)
    walled.ok("start", name)
    cli_with(walled, criu, "checkpoint", "--image-path", str(images), name)
    outer = next(text for text in criu.options()["37"] if text.startswith("net["))
    assert outer.endswith("]:extRootNetNS")
    described = json.loads((images / "descriptors.json").read_text())
    assert described[0] == "/dev/null"
    described[1] = "pipe:[4711]"
    (images / "descriptors.json").write_text(json.dumps(described))
    out = cli_with(
        walled, criu, "restore", "--detach", "--bundle", str(bundle), "--image-path", str(images), name
    )
    assert out == "restored\n"
    given = {stream["1"][0]: stream["2"][0] for stream in criu.options()["27"]}
    assert given["pipe:[4711]"] == 1
    assert "extRootNetNS" in given
    walled.ok("delete", "--force", name)


def test_a_terminal_comes_back_by_the_console_socket(walled: Cli, criu: Criu, short_folder: Path) -> None:
    images = short_folder / "images"
    images.mkdir()
    (images / "descriptors.json").write_text(json.dumps(["/dev/pts/0"] * 3))

    def terminal(spec: Spec) -> None:
        spec["process"]["terminal"] = True

    bundle = walled.bundle("sleep", "1000", change=terminal)
    console = ConsoleSocket(walled.folder / "console")
    name = f"{walled.token}-tty"
    where = ("--bundle", str(bundle), "--image-path", str(images), "--console-socket", str(console.path))
    cli_with(walled, criu, "restore", "--detach", *where, name)
    assert fake_criu.NAME in console.output()
    walled.ok("delete", "--force", name)


def test_hooks_of_the_runtimes_namespaces_run_at_a_restore(
    walled: Cli, criu: Criu, short_folder: Path
) -> None:
    images, seen = short_folder / "images", short_folder / "seen"
    images.mkdir()
    (images / "descriptors.json").write_text(json.dumps(["/dev/null"] * 3))
    hook = short_folder / "hook"
    hook.write_text(f"#!/bin/sh\ncat >>{seen}\necho >>{seen}\n")
    hook.chmod(0o755)

    def hooks(spec: Spec) -> None:
        spec["hooks"] = {place: [{"path": str(hook)}] for place in ("prestart", "createRuntime")}

    bundle = walled.bundle("sleep", "1000", change=hooks)
    name = f"{walled.token}-hooks"
    cli_with(walled, criu, "restore", "--detach", "--bundle", str(bundle), "--image-path", str(images), name)
    states = [json.loads(line) for line in seen.read_text().splitlines()]
    assert [state["pid"] for state in states] == [walled.state(name)["pid"]] * 2
    walled.ok("delete", "--force", name)


def test_what_criu_says_goes_into_the_error_and_nothing_is_left(
    walled: Cli, criu: Criu, short_folder: Path
) -> None:
    images = short_folder / "images"
    name = running(walled, criu)
    bundle = walled.state(name)["bundle"]
    (criu.folder / "fail").write_text("the moon is full")
    done = walled("--criu", str(criu.program), "checkpoint", "--image-path", str(images), name)
    assert done.returncode == 1
    for words in ("type dump", "the moon is full", "dump.log", fake_criu.NAME):
        assert words in done.stderr
    assert walled.state(name)["status"] == "running"
    walled.ok("delete", "--force", name)
    done = walled(
        *("--criu", str(criu.program), "restore", "--bundle", bundle, "--detach"),
        *("--image-path", str(images), name),
    )
    assert done.returncode == 1
    assert "type restore" in done.stderr
    assert names(walled.root) == []


def test_without_criu_or_with_an_old_one(walled: Cli, criu: Criu, short_folder: Path) -> None:
    name = running(walled, criu)
    done = walled("--criu", "/no/criu", "checkpoint", "--image-path", str(short_folder / "i"), name)
    assert done.returncode == 1
    # containerd's shims look for these words.
    assert "/no/criu not found" in done.stderr
    assert "install criu" in done.stderr
    (criu.folder / "version").write_text("2")
    done = walled("--criu", str(criu.program), "checkpoint", "--image-path", str(short_folder / "i"), name)
    assert done.returncode == 1
    assert "CRIU 2.17" in done.stderr
    walled.ok("delete", "--force", name)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--page-server", "somewhere"], "--page-server somewhere: it is ADDRESS:PORT"),
        (["--empty-ns", "mount"], "only the network namespace"),
        (["--manage-cgroups-mode", "wild"], "soft, full, strict or ignore"),
        (["--parent-path", "/abs"], "from the images' folder"),
        (["--parent-path", "../none"], "no such folder"),
        (["--status-fd", "99"], "--status-fd 99 is not open"),
    ],
)
def test_what_is_not_done_is_refused(
    walled: Cli, criu: Criu, short_folder: Path, flags: list[str], words: str
) -> None:
    name = running(walled, criu)
    images = ("--image-path", str(short_folder / "images"))
    done = walled("--criu", str(criu.program), "checkpoint", *flags, *images, name)
    assert done.returncode == 1
    assert words in done.stderr
    assert walled.state(name)["status"] == "running"
    assert not (criu.folder / "requests").exists()
    walled.ok("delete", "--force", name)


def test_states_that_cannot_be_saved(walled: Cli, criu: Criu, short_folder: Path) -> None:
    name = walled.create("sleep", "1000")
    images = ("--image-path", str(short_folder / "images"))
    done = walled("--criu", str(criu.program), "checkpoint", *images, name)
    assert done.returncode == 1
    assert "cannot checkpoint a container that is created" in done.stderr
    walled.ok("delete", "--force", name)
    done = walled("--criu", str(criu.program), "checkpoint", *images, name)
    assert "does not exist" in done.stderr
