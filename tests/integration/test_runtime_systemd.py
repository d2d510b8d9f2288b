"""The systemd cgroup driver: what the runtime asks systemd for, over a bus of the test's own.

``fake_systemd`` stands in for systemd and says its name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.fake_systemd import CGROUPS, NAME, FakeSystemd
from tests.integration.runtime_kit import MARKS, Cli, Spec, clis, names, ours, walled, walls

from containerd_hybrid.testing.leaks import remove_cgroups
from containerd_hybrid.testing.processes import runs
from containerd_hybrid.testing.waiting import until

__all__ = ["clis", "ours", "walled", "walls"]  # fixtures

pytestmark = [
    *MARKS,
    pytest.mark.skipif(sys.byteorder != "little", reason="the fake systemd writes little-endian messages"),
]


@pytest.fixture
def systemd(
    walled: Cli, short_folder: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeSystemd]:
    bus = short_folder / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={bus}")
    fake = FakeSystemd(bus)
    try:
        yield fake
    finally:
        # A failed test's containers end while there is somebody to ask.
        for name in names(walled.root):
            walled("delete", "--force", name)
        fake.close()
        remove_cgroups(f"{token}.slice")


def in_slice(token: str, **resources: object) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        spec["linux"]["cgroupsPath"] = f"{token}.slice:cri:box"
        spec["linux"]["resources"] |= resources

    return change


def create(cli: Cli, change: Callable[[Spec], None]) -> str:
    bundle = cli.bundle("sleep", "1000", change=change)
    name = f"{cli.token}-unit"
    cli.ok("--systemd-cgroup", "create", "--bundle", str(bundle), name)
    return name


def test_the_life_of_a_unit(walled: Cli, systemd: FakeSystemd) -> None:
    memory = 64 << 20
    limits = {
        "memory": {"limit": memory},
        "cpu": {"shares": 512, "quota": 20_000, "period": 100_000},
        "pids": {"limit": 50},
    }
    name = create(walled, in_slice(walled.token, **limits))
    ((unit, _, properties, _),) = systemd.named("StartTransientUnit")
    found = dict(properties)
    assert unit == "cri-box.scope"
    assert found["Slice"] == f"{walled.token}.slice"
    assert (found["Delegate"], found["DefaultDependencies"]) == (1, 0)
    assert found["TasksMax"] == 50
    assert found["CPUQuotaPerSecUSec"] == 200_000
    assert memory in (found.get("MemoryLimit"), found.get("MemoryMax"))
    assert [member for member, _ in systemd.calls][:3] == ["Hello", "AddMatch", "Subscribe"]
    # Whoever stood in is gone, the container's process is there, in every hierarchy.
    pid = walled.state(name)["pid"]
    (stood_in,) = found["PIDs"]
    assert stood_in != pid
    until(lambda: not runs(stood_in), stood_in)
    place = f"/{walled.token}.slice/cri-box.scope"
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert {line.split(":", 2)[2] for line in lines if not line.startswith("0:")} <= {place}
    walled.ok("start", name)

    # Later commands know by the container's state that it is a unit.
    resources = walled.folder / "resources.json"
    resources.write_text(json.dumps({"pids": {"limit": 40}}))
    walled.ok("update", "--resources", str(resources), name)
    assert systemd.named("SetUnitProperties") == [["cri-box.scope", 1, [("TasksMax", 40)]]]
    walled.ok("delete", "--force", name)
    assert systemd.named("StopUnit") == [["cri-box.scope", "replace"]]
    assert not list(CGROUPS.glob(f"*/{walled.token}.slice/*.scope"))


def test_a_unit_that_is_gone_already_is_no_reason_to_fail(walled: Cli, systemd: FakeSystemd) -> None:
    name = create(walled, in_slice(walled.token))
    systemd._units.clear()
    walled.ok("delete", "--force", name)
    assert names(walled.root) == []


def test_a_unit_that_is_another_containers_is_left_alone(walled: Cli, systemd: FakeSystemd) -> None:
    name = create(walled, in_slice(walled.token))
    bundle = walled.bundle("true", change=in_slice(walled.token))
    done = walled("--systemd-cgroup", "run", "--bundle", str(bundle), "other")
    assert done.returncode == 1
    assert "UnitExists" in done.stderr
    assert systemd.named("StopUnit") == []
    assert walled.state(name)["status"] == "created"
    walled.ok("delete", "--force", name)


def test_what_systemd_refuses_is_said(walled: Cli, systemd: FakeSystemd) -> None:
    systemd.result = "failed"
    bundle = walled.bundle("true", change=in_slice(walled.token))
    done = walled("--systemd-cgroup", "run", "--bundle", str(bundle), "box")
    assert done.returncode == 1
    assert "systemd: unit cri-box.scope was not made: failed" in done.stderr
    assert names(walled.root) == []


def test_a_container_that_fails_leaves_no_unit(walled: Cli, systemd: FakeSystemd) -> None:
    bundle = walled.bundle("/no/such/program", change=in_slice(walled.token))
    done = walled("--systemd-cgroup", "run", "--bundle", str(bundle), "box")
    assert done.returncode == 1
    assert systemd.named("StopUnit") == [["cri-box.scope", "replace"]]
    assert not list(CGROUPS.glob(f"*/{walled.token}.slice/*.scope"))


def test_a_path_that_is_no_units(walled: Cli, systemd: FakeSystemd) -> None:
    bundle = walled.bundle("true")
    done = walled("--systemd-cgroup", "run", "--bundle", str(bundle), "box")
    assert done.returncode == 1
    assert "SLICE:PREFIX:NAME" in done.stderr
    assert systemd.calls == []


def test_without_systemd(walled: Cli, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={short_folder}/none")
    bundle = walled.bundle("true", change=in_slice(walled.token))
    done = walled("--systemd-cgroup", "run", "--bundle", str(bundle), "box")
    assert done.returncode == 1
    assert "needs a running systemd" in done.stderr
    assert f"{short_folder}/none" in done.stderr
    assert NAME not in done.stderr
    assert names(walled.root) == []
    assert not list(CGROUPS.glob(f"*/{walled.token}.slice"))
