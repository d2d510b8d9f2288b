"""``/v1/metrics`` and the debug socket of a daemon that runs containers."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import clean
from tests.unit.metrics.kit import parsed

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.ctr import Ctr
from containerd_hybrid.testing.daemon import DaemonError, DaemonProcess
from containerd_hybrid.testing.leaks import LeakCheck
from containerd_hybrid.testing.processes import is_stopped, listening_ports
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        "CONTAINERD_ADDRESS_FOR_TESTS" in os.environ, reason="the daemon needs a configuration of its own"
    ),
]
BUSYBOX = "docker.io/library/busybox:latest"
MIB = 1 << 20
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def patience() -> str:
    """How long a shim may take to tell its figures."""
    return "2m"


@pytest.fixture
def daemon(leak_check: LeakCheck, short_folder: Path, patience: str) -> Iterator[DaemonProcess]:
    """Configured as version 3 has it, in tables at the top."""
    config = f"""\
version = 3
[metrics]
  address = "127.0.0.1:0"
  grpc_histogram = true
[debug]
  address = "{short_folder}/debug.sock"
[timeouts]
  "io.containerd.timeout.metrics.shimstats" = "{patience}"
"""
    with DaemonProcess(short_folder, config=config).serving(leak_check) as process:
        yield process


def scrape(daemon: DaemonProcess | StockContainerd) -> Samples:
    (port,) = listening_ports(daemon.pid)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/v1/metrics", timeout=GIVE_UP_SECONDS) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(response.read().decode())


def of(samples: Samples, **labels: str) -> dict[str, float]:
    """The samples that have these labels, by name."""
    return {name: value for (name, own), value in samples.items() if labels.items() <= dict(own).items()}


def shapes(samples: Samples, prefix: str) -> set[tuple[str, frozenset[str]]]:
    """Names and names of labels."""
    return {(name, frozenset(key for key, _ in own)) for name, own in samples if name.startswith(prefix)}


def run_sleeper(ctr: Ctr, id: str) -> None:
    ctr("run", "-d", "--memory-limit", str(64 * MIB), BUSYBOX, id, "sleep", "1000")


def remove(ctr: Ctr, *ids: str) -> None:
    for container in ids:
        ctr("task", "delete", "--force", container)
        ctr("container", "delete", container)


def shim_of(ctr: Ctr, id: str) -> int:
    (pid,) = re.findall(rf"^{id}\s+(\d+)", ctr("task", "ls"), re.MULTILINE)
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# /v1/metrics


def test_a_container_is_measured_while_it_runs(ctr: Ctr, daemon: DaemonProcess) -> None:
    run_sleeper(ctr, "one")
    found = of(scrape(daemon), container_id="one", namespace=ctr.namespace, runtime="io.containerd.runc.v2")
    limits = {value for name, value in found.items() if name.startswith("container_memory_usage_limit")}
    assert limits == {64 * MIB}
    assert found["container_pids_current"] >= 1
    remove(ctr, "one")
    assert of(scrape(daemon), container_id="one") == {}


def test_names_and_labels_are_those_of_the_installed_containerd(
    ctr: Ctr, daemon: DaemonProcess, short_folder: Path, busybox_tar: Path, token: str
) -> None:
    folder = short_folder / "stock"
    folder.mkdir()
    config = '[metrics]\n  address = "127.0.0.1:0"\n  grpc_histogram = true\n'
    try:
        stock = StockContainerd(folder, config=config)
    except NotFoundError as error:
        pytest.skip(error.message)
    run_sleeper(ctr, "one")
    ours = scrape(daemon)
    remove(ctr, "one")
    with stock:
        theirs_ctr = Ctr(stock.address, f"{token}-stock")
        theirs_ctr("image", "import", str(busybox_tar))
        try:
            run_sleeper(theirs_ctr, "one")
            theirs = scrape(stock)
            remove(theirs_ctr, "one")
        finally:
            clean(theirs_ctr)
    names = {name for name, _ in shapes(theirs, "container_")}
    assert len(names) > 10
    # Older releases do not tell the runtime.
    runtime = {"runtime"}
    assert {(name, labels - runtime) for name, labels in shapes(ours, "container_")} == {
        (name, labels - runtime) for name, labels in shapes(theirs, "container_")
    }
    assert shapes(ours, "grpc_server_") == shapes(theirs, "grpc_server_")
    assert shapes(ours, "process_") >= shapes(theirs, "process_")
    assert shapes(ours, "containerd_build_info") == shapes(theirs, "containerd_build_info")


def test_calls_are_counted(ctr: Ctr, daemon: DaemonProcess) -> None:
    labels = {
        "grpc_service": "containerd.services.containers.v1.Containers",
        "grpc_method": "Get",
        "grpc_type": "unary",
    }
    before = of(scrape(daemon), **labels, grpc_code="NotFound")["grpc_server_handled_total"]
    assert ctr.run("container", "info", "nothing").returncode != 0
    samples = scrape(daemon)
    assert of(samples, **labels, grpc_code="NotFound")["grpc_server_handled_total"] == before + 1
    counts = of(samples, **labels)
    assert counts["grpc_server_handling_seconds_count"] == counts["grpc_server_started_total"] == before + 1
    assert of(samples, **labels, le="+Inf")["grpc_server_handling_seconds_bucket"] == before + 1


@pytest.mark.parametrize("patience", ["500ms"])
def test_a_shim_that_hangs_costs_only_its_own_figures(ctr: Ctr, daemon: DaemonProcess) -> None:
    run_sleeper(ctr, "good")
    run_sleeper(ctr, "hangs")
    shim = shim_of(ctr, "hangs")

    def only_the_good_answers() -> bool:
        samples = scrape(daemon)
        assert of(samples, container_id="hangs") == {}
        return bool(of(samples, container_id="good"))

    os.kill(shim, signal.SIGSTOP)
    try:
        until(lambda: is_stopped(shim))
        until(only_the_good_answers, "figures of the other, in half a second")
    finally:
        os.kill(shim, signal.SIGCONT)
    daemon.wait_for_log("collecting metrics for hangs")
    until(lambda: of(scrape(daemon), container_id="hangs"), "figures of the one that answers again")
    remove(ctr, "good", "hangs")


def test_a_restarted_daemon_measures_the_tasks_it_found(ctr: Ctr, daemon: DaemonProcess) -> None:
    run_sleeper(ctr, "one")
    before = of(scrape(daemon), container_id="one", runtime="io.containerd.runc.v2")
    daemon.restart(crash=True)
    after = of(scrape(daemon), container_id="one", runtime="io.containerd.runc.v2")
    assert after.keys() == before.keys() != set()
    remove(ctr, "one")


def test_no_prometheus_leaves_containers_out(daemon: DaemonProcess, ctr: Ctr, short_folder: Path) -> None:
    config = (short_folder / "config.toml").read_text()
    daemon.write_config(
        f'{config}[plugins."io.containerd.monitor.task.v1.cgroups"]\n  no_prometheus = true\n'
    )
    daemon.restart()
    run_sleeper(ctr, "one")
    samples = scrape(daemon)
    assert shapes(samples, "container_") == set()
    assert shapes(samples, "grpc_server_started_total")
    remove(ctr, "one")


def test_an_address_that_is_taken_keeps_the_daemon_from_starting(short_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = f'version = 4\n[plugins."io.containerd.server.v1.metrics"]\naddress = "{address}"\n'
        with pytest.raises(DaemonError, match=f"listen for metrics on {address}"):
            DaemonProcess(short_folder, config=config).start()


# The debug socket


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("debug")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(GIVE_UP_SECONDS)
        self.sock.connect(str(self._path))


def ask(daemon: DaemonProcess, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    connection = _UnixConnection(daemon.folder / "debug.sock")
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_the_debug_socket_shows_stacks(daemon: DaemonProcess) -> None:
    found = (daemon.folder / "debug.sock").stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    status, text = ask(daemon, "GET", "/debug/stacks")
    assert status == 200
    assert re.search(r"^thread \d+ \[MainThread\]:$", text, re.MULTILINE)
    assert re.search(r"^task Task-1:\n.* in Daemon\.run$", text, re.MULTILINE | re.DOTALL)
    assert ask(daemon, "PUT", "/debug/stacks")[0] == 405
    daemon.stop()
    assert not (daemon.folder / "debug.sock").exists()


def test_ctr_pprof_is_answered_with_what_a_python_program_has(daemon: DaemonProcess) -> None:
    ctr = Ctr(daemon.address)
    pprof = ("pprof", "--debug-socket", str(daemon.folder / "debug.sock"))
    assert " in Daemon.run" in ctr(*pprof, "goroutines")
    assert " MainThread " in ctr(*pprof, "threadcreate")
    assert "VmRSS:" in ctr(*pprof, "heap")
    # Whatever was seen: lines of "thread;call;… count", or none where nothing was done.
    for line in ctr(*pprof, "profile", "--seconds", "200ms").splitlines():
        assert re.fullmatch(r"[^;]+(;[^;]+)+ \d+", line), line
    for wrong in ("0", "none", "1e9", "nan"):
        assert ask(daemon, "GET", f"/debug/pprof/profile?seconds={wrong}")[0] == 400
    refused = ctr.run(*pprof, "trace")
    assert (refused.returncode, "404" in refused.stderr) == (1, True)


def test_the_log_level_changes_while_the_daemon_runs(daemon: DaemonProcess) -> None:
    ctr = Ctr(daemon.address)
    assert ask(daemon, "GET", "/debug/loglevel") == (200, "debug\n")
    assert ask(daemon, "PUT", "/debug/loglevel", "warn\n") == (200, "warn\n")
    assert "log level changed over the debug socket" in daemon.log
    calls = daemon.log.count("msg=call")
    ctr("namespace", "ls")
    assert daemon.log.count("msg=call") == calls
    status, said = ask(daemon, "PUT", "/debug/loglevel", "loud")
    assert (status, "not a valid log level" in said) == (400, True)
    assert ask(daemon, "GET", "/debug/loglevel") == (200, "warn\n")
    assert ask(daemon, "PUT", "/debug/loglevel", "debug") == (200, "debug\n")
    ctr("namespace", "ls")
    assert daemon.log.count("msg=call") > calls


def test_no_debug_port_that_everybody_can_reach(short_folder: Path) -> None:
    config = 'version = 4\n[plugins."io.containerd.server.v1.debug"]\naddress = "127.0.0.1:0"\n'
    daemon = DaemonProcess(short_folder, config=config).start()
    daemon.stop()
    assert "must be the path of a Unix socket" in daemon.log
