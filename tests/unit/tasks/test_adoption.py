"""A second daemon on the same folders: what it finds and what it makes of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.tasks.kit import SCOPE, World
from tests.unit.tasks.test_manager import ENDED_AT, run

from containerd_hybrid.errors import NotFoundError, UnavailableError, UnknownError
from containerd_hybrid.tasks.api import AdoptionReport, CreateTask, Exit, Status


async def test_nothing_at_all(world: World) -> None:
    assert await world.restart() == AdoptionReport()


async def test_folders_are_made(world: World) -> None:
    world.root.rmdir()
    world.state.rmdir()
    await world.restart()
    assert (world.root.stat().st_mode & 0o777, world.state.stat().st_mode & 0o777) == (0o711, 0o711)


async def test_a_running_task_is_adopted_and_usable(world: World) -> None:
    pid = await run(world)
    assert await world.restart() == AdoptionReport(adopted=("ns/c1",))
    assert [(p.container_id, p.pid, p.status) for p in await world.tasks.list(SCOPE)] == [
        ("c1", pid, Status.RUNNING)
    ]
    waiting = asyncio.ensure_future(world.tasks.wait(SCOPE, "c1"))
    await world.tasks.kill(SCOPE, "c1", 9)
    assert await waiting == Exit(pid, 137, ENDED_AT)
    await world.tasks.delete(SCOPE, "c1")
    assert world.shim("c1").stopped
    assert not world.bundle("c1").exists()


async def test_a_task_that_exited_meanwhile_tells_its_code(world: World) -> None:
    pid = await run(world)
    world.shim("c1").tasks["c1"][""].end(7)
    assert (await world.restart()).adopted == ("ns/c1",)
    process = await world.tasks.get(SCOPE, "c1")
    assert (process.status, process.exit_status) == (Status.STOPPED, 7)
    assert await world.tasks.wait(SCOPE, "c1") == Exit(pid, 7, ENDED_AT)
    assert await world.tasks.delete(SCOPE, "c1") == Exit(pid, 7, ENDED_AT)


async def test_an_adopted_shim_that_dies_is_cleaned_up_after(world: World) -> None:
    await run(world)
    await world.restart()
    world.shim("c1").die()
    while world.bundle("c1").exists() or world.launcher.table.find("ns", "c1"):
        await asyncio.sleep(0.005)
    assert [type(event).__name__ for _, event in world.events.published] == ["TaskExit", "TaskDelete"]


async def test_a_shim_that_died_meanwhile_is_cleaned_up_after(world: World) -> None:
    await run(world)
    world.shim("c1").die()
    assert await world.restart() == AdoptionReport(cleaned=("ns/c1",))
    assert world.mark("delete.args").endswith("delete\n")
    assert not world.bundle("c1").exists()
    assert not (world.root / "ns/c1").exists()
    assert world.events.published == []
    with pytest.raises(NotFoundError, match="task c1 not found"):
        await world.tasks.get(SCOPE, "c1")
    world.shims.clear()
    await world.tasks.create(SCOPE, CreateTask("c1"))


async def test_a_shim_whose_task_was_never_made_is_shut_down(world: World) -> None:
    await run(world)
    world.shim("c1").tasks.clear()
    assert await world.restart() == AdoptionReport(cleaned=("ns/c1",))
    assert world.shim("c1").stopped
    assert not world.bundle("c1").exists()


async def test_a_shim_that_does_not_answer_is_kept_and_reported(world: World) -> None:
    await run(world)
    world.shim("c1").hang.add("State")
    report = await world.restart()
    assert report.adopted == ("ns/c1",)
    assert "does not answer" in report.failed["ns/c1"]
    assert world.bundle("c1").exists()
    world.shim("c1").hang.clear()
    assert (await world.tasks.get(SCOPE, "c1")).status is Status.RUNNING


async def test_a_shim_that_answers_strangely_is_reported_and_left(world: World) -> None:
    await run(world)
    world.shim("c1").fail["State"] = UnknownError("boom")
    report = await world.restart()
    assert report == AdoptionReport(failed={"ns/c1": "boom"})
    assert world.bundle("c1").exists()


async def test_a_half_made_bundle_is_cleared(world: World) -> None:
    for name in ("empty", "started"):
        (world.state / "ns" / name).mkdir(parents=True)
        (world.root / "ns" / name).mkdir(parents=True)
    (world.state / "ns/started/rootfs").mkdir()
    (world.state / "ns/started/shim-binary-path").write_text(str(world.program))
    assert await world.restart() == AdoptionReport(cleaned=("ns/empty", "ns/started"))
    assert list(world.state.glob("ns/*")) == list(world.root.glob("ns/*")) == []
    assert world.mounter.unmounted.count(world.state / "ns/started/rootfs") == 1


async def test_the_shim_of_a_half_made_bundle_is_found_and_ended(world: World) -> None:
    bundle = world.state / "ns" / "c1"
    bundle.mkdir(parents=True)
    shim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "-id", "c1"], cwd=bundle)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=bundle)
    try:
        assert (await world.restart()).cleaned == ("ns/c1",)
        assert await asyncio.to_thread(shim.wait) == -9
        assert bystander.poll() is None
    finally:
        for process in (shim, bystander):
            process.kill()
            await asyncio.to_thread(process.wait)


async def test_a_program_that_is_gone_is_looked_up_anew(world: World) -> None:
    await run(world)
    world.shim("c1").die()
    (world.bundle("c1") / "shim-binary-path").write_text("/nowhere/containerd-shim-old-v1")
    assert (await world.restart()).cleaned == ("ns/c1",)
    assert world.mark("delete.args").endswith("delete\n")


async def test_without_any_program_what_can_be_done_is_done(world: World) -> None:
    await run(world)
    world.shim("c1").die()
    (world.bundle("c1") / "shim-binary-path").unlink()
    world.containers.records.clear()
    assert (await world.restart()).cleaned == ("ns/c1",)
    assert not (world.marks / "delete.args").exists()
    assert not world.bundle("c1").exists()


async def test_what_an_older_daemon_left_has_only_an_address(world: World) -> None:
    await run(world)
    (world.bundle("c1") / "bootstrap.json").unlink()
    (world.bundle("c1") / "address").write_text("unix:///fake/c1")
    assert (await world.restart()).adopted == ("ns/c1",)


async def test_interrupted_removals_are_finished_and_unused_working_folders_go(world: World) -> None:
    await run(world)
    rubbish = [world.state / "ns/.old", world.root / "ns/.older", world.root / "ns/rebooted"]
    for path in rubbish:
        (path / "deep").mkdir(parents=True)
    report = await world.restart()
    assert report.adopted == ("ns/c1",)
    assert set(report.cleaned) == {str(path) for path in rubbish}
    assert not any(path.exists() for path in rubbish)
    assert (world.root / "ns/c1").exists()


async def test_folders_that_cannot_be_bundles_are_reported_and_left(world: World) -> None:
    strange = world.state / "ns" / "not an id"
    strange.mkdir(parents=True)
    report = await world.restart()
    assert "must match" in report.failed["ns/not an id"]
    assert strange.exists()


async def test_other_files_are_nobodys_business(world: World) -> None:
    (world.state / "note").touch()
    (world.state / "ns").mkdir()
    (world.state / "ns" / "note").touch()
    (world.state / "ns" / "link").symlink_to("/")
    assert await world.restart() == AdoptionReport()
    assert (world.state / "ns" / "link").is_symlink()


async def test_many_at_once(world: World) -> None:
    for number in range(60):
        await run(world, f"c{number}")
    for number in range(0, 60, 3):
        world.shim(f"c{number}").die()
    report = await world.restart()
    assert (len(report.adopted), len(report.cleaned), report.failed) == (40, 20, {})
    assert len(await world.tasks.list(SCOPE)) == 40


async def test_shims_that_hang_in_every_way_do_not_keep_the_daemon_from_starting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        await run(world, f"c{number}")
        world.shim(f"c{number}").hang.update({"State", "Delete", "Shutdown"})

    async def connect(address: str, *, timeout: float | None = None) -> None:
        await asyncio.sleep(timeout or 0)
        raise UnavailableError("no answer")

    monkeypatch.setattr(world, "connect", connect)
    world.write_program(delete="sleep 0.1")
    report = await world.restart()
    assert len(report.adopted) + len(report.cleaned) + len(report.failed) == 40


async def test_a_bundle_that_cannot_be_removed_is_reported(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(world)
    world.shim("c1").die()

    async def unmount(target: Path) -> None:
        raise UnavailableError(f"umount {target}: device or resource busy")

    monkeypatch.setattr(world.mounter, "unmount", unmount)
    report = await world.restart()
    assert report.failed == {"ns/c1": f"{world.bundle('c1')} could not be removed"}
    assert world.bundle("c1").exists()
