"""Making a task: what the program is given, and that nothing is left of what could not be made."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.unit.tasks.kit import DELETE, SCOPE, START, World
from tests.unit.tasks.test_manager import run

from containerd_hybrid.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.runtime.bootstrap.v1 import bootstrap_pb2
from containerd_hybrid.proto.types import introspection_pb2
from containerd_hybrid.tasks.api import CreateTask
from containerd_hybrid.tasks.bundle import SPEC_TYPE
from containerd_hybrid.tasks.settings import ShimSettings

OPTIONS = AnyValue("containerd.runc.v1.Options", b"\x3a\x02/r")
NEWER = (
    """if grep -q /run/x.sock.ttrpc "$MARKS/start.stdin"; then %s; else"""
    " echo 'x: shim was started through the deprecated API but was built against the new API' >&2;"
    " exit 1; fi"
)


def leftovers(world: World) -> list[Path]:
    return [p for top in (world.state, world.root) for p in top.glob("*/*")] + [
        p for top in (world.state, world.root) for p in top.glob("*/.*")
    ]


async def nothing_is_left(world: World) -> None:
    assert leftovers(world) == []
    assert await world.tasks.list(SCOPE) == []
    assert world.events.published == []
    # The name is free again.
    world.write_program()
    world.shims.clear()
    assert await world.tasks.create(SCOPE, CreateTask("c1"))


async def undone(world: World) -> None:
    """What a caller that went away had begun is undone without it."""
    while world.tasks._creation._making:
        await asyncio.sleep(0.005)


async def run_other(world: World, start: str = START) -> None:
    """Run a task with a shim program that is not known to be ours."""
    program = world.write_program(start, path=world.folder / "containerd-shim-other-v1")
    await run(world, options=OPTIONS, runtime_path=str(program))


async def test_how_a_program_is_started(world: World) -> None:
    await run_other(world)
    assert world.mark("start.args").split() == [
        *("-namespace", "ns", "-address", "/run/x.sock", "-publish-binary", "/usr/bin/publisher"),
        *("-id", "c1", "start"),
    ]
    assert world.mark("start.cwd").strip() == str(world.bundle("c1"))
    env = dict(line.partition("=")[::2] for line in world.mark("start.env").splitlines())
    assert env["TTRPC_ADDRESS"] == "/run/x.sock.ttrpc"
    assert env["GRPC_ADDRESS"] == "/run/x.sock"
    assert env["NAMESPACE"] == "ns"
    assert env["GOMAXPROCS"] == "2"
    assert env["MAX_SHIM_VERSION"] == "3"
    assert env["EXTRA"] == "1=2"
    assert env["PATH"] == os.environ["PATH"]
    stdin = AnyMessage.FromString((world.marks / "start.stdin").read_bytes())
    assert (stdin.type_url, stdin.value) == (OPTIONS.type_url, OPTIONS.value)


async def test_what_the_bundle_remembers(world: World) -> None:
    await run(world)
    bundle = world.bundle("c1")
    assert (bundle / "shim-binary-path").read_text() == str(world.program)
    assert json.loads((bundle / "bootstrap.json").read_text()) == {
        "version": 2,
        "address": "unix:///fake/c1",
        "protocol": "ttrpc",
    }
    assert (bundle / "log").is_fifo()
    assert not (bundle / "sandbox").exists()


async def test_debug_is_passed_on(world: World) -> None:
    settings = world.launcher.programs.settings
    world.launcher.programs.settings = ShimSettings(
        settings.address, settings.ttrpc_address, settings.publish_binary, env=settings.env, debug=True
    )
    await run(world)
    assert world.mark("start.args").split()[-2:] == ["-debug", "start"]


async def test_a_newer_program_is_given_bootstrap_params(world: World) -> None:
    await run_other(world, NEWER % START)
    await check_params(world)


async def test_many_at_once_find_out_that_a_program_is_newer(world: World) -> None:
    program = world.write_program(NEWER % START, path=world.folder / "containerd-shim-other-v1")
    program.write_text(program.read_text().replace("$MARKS/", "$PWD/"))
    names = [f"c{number}" for number in range(10)]
    await asyncio.gather(*(run(world, name, options=OPTIONS, runtime_path=str(program)) for name in names))
    assert len(await world.tasks.list(SCOPE)) == 10


async def test_ours_is_given_bootstrap_params_at_once(world: World) -> None:
    await run(world, options=OPTIONS)
    await check_params(world)


async def check_params(world: World) -> None:
    params = bootstrap_pb2.BootstrapParams.FromString((world.marks / "start.stdin").read_bytes())
    assert (params.instance_id, params.namespace) == ("c1", "ns")
    assert params.containerd_ttrpc_address == "/run/x.sock.ttrpc"
    assert params.containerd_grpc_address == "/run/x.sock"
    assert params.containerd_binary == "/usr/bin/publisher"
    assert not params.HasField("socket_dir")
    (extension,) = params.extensions
    assert (extension.value.type_url, extension.value.value) == (OPTIONS.type_url, OPTIONS.value)


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ('printf "unix:///fake/c1\n"', 2),
        ("""printf '{"version":3,"address":"unix:///fake/c1","protocol":"ttrpc"}'""", 3),
        (r"""printf '\010\003\022\017unix:///fake/c1\032\005ttrpc'""", 3),
    ],
)
async def test_every_generation_of_answers(world: World, printed: str, version: int) -> None:
    world.write_program(start=printed)
    world.shim("c1").versions = {version}
    await run(world)
    assert world.launcher.table.get("ns", "c1").version == version


async def test_a_newer_program_that_leads_to_an_older_shim(world: World) -> None:
    world.write_program(start="""printf '{"version":3,"address":"unix:///fake/c1","protocol":"ttrpc"}'""")
    world.shim("c1").versions = {2}
    await run(world)
    assert (await world.tasks.get(SCOPE, "c1")).pid
    await world.restart()
    assert (await world.tasks.get(SCOPE, "c1")).pid


async def test_the_pid_is_asked_for_when_a_shim_does_not_say_it(world: World) -> None:
    from google.protobuf.empty_pb2 import Empty

    shim = world.shim("c1")
    real = shim._METHODS["Create"]

    async def create(self: object, request: object) -> Empty:
        await real[1](shim, request)
        return Empty()

    shim._METHODS = {**shim._METHODS, "Create": (real[0], create)}
    world.containers.add("c1")
    assert await world.tasks.create(SCOPE, CreateTask("c1")) == 1001


async def test_the_shim_of_a_sandbox_is_joined(world: World) -> None:
    world.write_program(start="""printf '{"version":3,"address":"unix:///fake/s","protocol":"ttrpc"}'""")
    await run(world, "pod")
    world.write_program(start="exit 1")
    world.containers.add("c1", sandbox="pod")
    await world.tasks.create(SCOPE, CreateTask("c1"))
    assert set(world.shim("s").tasks) == {"pod", "c1"}
    assert (world.bundle("c1") / "sandbox").read_text() == "pod"
    assert json.loads((world.bundle("c1") / "bootstrap.json").read_text())["address"] == "unix:///fake/s"
    await world.tasks.delete(SCOPE, "c1")
    assert not world.shim("s").stopped


async def test_an_older_shim_groups_by_itself(world: World) -> None:
    await run(world, "pod")
    world.containers.add("c1", sandbox="pod")
    await world.tasks.create(SCOPE, CreateTask("c1"))
    assert "-id\nc1\n" in world.mark("start.args")


async def test_a_runtime_named_by_the_request(world: World) -> None:
    program = world.write_program(path=world.folder / "containerd-shim-mine-v1")
    world.containers.add("c1", runtime_name="io.containerd.nope.v1")
    await world.tasks.create(SCOPE, CreateTask("c1", runtime_path=str(program)))
    assert (world.bundle("c1") / "shim-binary-path").read_text() == str(program)


async def test_a_runtime_that_is_not_installed(world: World) -> None:
    world.containers.add("c1", runtime_name="io.containerd.kata.v2")
    with pytest.raises(NotFoundError) as raised:
        await world.tasks.create(SCOPE, CreateTask("c1"))
    assert raised.value.message == (
        'failed to start shim: failed to resolve runtime path: runtime "io.containerd.kata.v2" binary'
        ' not installed "containerd-shim-kata-v2": file does not exist'
    )
    world.containers.add("c1")
    await nothing_is_left(world)


async def test_without_a_spec_there_is_nothing_to_run(world: World) -> None:
    world.containers.add("c1", spec=None)
    with pytest.raises(InvalidArgumentError, match="container c1 has no spec to run"):
        await world.tasks.create(SCOPE, CreateTask("c1"))
    world.containers.add("c1")
    await nothing_is_left(world)


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        ("echo 'mkdir /run: read-only' >&2; exit 3", UnknownError, "mkdir /run: read-only: exit status 3"),
        ("kill -9 $$", UnknownError, "start failed: signal 9"),
        ("true", FailedPreconditionError, "printed no address"),
        ("echo two words", FailedPreconditionError, "printed no address"),
        ("echo '{}'", FailedPreconditionError, "cannot be read"),
        ("""echo '{"version":9,"address":"a"}'""", UnimplementedError, "unsupported shim version (9)"),
        (
            """echo '{"version":3,"address":"a","protocol":"grpc"}'""",
            UnimplementedError,
            "unsupported shim protocol 'grpc'",
        ),
        ("sleep 100", DeadlineExceededError, "did not end within 0.3 seconds"),
    ],
)
async def test_a_program_that_fails(world: World, start: str, error: type[Exception], message: str) -> None:
    settings = world.launcher.programs.settings
    world.launcher.programs.settings = ShimSettings(
        settings.address,
        settings.ttrpc_address,
        settings.publish_binary,
        env=settings.env,
        timeouts=type(world.timeouts)(start=0.3 if error is DeadlineExceededError else None),
    )
    world.write_program(start=start)
    world.containers.add("c1")
    with pytest.raises(error) as raised:
        await world.tasks.create(SCOPE, CreateTask("c1"))
    assert str(raised.value).startswith("failed to start shim: ")
    assert message in str(raised.value)
    world.launcher.programs.settings = settings
    await nothing_is_left(world)


async def test_a_program_that_is_no_program(world: World) -> None:
    world.program.write_text("")
    world.containers.add("c1")
    with pytest.raises(UnknownError, match=r"failed to start shim: cannot run .*: Exec format error"):
        await world.tasks.create(SCOPE, CreateTask("c1"))
    await nothing_is_left(world)


async def test_a_shim_that_cannot_be_reached(world: World) -> None:
    world.containers.add("c1")
    world.shim("c1").die()
    with pytest.raises(UnavailableError, match=r"failed to start shim: .*connection refused"):
        await world.tasks.create(SCOPE, CreateTask("c1"))
    assert world.mark("delete.args")
    await nothing_is_left(world)


async def test_a_shim_that_refuses(world: World) -> None:
    world.containers.add("c1")
    shim = world.shim("c1")
    shim.fail["Create"] = UnknownError("OCI runtime create failed: exec: not found: unknown")
    with pytest.raises(UnknownError) as raised:
        await world.tasks.create(SCOPE, CreateTask("c1"))
    assert raised.value.message == (
        "failed to create shim task: OCI runtime create failed: exec: not found: unknown"
    )
    assert shim.calls == ["Create", "Delete", "Shutdown"]
    assert shim.stopped
    await nothing_is_left(world)


async def test_a_shim_that_dies_while_it_creates(world: World) -> None:
    world.containers.add("c1")
    shim = world.shim("c1")
    shim.hang.add("Create")
    creating = asyncio.ensure_future(world.tasks.create(SCOPE, CreateTask("c1")))
    while "Create" not in shim.calls:
        await asyncio.sleep(0.005)
    shim.die()
    with pytest.raises(UnavailableError, match="failed to create shim task: the shim ended"):
        await creating
    assert world.mark("delete.args")
    await nothing_is_left(world)


async def test_a_caller_that_goes_away(world: World) -> None:
    world.containers.add("c1")
    shim = world.shim("c1")
    shim.hang.add("Create")
    creating = asyncio.ensure_future(world.tasks.create(SCOPE, CreateTask("c1")))
    while "Create" not in shim.calls:
        await asyncio.sleep(0.005)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await undone(world)
    assert shim.stopped
    await nothing_is_left(world)


async def test_a_caller_that_goes_away_while_the_program_starts(world: World) -> None:
    world.write_program(start="sleep 100")
    world.containers.add("c1")
    creating = asyncio.ensure_future(world.tasks.create(SCOPE, CreateTask("c1")))
    while not (world.marks / "start.stdin").exists():
        await asyncio.sleep(0.005)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await undone(world)
    await nothing_is_left(world)


async def test_closing_undoes_what_is_in_the_making(world: World) -> None:
    world.containers.add("c1")
    shim = world.shim("c1")
    shim.hang.add("Create")
    creating = asyncio.ensure_future(world.tasks.create(SCOPE, CreateTask("c1")))
    while "Create" not in shim.calls:
        await asyncio.sleep(0.005)
    await world.tasks.close()
    assert shim.stopped
    assert leftovers(world) == []
    with pytest.raises(asyncio.CancelledError):
        await creating


async def test_a_bundle_that_an_earlier_failure_left_is_cleared_first(world: World) -> None:
    world.containers.add("c1")
    stale = world.bundle("c1")
    (stale / "rootfs").mkdir(parents=True)
    (stale / "old").touch()
    await world.tasks.create(SCOPE, CreateTask("c1"))
    assert world.mark("delete.args")
    assert not (stale / "old").exists()


IDMAPPED = AnyValue(
    SPEC_TYPE, json.dumps({"mounts": [{"destination": "/d", "options": ["idmap", "rbind"]}]}).encode()
)
FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"


@pytest.mark.parametrize(
    ("features", "allowed"),
    [
        ({"linux": {"mountExtensions": {"idmap": {"enabled": True}}}}, True),
        ({"linux": {"mountExtensions": {"idmap": {"enabled": False}}}}, False),
        ({"linux": {}}, False),
    ],
)
async def test_idmapped_mounts_need_a_runtime_that_knows_them(
    world: World, features: dict[str, object], allowed: bool
) -> None:
    info = introspection_pb2.RuntimeInfo(name="x")
    info.features.type_url = FEATURES
    info.features.value = json.dumps(features).encode()
    (world.marks / "info").write_bytes(info.SerializeToString())
    program = world.program.read_text().replace("esac", '-info) cat "/proc/self/fd/3" 3< @ ;;\nesac')
    program = program.replace("@", str(world.marks / "info"))
    world.program.write_text(program.replace('"$MARKS', f'"{world.marks}'))
    world.containers.add("c1", spec=IDMAPPED)
    if allowed:
        await world.tasks.create(SCOPE, CreateTask("c1"))
        return
    with pytest.raises(FailedPreconditionError, match="idmap mounts not supported"):
        await world.tasks.create(SCOPE, CreateTask("c1"))
    world.containers.add("c1")
    await nothing_is_left(world)


def test_the_kits_delete_answer_is_what_it_says() -> None:
    import subprocess

    from containerd_hybrid.proto.runtime.task.v3.shim_pb2 import DeleteResponse

    printed = subprocess.run(["sh", "-c", DELETE], capture_output=True, check=True).stdout
    response = DeleteResponse.FromString(printed)
    assert (response.pid, response.exit_status, response.exited_at.seconds) == (77, 137, 1_700_000_000)
