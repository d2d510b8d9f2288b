"""Ways out of a container that were published for container runtimes, each tried on ours.

A test says which naive runtime it catches: one that does the obvious thing instead. Everything runs in a
network and a mount namespace of the test's own.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.runtime_kit import (
    MARKS,
    Cli,
    ConsoleSocket,
    Spec,
    Walls,
    clis,
    names,
    ours,
    walled,
    walls,
)

__all__ = ["clis", "ours", "walled", "walls"]  # fixtures

pytestmark = MARKS

RENAME_EXCHANGE = 2


def without(spec: Spec, *destinations: str) -> None:
    spec["mounts"] = [m for m in spec["mounts"] if m["destination"] not in destinations]


def add_mount(spec: Spec, destination: str, source: Path | str, *options: str, kind: str = "bind") -> None:
    mount = {"destination": destination, "type": kind, "source": str(source), "options": list(options)}
    spec["mounts"].append(mount)


def run_bundle(cli: Cli, bundle: Path, name: str) -> subprocess.CompletedProcess[str]:
    return cli("run", "--bundle", str(bundle), f"{cli.token}-{name}")


def mounted_at(mountinfo: str) -> list[str]:
    """Where something is mounted, of the lines of a mountinfo."""
    return [line.split()[4] for line in mountinfo.splitlines()]


@contextmanager
def held_directory(path: str | Path = "/") -> Iterator[int]:
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield held
    finally:
        os.close(held)


# --- procfs: mounts that are no procfs, and names that lead to another ---------------------------------


@pytest.mark.parametrize("kind", ["proc", "sysfs"])
def test_a_kernels_file_system_is_mounted_on_no_link(walled: Cli, kind: str) -> None:
    """CVE-2019-19921, CVE-2023-27561: the image has /proc (/sys) as a link into a volume that others race
    for. Catches a runtime that resolves the link and mounts there: masks and labels then go to whatever
    the link says by that time."""
    name = {"proc": "proc", "sysfs": "sys"}[kind]
    bundle = walled.bundle("true", change=lambda spec: without(spec, "/sys/fs/cgroup"))
    (bundle / "rootfs" / name).rmdir()
    (bundle / "rootfs/fake").mkdir()
    (bundle / "rootfs" / name).symlink_to("/fake")
    done = run_bundle(walled, bundle, "link")
    assert done.returncode == 1
    assert "must be mounted on an ordinary directory" in done.stderr
    assert names(walled.root) == []


def test_nothing_but_procfs_is_at_proc(walled: Cli, short_folder: Path) -> None:
    """CVE-2019-16884: a volume at /proc whose files swallow what the runtime writes into
    /proc/self/attr. Catches a runtime that mounts whatever the configuration has at /proc."""
    fake = short_folder / "fake"
    (fake / "self/attr").mkdir(parents=True)
    for change in (
        lambda spec: add_mount(spec, "/proc", fake, "rbind"),
        lambda spec: add_mount(spec, "/proc/", "tmpfs", kind="tmpfs"),
    ):
        done = walled.run("true", change=change)
        assert done.returncode == 1
        assert "is not of type proc" in done.stderr


@pytest.mark.parametrize(
    "destination", ["/proc/sys/kernel/domainname", "/proc/self/attr", "/proc/../proc/version", "/door"]
)
def test_nothing_covers_what_procfs_says(walled: Cli, short_folder: Path, destination: str) -> None:
    """CVE-2025-52881, CVE-2019-16884: a mount inside of procfs, by its name or a link of the image's, makes
    the runtime's writes go elsewhere. Catches a runtime that looks at the destination's text only, or not
    at all."""
    (short_folder / "own").write_text("")

    def change(spec: Spec) -> None:
        add_mount(spec, destination, short_folder / "own", "bind")
        if destination.endswith("attr"):
            spec["mounts"][-1]["source"] = str(short_folder)

    bundle = walled.bundle("true", change=change)
    (bundle / "rootfs/door").symlink_to("/proc/version")
    done = run_bundle(walled, bundle, "cover")
    assert done.returncode == 1
    assert "inside /proc" in done.stderr


def test_what_engines_show_in_procfs_is_mounted(walled: Cli, short_folder: Path) -> None:
    """The exceptions that lxcfs lives from. Catches a runtime that refuses every mount in /proc."""
    (short_folder / "uptime").write_text("1.00 1.00\n")
    out = walled.shell(
        "cat /proc/uptime", lambda spec: add_mount(spec, "/proc/uptime", short_folder / "uptime", "bind")
    )
    assert out == "1.00 1.00\n"


def test_a_sysctl_is_the_kernels_whatever_the_image_has_at_its_path(walled: Cli) -> None:
    """CVE-2025-52881: the image's own /proc/sys tree. Catches a runtime that writes sysctls below the
    container's root."""

    def change(spec: Spec) -> None:
        without(spec, "/proc")
        spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []
        spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        add_mount(spec, "/real", "proc", kind="proc")

    bundle = walled.bundle(
        "cat", "/real/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_forward", change=change
    )
    fake = bundle / "rootfs/proc/sys/net/ipv4/ip_forward"
    fake.parent.mkdir(parents=True)
    fake.write_text("fake\n")
    done = run_bundle(walled, bundle, "sysctl")
    assert done.stdout == "1\nfake\n", done.stderr


def test_limits_are_the_kernels_for_an_exec_into_a_false_proc(walled: Cli) -> None:
    """CVE-2019-16884's way for oom_score_adj: a container whose /proc is a folder of its image's. Catches
    a runtime that writes by the path /proc/self after it has joined the container."""

    def change(spec: Spec) -> None:
        without(spec, "/proc")
        spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []
        add_mount(spec, "/real", "proc", kind="proc")

    name = walled.create("sleep", "1000", change=change)
    rootfs = next(walled.folder.glob("bundle*")) / "rootfs"
    (rootfs / "proc/self").mkdir(parents=True)
    (rootfs / "proc/self/oom_score_adj").write_text("")
    walled.ok("start", name)
    process = walled.folder / "process.json"
    process.write_text(
        json.dumps(
            {
                "args": ["cat", "/real/self/oom_score_adj"],
                "cwd": "/",
                "user": {},
                "env": ["PATH=/bin"],
                "oomScoreAdj": 321,
            }
        )
    )
    assert walled.ok("exec", "--process", str(process), name) == "321\n"
    walled.ok("delete", "--force", name)
    assert (rootfs / "proc/self/oom_score_adj").read_text() == ""


def test_a_mask_is_the_hosts_null_device(walled: Cli) -> None:
    """CVE-2025-31133: the image has /dev/null as a link to the very file that is to be hidden. Catches a
    runtime that binds the container's /dev/null over masked paths."""

    def change(spec: Spec) -> None:
        without(spec, "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
        spec["linux"]["maskedPaths"] = ["/proc/timer_list", "/secret"]

    bundle = walled.bundle("sh", "-c", "cat /secret; stat -c %t:%T /secret", change=change)
    rootfs = bundle / "rootfs"
    (rootfs / "secret").write_text("secret")
    (rootfs / "elsewhere").write_text("elsewhere")
    (rootfs / "dev/null").symlink_to("/elsewhere")
    done = run_bundle(walled, bundle, "mask")
    # A link is no device: what the specification wants at /dev/null cannot be, which is said.
    assert done.returncode == 1
    assert "/dev/null" in done.stderr
    (rootfs / "dev/null").unlink()
    done = run_bundle(walled, bundle, "mask")
    assert done.stdout == "1:3\n", done.stderr


def test_masks_and_read_only_paths_follow_no_link_out(walled: Cli, short_folder: Path) -> None:
    """CVE-2019-19921: links in the image on the way to a masked path. Catches a runtime that joins the
    root's path and the masked one as texts: the machine's file would be hidden or made read-only."""
    outside = short_folder / "outside"
    outside.mkdir()
    (outside / "file").write_text("seen")

    def change(spec: Spec) -> None:
        spec["linux"]["maskedPaths"] = ["/way/file"]
        spec["linux"]["readonlyPaths"] = ["/way"]
        add_mount(spec, "/window", outside, "rbind")

    script = "cat /window/file; touch /window/new && echo written"
    bundle = walled.bundle("sh", "-c", script, change=change)
    (bundle / "rootfs/way").symlink_to(f"../../../../../../../..{outside}")
    done = run_bundle(walled, bundle, "masks")
    assert done.stdout == "seenwritten\n", done.stderr


# --- mount points ------------------------------------------------------------------------------------


def test_a_link_in_a_volume_does_not_lead_a_later_mount_out(walled: Cli, short_folder: Path) -> None:
    """CVE-2021-30465: the second mount's destination lies in the first one's volume, which has a link
    there. Catches a runtime that resolved all destinations before it mounted anything, or by text."""
    volume, outside = short_folder / "volume", short_folder / "outside"
    volume.mkdir()
    outside.mkdir()
    (volume / "door").symlink_to(f"../../../../../../../../..{outside}")

    def change(spec: Spec) -> None:
        add_mount(spec, "/vol", volume, "rbind")
        add_mount(spec, "/vol/door/in", "tmpfs", kind="tmpfs")

    out = walled.shell("cat /proc/self/mountinfo", change)
    assert f"{outside}/in" in mounted_at(out)
    # Below the container's root, that is; here nothing was made.
    assert list(outside.iterdir()) == []


def test_a_link_that_is_swapped_all_the_time_does_not_lead_out(walled: Cli, short_folder: Path) -> None:
    """CVE-2021-30465, CVE-2024-45310 as they were used: directory and link change places while the mount
    point is looked for and made. Catches a runtime that checks a path and then uses it again."""
    volume, outside = short_folder / "volume", short_folder / "outside"
    (volume / "place").mkdir(parents=True)
    outside.mkdir()
    (volume / "link").symlink_to(outside)
    libc = ctypes.CDLL(None, use_errno=True)
    over = threading.Event()

    def swap() -> None:
        one, other = os.fsencode(volume / "place"), os.fsencode(volume / "link")
        while not over.is_set():
            libc.renameat2(-100, one, -100, other, RENAME_EXCHANGE)

    def change(spec: Spec) -> None:
        add_mount(spec, "/vol", volume, "rbind")
        add_mount(spec, "/vol/place/made/deep", "tmpfs", kind="tmpfs")

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        for _ in range(12):
            # It may fail, but not outside.
            walled.run("true", change=change)
            assert list(outside.iterdir()) == []
    finally:
        over.set()
        racer.join()


def test_a_magic_link_is_no_mount_point(walled: Cli, short_folder: Path) -> None:
    """A destination by way of /proc/self/fd/N, which is a directory the runtime's caller has open. Catches
    a runtime that opens destinations as any path: the mount and its directories end up there."""
    with held_directory(short_folder) as held:
        before = names(short_folder)
        for number in range(3, 12):

            def change(spec: Spec, number: int = number) -> None:
                add_mount(spec, f"/proc/self/fd/{number}/made", "tmpfs", kind="tmpfs")
                add_mount(spec, f"/door{number}/made", "tmpfs", kind="tmpfs")

            bundle = walled.bundle("true", change=change)
            (bundle / f"rootfs/door{number}").symlink_to(f"/proc/self/fd/{number}")
            done = walled("run", "--bundle", str(bundle), f"{walled.token}-magic", pass_fds=[held])
            assert done.returncode == 1
        assert names(short_folder) == before


def test_devices_and_links_below_a_dev_that_leads_out(walled: Cli, short_folder: Path) -> None:
    """The image's /dev, and its /dev/pts, are links to folders of the machine. Catches a runtime that
    makes devices, /dev/ptmx and /dev/console by path."""
    outside = short_folder / "outside"
    outside.mkdir()
    (outside / "ptmx").write_text("kept")

    def change(spec: Spec) -> None:
        without(spec, "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
        device = {"path": "/dev/deep/fuse", "type": "c", "major": 10, "minor": 229}
        spec["linux"]["devices"] = [device]

    bundle = walled.bundle("ls", "/dev/deep/fuse", change=change)
    rootfs = bundle / "rootfs"
    (rootfs / "dev").rmdir()
    (rootfs / "dev").symlink_to(f"../../../../../../../../..{outside}")
    done = run_bundle(walled, bundle, "dev")
    assert done.returncode == 0, done.stderr
    assert names(outside) == ["ptmx"]
    assert (outside / "ptmx").read_text() == "kept"


# --- the runtime's own file and descriptors ------------------------------------------------------------


@pytest.mark.parametrize("entry", ["#!/proc/self/exe\n", None])
def test_an_image_that_executes_the_runtime_gets_no_file_to_write(walled: Cli, entry: str | None) -> None:
    """CVE-2019-5736: the image's program is the runtime itself, by a link or an interpreter line, and
    somebody in the container opens its /proc/PID/exe. Catches a runtime that runs from its file in place."""
    binary = Path(walled.binary)
    before = (binary.stat().st_mtime_ns, binary.stat().st_size, binary.stat().st_ino)
    bundle = walled.bundle("/evil")
    if entry is None:
        (bundle / "rootfs/evil").symlink_to("/proc/self/exe")
    else:
        (bundle / "rootfs/evil").write_text(entry)
        (bundle / "rootfs/evil").chmod(0o755)
    name = f"{walled.token}-exe"
    walled.ok("create", "--bundle", str(bundle), name)
    # Between create and start it is a process of the runtime's file for as long as an attacker likes.
    pid = walled.state(name)["pid"]
    with Path(f"/proc/{pid}/exe").open("rb") as held:
        with pytest.raises(OSError, match=r"Read-only|busy"):
            os.open(f"/proc/self/fd/{held.fileno()}", os.O_WRONLY)
        walled.ok("delete", "--force", name)
        # Busy no more: only the mount keeps it from being written now.
        with pytest.raises(OSError, match="Read-only"):
            os.open(f"/proc/self/fd/{held.fileno()}", os.O_WRONLY)
    assert (binary.stat().st_mtime_ns, binary.stat().st_size, binary.stat().st_ino) == before


def test_a_process_that_joins_cannot_be_looked_into(walled: Cli, short_folder: Path) -> None:
    """CVE-2016-9962: who is in the container already opens /proc/PID/root or fd of a runtime process that
    is only joining. Catches a runtime whose processes stay dumpable: the waiting init has nothing that the
    container's root may read."""
    name = walled.create("sleep", "1000")
    script = """
for fd in $(ls /proc/1/fd); do busybox readlink /proc/1/fd/$fd; done
ls /proc/1/root/ /proc/1/cwd/
cat /proc/1/environ /proc/1/maps
busybox readlink /proc/1/exe
echo done"""
    assert walled.ok("exec", name, "sh", "-c", script) == "done\n"
    walled.ok("delete", "--force", name)


@pytest.mark.parametrize("how", ["run", "exec"])
def test_a_working_directory_is_not_a_descriptor_of_the_machine(walled: Cli, how: str) -> None:
    """CVE-2024-21626: the working directory is /proc/self/fd/N, or a link of the image's to it. Catches a
    runtime that changes there and does not look where it is, or that leaks what N is."""
    with held_directory() as held:
        name = f"{walled.token}-cwd"
        if how == "exec":
            bundle = walled.bundle("sleep", "1000")
            for number in range(3, 12):
                (bundle / f"rootfs/door{number}").symlink_to(f"/proc/self/fd/{number}")
            walled.ok("create", "--bundle", str(bundle), name)
            walled.ok("start", name)
        for number in range(3, 12):
            for cwd in (f"/proc/self/fd/{number}", f"/door{number}"):
                if how == "exec":
                    done = walled("exec", "--cwd", cwd, name, "ls", "..", pass_fds=[held])
                else:

                    def change(spec: Spec, cwd: str = cwd) -> None:
                        spec["process"]["cwd"] = cwd

                    bundle = walled.bundle("ls", "..", change=change)
                    if cwd.startswith("/door"):
                        (bundle / f"rootfs/{cwd}").symlink_to(f"/proc/self/fd/{number}")
                    done = walled("run", "--bundle", str(bundle), name, pass_fds=[held])
                assert (done.returncode != 0, done.stdout) == (True, ""), cwd
        if how == "exec":
            walled.ok("delete", "--force", name)


def test_no_descriptor_leaks_into_programs_and_hooks(walled: Cli) -> None:
    """CVE-2024-21626's other half. Catches a runtime that executes the program, an exec's program or a
    hook with descriptors of its own or its caller's still open."""
    hook = walled.folder / "hook"
    seen = walled.folder / "seen"
    hook.write_text(f"#!/bin/sh\nls -l /proc/self/fd >>{seen}\necho >>{seen}\n")
    hook.chmod(0o755)

    def change(spec: Spec) -> None:
        places = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
        spec["hooks"] = {place: [{"path": str(hook)}] for place in places}

    with held_directory() as held:
        bundle = walled.bundle("sleep", "1000", change=change)
        name = f"{walled.token}-fds"
        walled.ok("create", "--bundle", str(bundle), name, pass_fds=[held])
        walled.ok("start", name, pass_fds=[held])
        out = walled.ok("exec", name, "ls", "/proc/self/fd", pass_fds=[held])
        assert out.split() == ["0", "1", "2", "3"]  # 3 is what ls reads
        walled.ok("delete", "--force", name, pass_fds=[held])
    runs = seen.read_text().strip().split("\n\n")
    assert len(runs) == 5
    for run in runs:
        numbers = [line.split(" -> ")[0].split()[-1] for line in run.splitlines() if " -> " in line]
        # 3 is what ls reads; a shell keeps its script at 10 or higher, closed in what it executes.
        assert set(numbers) <= {"0", "1", "2", "3"}, run


def test_hooks_have_nothing_of_the_images_environment(walled: Cli) -> None:
    """CVE-2025-23266: LD_PRELOAD of the image, and the container's root as the working directory of a hook
    with the machine's rights. Catches a runtime that gives hooks the container's environment, or runs them
    in its root."""
    hook, seen = walled.folder / "hook", walled.folder / "seen"
    hook.write_text(f"#!/bin/sh\n{{ /usr/bin/env; pwd; }} >>{seen}\n")
    hook.chmod(0o755)

    def change(spec: Spec) -> None:
        spec["process"]["env"] += ["LD_PRELOAD=./evil.so", "LD_LIBRARY_PATH=/tmp"]
        places = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
        spec["hooks"] = {place: [{"path": str(hook), "env": [f"PLACE={place}"]}] for place in places}

    assert walled.run("true", change=change).returncode == 0
    text = seen.read_text()
    assert text.count("PLACE=") == 5
    assert "LD_" not in text
    assert "rootfs" not in text


# --- exec into a root that the container has changed ----------------------------------------------------


def test_exec_into_a_root_that_was_made_a_trap(walled: Cli) -> None:
    """/etc/passwd is a pipe nobody writes to, /dev/pts a folder whose ptmx is a link, /bin/sh was replaced
    by a link to a device. Catches a runtime that reads and opens the container's files as if they were its
    own: it hangs, or opens what the link says."""
    name = walled.create("sleep", "1000", change=lambda spec: without(spec, "/dev/pts"))
    rootfs = next(walled.folder.glob("bundle*")) / "rootfs"
    (rootfs / "etc/passwd").unlink()
    os.mkfifo(rootfs / "etc/passwd")
    walled.ok("start", name)
    assert walled.ok("exec", name, "env") == "PATH=/bin\nGREETING=hello\nHOME=/\n"
    walled.ok("exec", name, "mkdir", "/dev/pts")
    walled.ok("exec", name, "busybox", "ln", "-s", "/dev/zero", "/dev/pts/ptmx")
    console = ConsoleSocket(walled.folder / "console")
    socket = ("--console-socket", str(console.path))
    done = walled("exec", "--tty", "--detach", *socket, name, "true")
    console.abandon()
    assert done.returncode == 1
    assert "/dev/pts" in done.stderr
    walled.ok("delete", "--force", name)


def test_a_label_is_not_written_into_the_containers_proc(walled: Cli, short_folder: Path) -> None:
    """CVE-2019-16884: exec with a label into a container whose /proc is a folder. Catches a runtime that
    opens /proc/self/attr by path once it has joined. Without AppArmor the label is refused before."""
    name = walled.create("sleep", "1000", change=lambda spec: without(spec, "/proc"))
    rootfs = next(walled.folder.glob("bundle*")) / "rootfs"
    for place in ("proc/self/attr/apparmor", "proc/thread-self/attr/apparmor"):
        (rootfs / place).mkdir(parents=True)
        (rootfs / place / "exec").write_text("")
        (rootfs / place / "../exec").write_text("")
    walled.ok("start", name)
    walled("exec", "--apparmor", "unconfined", name, "true")
    walled("exec", "--process-label", "system_u:system_r:container_t:s0", name, "true")
    walled.ok("delete", "--force", name)
    files = list((rootfs / "proc").rglob("exec"))
    assert len(files) == 4
    assert [file.read_text() for file in files] == [""] * 4


# --- rights ---------------------------------------------------------------------------------------------


def test_nothing_is_inheritable_that_was_not_asked_for(walled: Cli) -> None:
    """CVE-2022-24769, CVE-2022-29162: capabilities in the inheritable set come back to whoever executes a
    file that has them. Catches a runtime that fills the set from the bounding one, for init or `exec --cap`,
    and a default configuration that does."""
    status = ("sh", "-c", "grep -E '^Cap(Inh|Amb)' /proc/self/status")
    nothing = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n"
    assert walled.run(*status).stdout == nothing
    name = walled.create("sleep", "1000")
    walled.ok("start", name)
    assert walled.ok("exec", "--cap", "CAP_NET_RAW", name, *status) == nothing
    walled.ok("delete", "--force", name)
    folder = walled.folder / "fresh"
    folder.mkdir()
    walled.ok("spec", "--bundle", str(folder))
    sets = json.loads((folder / "config.json").read_text())["process"]["capabilities"]
    assert not sets.get("inheritable")
    assert not sets.get("ambient")


def test_groups_of_the_caller_are_not_the_containers(walled: Cli) -> None:
    """CVE-2022-36109's class. Catches a runtime that keeps its caller's supplementary groups."""
    bundle = walled.bundle("sh", "-c", "grep ^Groups: /proc/self/status")

    def grouped() -> None:
        os.setgroups([4, 24])

    name = f"{walled.token}-groups"
    done = walled("run", "--bundle", str(bundle), name, preexec_fn=grouped)
    assert done.stdout.split() == ["Groups:"]


# --- terminals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trap", ["console", "pts"])
def test_a_terminal_is_the_kernels_whatever_the_image_has(walled: Cli, short_folder: Path, trap: str) -> None:
    """CVE-2025-52565, CVE-2016-9962's cousins: /dev/console is a link to a file that must stay as it is, or
    /dev/pts/ptmx a link to the machine's. Catches a runtime that opens the terminal by its path in the
    container, or binds it over what a link says."""
    outside = short_folder / "outside"
    outside.write_text("kept")
    outside.chmod(0o600)

    def change(spec: Spec) -> None:
        spec["process"]["terminal"] = True
        without(spec, "/dev", "/dev/shm", "/dev/mqueue")
        if trap == "pts":
            without(spec, "/dev/pts")

    script = "cat /proc/self/mountinfo; stat -c %t:%T /victim"
    bundle = walled.bundle("sh", "-c", script, change=change)
    rootfs = bundle / "rootfs"
    (rootfs / "victim").write_text("victim")
    if trap == "console":
        (rootfs / "dev/console").symlink_to("/victim")
    else:
        (rootfs / "dev/pts").mkdir()
        (rootfs / "dev/pts/ptmx").symlink_to(f"../../../../../../../../../..{outside}")
    console = ConsoleSocket(walled.folder / "console")
    name = f"{walled.token}-tty"
    done = walled("create", "--bundle", str(bundle), "--console-socket", str(console.path), name)
    if trap == "pts":
        console.abandon()
        assert done.returncode == 1
        assert names(walled.root) == []
    elif done.returncode:
        console.abandon()
    else:
        walled.ok("start", name)
        text = console.output().replace("\r\n", "\n")
        assert "/victim" not in mounted_at(text.rsplit("\n", 2)[0])
        assert text.endswith("0:0\n")
        walled.wait(name, "stopped")
        walled.ok("delete", name)
    assert (rootfs / "victim").read_text() == "victim"
    assert (outside.read_text(), outside.stat().st_mode & 0o777) == ("kept", 0o600)


def test_the_terminal_of_a_container_is_its_own(walled: Cli) -> None:
    """A terminal of the machine's devpts could be opened by number from elsewhere. Catches a runtime that
    takes it from the machine: the name it has in the container's /dev/pts is then another's, or none."""

    def change(spec: Spec) -> None:
        spec["process"]["terminal"] = True

    script = "tty=$(busybox readlink /proc/self/fd/0); stat -c %t:%T $tty /dev/console; ls /dev/pts"
    bundle = walled.bundle("sh", "-c", script, change=change)
    console = ConsoleSocket(walled.folder / "console")
    name = f"{walled.token}-own"
    walled.ok("create", "--bundle", str(bundle), "--console-socket", str(console.path), name)
    walled.ok("start", name)
    own, shown, *devices = console.output().split()
    assert own == shown == "88:0"
    assert devices == ["0", "ptmx"]
    walled.wait(name, "stopped")
    walled.ok("delete", name)


# --- what must not reach the machine ----------------------------------------------------------------------


def test_a_network_device_goes_to_no_namespace_that_is_the_machines(walled: Cli) -> None:
    """Devices "moved" where they are already, renamed and set up for the container: the machine loses its
    network. Catches a runtime that looks whether there is a network namespace in the configuration, and not
    which."""
    device = f"none-{walled.token[:8]}"

    def missing(spec: Spec) -> None:
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "network"]
        spec["linux"]["netDevices"] = {device: {}}

    def own(spec: Spec) -> None:
        missing(spec)
        spec["linux"]["namespaces"].append({"type": "network", "path": "/proc/self/ns/net"})

    for change, words in ((missing, "network namespace"), (own, "the runtime's own")):
        done = walled.run("true", change=change)
        assert done.returncode == 1
        assert words in done.stderr
        assert names(walled.root) == []


def test_mounts_of_a_container_do_not_come_back(walled: Cli, walls: Walls) -> None:
    """Catches a runtime that leaves the machine's tree shared in the container's namespace: what it mounts
    would appear there."""

    def here() -> Counter[str]:
        return Counter(mounted_at(walls.run("cat", "/proc/self/mountinfo")))

    before = here()
    out = walled.shell(
        "cat /proc/self/mountinfo", lambda spec: add_mount(spec, "/tmp", "tmpfs", kind="tmpfs")
    )
    assert "/tmp" in mounted_at(out)
    # Others may take away what they mounted; here nothing came.
    assert here() - before == Counter()


def test_nothing_of_the_machines_tree_is_left_in_the_container(walled: Cli) -> None:
    """Catches a runtime that changes the root without taking the old one away."""
    out = walled.shell("cat /proc/self/mountinfo; ls /")
    points = mounted_at(out.split("\nbin\n")[0])
    assert points[0] == "/"
    assert points.count("/") == 1
    assert shutil.which("runc")[1:] not in out  # type: ignore[index]
