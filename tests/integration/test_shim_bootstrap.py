"""The shim's program without a daemon: how it is started, served, described and cleaned up after."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from containerd_hybrid._programs import shim_path
from containerd_hybrid.errors import HybridError, NotFoundError, UnimplementedError
from containerd_hybrid.proto.events import task_pb2 as events
from containerd_hybrid.proto.runtime.bootstrap.v1 import bootstrap_pb2
from containerd_hybrid.proto.runtime.task.v3 import shim_pb2 as pb
from containerd_hybrid.proto.services.streaming.v1 import streaming_pb2
from containerd_hybrid.proto.types import introspection_pb2
from containerd_hybrid.proto.types.runc import options_pb2
from containerd_hybrid.proto.types.transfer import streaming_pb2 as bytes_pb2
from containerd_hybrid.testing.images import busybox_program
from containerd_hybrid.testing.leaks import remove_cgroups
from containerd_hybrid.testing.processes import open_files
from containerd_hybrid.testing.waiting import GIVE_UP_SECONDS, until
from containerd_hybrid.ttrpc.client import Client, ClientStream, connect

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed"),
]

REQUEST, MAX_DATA = 1, 4 << 20
WINDOW = 64 << 10
STREAMS = ("stdin", "stdout", "stderr")
KILLED = 128 + signal.SIGKILL
# Signals 32 and 33: glibc's posix_spawn, which make uses, leaves them ignored, and lets nobody change that.
OF_THE_C_LIBRARY = 0b11 << 31

Start: TypeAlias = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def program() -> Path:
    try:
        return shim_path()
    except NotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def bundle(short_folder: Path, token: str) -> Path:
    """A container of one shell script, ``script`` beside its configuration."""
    folder = short_folder / token / "box"
    rootfs = folder / "rootfs"
    for name in ("bin", "proc", "dev"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(busybox_program(), rootfs / "bin/sh")
    spec = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", "echo published; exit 3"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/{token}/box",
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
        },
    }
    (folder / "config.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture
def start(program: Path, bundle: Path, token: str) -> Iterator[Start]:
    """``start`` for the bundle; the shims it made are ended."""

    def call(
        *flags: str,
        stdin: bytes = b"",
        environment: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> subprocess.CompletedProcess[bytes]:
        known = {"TTRPC_ADDRESS", "MAX_SHIM_VERSION", "GRPC_ADDRESS", "NAMESPACE"}
        inherited = {name: value for name, value in os.environ.items() if name not in known}
        command = [str(program), "-namespace", token, "-id", "box", "-address", f"/no/daemon/{token}", *flags]
        return subprocess.run(
            [*command, "start"],
            input=stdin,
            capture_output=True,
            check=False,
            cwd=bundle,
            env={**inherited, **(environment or {})},
            pass_fds=pass_fds,
        )

    yield call
    for pid in shims(token):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not shims(token))
    address = bundle / "address"
    if address.exists():
        socket_of(address.read_text()).unlink(missing_ok=True)
    # runc leaves the folders it made for the container's own.
    remove_cgroups(token)
    for parent in Path("/run/containerd/runc").glob(token):
        parent.rmdir()


def shims(namespace: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"-namespace" in words and namespace.encode() in words:
            found.append(int(path.parent.name))
    return found


def socket_of(address: str) -> Path:
    assert address.startswith("unix:///")
    return Path(address.removeprefix("unix://"))


def wait_for_service(path: Path) -> None:
    """The starter's socket is there before the shim is: only an answer shows that it serves."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(120)
        peer.connect(str(path))
        peer.sendall(struct.pack(">IIBB", 0, 2, REQUEST, 0))  # clients' streams have odd numbers
        assert peer.recv(1)


async def call(client: Client, method: str, request: Message, version: int = 3) -> bytes:
    return await client.call(
        f"containerd.task.v{version}.Task", method, request.SerializeToString(), timeout=120
    )


def test_version_and_mistakes(program: Path, bundle: Path) -> None:
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
    assert "Version:" in done.stdout
    for arguments, words in [
        (["start"], "namespace cannot be empty"),
        (["-namespace", "n", "dance"], "unknown action"),
        (["-nope"], "not defined: -nope"),
        (["-namespace", "n", "-id", "x"], "descriptor 3 is no listening socket"),
    ]:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=bundle,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 1
        assert words in done.stderr


def test_info(program: Path) -> None:
    options = options_pb2.Options(binary_name="runc", systemd_cgroup=True)
    asked = Any(type_url="containerd.runc.v1.Options", value=options.SerializeToString())
    done = subprocess.run(
        [program, "-info"], input=asked.SerializeToString(), capture_output=True, check=True
    )
    info = introspection_pb2.RuntimeInfo.FromString(done.stdout)
    assert info.name == "io.containerd.hybrid.v2"
    assert info.version.version
    assert info.options == asked
    if info.HasField("features"):  # runc has them from 1.1 on
        assert info.features.type_url.endswith("runtime-spec/1/features/Features")
        assert "ociVersionMax" in json.loads(info.features.value)


async def test_the_oldest_form_is_the_address_alone(start: Start, bundle: Path, token: str) -> None:
    done = start()
    assert (done.returncode, done.stderr) == (0, b"")
    address = done.stdout.decode()
    assert (bundle / "address").read_text() == address
    assert socket_of(address).stat().st_mode & 0o777 == 0o600
    (pid,) = shims(token)
    assert (bundle / "shim.pid").read_text() == str(pid)
    assert os.getsid(pid) == pid
    # A second container of the group finds the first one's shim.
    again = start()
    assert again.stdout == done.stdout
    assert shims(token) == [pid]
    client = await connect(address)
    for version in (2, 3):
        answer = await call(client, "Connect", pb.ConnectRequest(id="box"), version)
        assert pb.ConnectResponse.FromString(answer).shim_pid == pid
    with pytest.raises(UnimplementedError):
        await call(client, "Connect", pb.ConnectRequest(id="box"), version=9)
    await call(client, "Shutdown", pb.ShutdownRequest(id="box"))
    await client.close()
    until(lambda: not shims(token))
    assert not socket_of(address).exists()


def test_a_version_limit_is_answered_with_json(start: Start) -> None:
    done = start(environment={"MAX_SHIM_VERSION": "2"})
    answer = json.loads(done.stdout)
    assert answer["version"] == 2
    assert answer["protocol"] == "ttrpc"
    assert socket_of(answer["address"]).exists()


def test_a_bootstrap_message_is_answered_with_one(start: Start, short_folder: Path, token: str) -> None:
    sockets = short_folder / "s"
    params = bootstrap_pb2.BootstrapParams(
        instance_id="box", namespace=token, containerd_grpc_address="/no/daemon", socket_dir=str(sockets)
    )
    done = start(stdin=params.SerializeToString(), environment={"MAX_SHIM_VERSION": "2"})
    result = bootstrap_pb2.BootstrapResult.FromString(done.stdout)
    assert (result.version, result.protocol) == (3, "ttrpc")
    assert socket_of(result.address).parent == sockets
    # A message for another container is not taken for this one's.
    params.instance_id = "other"
    refused = start(stdin=params.SerializeToString())
    assert refused.returncode == 1
    assert b"not known" in refused.stderr or b"stdin" in refused.stderr


def test_a_dead_socket_is_replaced(start: Start, token: str) -> None:
    address = start().stdout
    (first,) = shims(token)
    os.kill(first, signal.SIGKILL)
    until(lambda: not shims(token))
    assert socket_of(address.decode()).exists()
    assert start().stdout == address
    (second,) = shims(token)
    assert second != first


def test_a_shim_cgroup_has_to_exist(start: Start, token: str) -> None:
    options = options_pb2.Options(shim_cgroup=f"/{token}-missing")
    asked = Any(type_url="containerd.runc.v1.Options", value=options.SerializeToString())
    done = start(stdin=asked.SerializeToString())
    assert done.returncode == 1
    assert b"does not exist" in done.stderr
    until(lambda: not shims(token))


def test_a_shim_cgroup_is_joined(start: Start, token: str) -> None:
    root = Path("/sys/fs/cgroup")
    hierarchies = [root] if (root / "cgroup.controllers").exists() else [root / "pids", root / "memory"]
    for hierarchy in hierarchies:
        (hierarchy / token).mkdir()
    options = options_pb2.Options(shim_cgroup=f"/{token}")
    asked = Any(type_url="containerd.runc.v1.Options", value=options.SerializeToString())
    assert start(stdin=asked.SerializeToString()).returncode == 0
    (pid,) = shims(token)
    for hierarchy in hierarchies:
        assert (hierarchy / token / "cgroup.procs").read_text().split() == [str(pid)]


def test_nothing_is_inherited(start: Start, token: str) -> None:
    read, write = os.pipe()
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        # ``start`` is waited for, so a descriptor held by the shim would hang this.
        address = start(pass_fds=(read, write)).stdout.decode()
        wait_for_service(socket_of(address))
        (pid,) = shims(token)
        pipe = Path(f"/proc/self/fd/{read}").readlink()
        held = list(open_files(pid).values())
        assert pipe not in held
        assert held.count(Path("/dev/null")) == 3
        status = Path(f"/proc/{pid}/status").read_text()
        (mask,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn")]
        assert mask & ~OF_THE_C_LIBRARY == 1 << (signal.SIGPIPE - 1)
        score = int(Path("/proc/self/oom_score_adj").read_text())
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == min(score + 1, 1000)
    finally:
        signal.signal(signal.SIGHUP, ignored)
        os.close(read)
        os.close(write)


async def test_damaged_requests_do_not_end_the_shim(start: Start, token: str) -> None:
    path = socket_of(start().stdout.decode())
    (pid,) = shims(token)
    chance = random.Random(7)
    for round_ in range(200):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            data = chance.randbytes(chance.randrange(300))
            if round_ % 2:
                length = chance.choice([len(data), len(data) + 5, MAX_DATA + 1, 0xFFFFFFFF])
                data = struct.pack(">IIBB", length, chance.randrange(20), REQUEST, 0) + data
            peer.sendall(data)
            if round_ % 3 == 0:
                peer.shutdown(socket.SHUT_WR)
                peer.settimeout(GIVE_UP_SECONDS)
                while peer.recv(65536):  # refusals perhaps, then the end
                    pass
    client = await connect(str(path))
    answer = await call(client, "Connect", pb.ConnectRequest(id="box"))
    assert pb.ConnectResponse.FromString(answer).shim_pid == pid
    await client.close()


async def test_the_whole_way_with_events_by_the_daemons_program(
    start: Start, program: Path, bundle: Path, short_folder: Path, token: str
) -> None:
    # Without a ttrpc address, events go through the daemon's own program.
    recorded = short_folder / "events"
    recorded.mkdir()
    publisher = short_folder / "publisher"
    publisher.write_text(
        f'#!/bin/sh\ncd {recorded}\nn=$(ls | wc -l)\necho "$*" > $n\ncat > new\nmv new $n.body\n'
    )
    publisher.chmod(0o755)
    log = short_folder / "box.log"
    client = await connect(start("-publish-binary", str(publisher)).stdout.decode())
    request = pb.CreateTaskRequest(id="box", bundle=str(bundle), stdout=f"file://{log}")
    created = pb.CreateTaskResponse.FromString(await call(client, "Create", request))
    assert created.pid == int((bundle / "init.pid").read_text())
    await call(client, "Start", pb.StartRequest(id="box"))
    waited = pb.WaitResponse.FromString(await call(client, "Wait", pb.WaitRequest(id="box")))
    assert waited.exit_status == 3
    assert log.read_text() == "published\n"
    deleted = pb.DeleteResponse.FromString(await call(client, "Delete", pb.DeleteRequest(id="box")))
    assert (deleted.pid, deleted.exit_status) == (created.pid, 3)
    with pytest.raises(NotFoundError):
        await call(client, "State", pb.StateRequest(id="box"))
    await call(client, "Shutdown", pb.ShutdownRequest(id="box"))
    await client.close()
    until(lambda: not shims(token))

    until(lambda: len(list(recorded.glob("*.body"))) == 4, lambda: list(recorded.iterdir()))
    bodies = sorted(recorded.glob("*.body"), key=lambda path: int(path.stem))
    names = [Any.FromString(path.read_bytes()).type_url.rpartition(".")[2] for path in bodies]
    assert names == ["TaskCreate", "TaskStart", "TaskExit", "TaskDelete"]
    exit_ = events.TaskExit.FromString(Any.FromString(bodies[2].read_bytes()).value)
    assert (exit_.container_id, exit_.id, exit_.exit_status) == ("box", "box", 3)
    first = bodies[0].with_suffix("").read_text()
    assert (
        first.split()
        == f"--address /no/daemon/{token} publish --topic /tasks/create --namespace {token}".split()
    )


async def test_streams_that_a_client_opens_at_the_shim(start: Start, bundle: Path) -> None:
    spec = json.loads((bundle / "config.json").read_text())
    script = 'n=0; while read -r line; do echo "$line"; n=$((n + 1)); done; echo "$n lines" >&2; exit 3'
    spec["process"]["args"] = ["sh", "-c", script]
    (bundle / "config.json").write_text(json.dumps(spec))
    address = start().stdout.decode()
    client = await connect(address)
    request = pb.CreateTaskRequest(id="box", bundle=str(bundle))
    request.stdin, request.stdout, request.stderr = [
        f"ttrpc+{address}?streaming_id=box-{name}" for name in STREAMS
    ]
    with pytest.raises(HybridError, match=r"box-stdin.* is not open"):
        await call(client, "Create", request)

    other = await connect(address)  # streams may have a connection of their own
    stdin, stdout, stderr = [await open_bytes(other, f"box-{name}") for name in STREAMS]
    await call(client, "Create", request)
    await call(client, "Start", pb.StartRequest(id="box"))
    lines = b"".join(b"line %d\n" % number for number in range(20_000))
    async with asyncio.TaskGroup() as copies, asyncio.timeout(120):
        copies.create_task(write_bytes(stdin, lines))
        output = copies.create_task(read_bytes(stdout))
        errors = copies.create_task(read_bytes(stderr))
    assert output.result() == lines
    assert errors.result() == b"20000 lines\n"
    waited = pb.WaitResponse.FromString(await call(client, "Wait", pb.WaitRequest(id="box")))
    assert waited.exit_status == 3
    await call(client, "Delete", pb.DeleteRequest(id="box"))
    await other.close()
    await client.close()


async def open_bytes(client: Client, id: str) -> ClientStream:
    service = "containerd.services.streaming.v1.Streaming"
    stream = await client.open_stream(service, "Stream", client_stream=True)
    await stream.send(packed(streaming_pb2.StreamInit(id=id)))
    assert Any.FromString(await stream.receive() or b"").type_url == "google.protobuf.Empty"
    return stream


def packed(message: Message) -> bytes:
    name = message.DESCRIPTOR.full_name
    return Any(type_url=name, value=message.SerializeToString()).SerializeToString()


async def read_bytes(stream: ClientStream) -> bytes:
    data, window = b"", 0
    while True:
        if window < WINDOW:
            await stream.send(packed(bytes_pb2.WindowUpdate(update=WINDOW)))
            window += WINDOW
        message = await stream.receive()
        if message is None:
            return data
        piece = bytes_pb2.Data.FromString(Any.FromString(message).value).data
        data += piece
        window -= len(piece)


async def write_bytes(stream: ClientStream, data: bytes) -> None:
    window = 0
    while data:
        while not window:
            update = Any.FromString(await stream.receive() or b"").value
            window += bytes_pb2.WindowUpdate.FromString(update).update
        size = min(window, 32 << 10)
        await stream.send(packed(bytes_pb2.Data(data=data[:size])))
        data, window = data[size:], window - min(size, len(data))
    await stream.close_send()


async def test_update_pids_exec_and_checkpoint_of_a_running_container(
    start: Start, bundle: Path, short_folder: Path, token: str
) -> None:
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"]["args"] = ["sh", "-c", "while read line; do :; done"]
    (bundle / "config.json").write_text(json.dumps(spec))
    for name in ("stdin", "out"):
        os.mkfifo(short_folder / name)
    client = await connect(start().stdout.decode())
    request = pb.CreateTaskRequest(id="box", bundle=str(bundle), stdin=str(short_folder / "stdin"))
    created = pb.CreateTaskResponse.FromString(await call(client, "Create", request))
    await call(client, "Start", pb.StartRequest(id="box"))

    resources = Any(type_url="any", value=json.dumps({"pids": {"limit": 77}}).encode())
    await call(client, "Update", pb.UpdateTaskRequest(id="box", resources=resources))
    cgroups = Path("/sys/fs/cgroup")
    files = (*cgroups.glob(f"{token}/box/pids.max"), *cgroups.glob(f"*/{token}/box/pids.max"))
    limits = [path.read_text().strip() for path in files]
    assert limits == ["77"]

    process = Any(
        type_url="any",
        value=json.dumps(
            {
                "args": ["grep", "-h", "Sig", "-", "/proc/self/status"],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0},
            }
        ).encode(),
    )
    (bundle / "rootfs/bin/grep").symlink_to("sh")
    paths = {name: str(short_folder / name) for name in ("stdin", "out")}
    os.mkfifo(short_folder / "in2")
    added = pb.ExecProcessRequest(
        id="box", exec_id="init", stdin=str(short_folder / "in2"), stdout=paths["out"], spec=process
    )
    await call(client, "Exec", added)
    reader = os.open(paths["out"], os.O_RDONLY | os.O_NONBLOCK)
    started = pb.StartResponse.FromString(
        await call(client, "Start", pb.StartRequest(id="box", exec_id="init"))
    )
    # An exec may even be called init: its files are its own.
    assert (bundle / "init.pid").read_text() == str(created.pid)
    pids = pb.PidsResponse.FromString(await call(client, "Pids", pb.PidsRequest(id="box")))
    details = {info.pid: info.info.value for info in pids.processes}
    assert options_pb2.ProcessDetails.FromString(details[started.pid]).exec_id == "init"
    assert details[created.pid] == b""

    (short_folder / "in2").write_text("Signal\n")
    await call(client, "CloseIO", pb.CloseIORequest(id="box", exec_id="init", stdin=True))
    await call(client, "Wait", pb.WaitRequest(id="box", exec_id="init"))
    text = os.read(reader, 65536).decode()
    os.close(reader)
    assert text.startswith("Signal\n")
    masks = dict(line.split(":\t") for line in text.splitlines()[1:])
    assert int(masks["SigBlk"], 16) == int(masks["SigIgn"], 16) & ~OF_THE_C_LIBRARY == 0
    await call(client, "Delete", pb.DeleteRequest(id="box", exec_id="init"))

    with pytest.raises(HybridError) as refused:
        await call(
            client, "Checkpoint", pb.CheckpointTaskRequest(id="box", path=str(short_folder / "images"))
        )
    assert "criu-dump.log" in str(refused.value)
    await call(client, "CloseIO", pb.CloseIORequest(id="box", stdin=True))
    await call(client, "Wait", pb.WaitRequest(id="box"))
    await call(client, "Delete", pb.DeleteRequest(id="box"))
    await client.close()


async def test_delete_cleans_up_after_a_dead_shim(
    start: Start, program: Path, bundle: Path, token: str
) -> None:
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"]["args"] = ["sh", "-c", "while :; do :; done"]
    (bundle / "config.json").write_text(json.dumps(spec))
    address = start().stdout.decode()
    client = await connect(address)
    request = pb.CreateTaskRequest(id="box", bundle=str(bundle))
    created = pb.CreateTaskResponse.FromString(await call(client, "Create", request))
    await call(client, "Start", pb.StartRequest(id="box"))
    (pid,) = shims(token)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(HybridError):
        await call(client, "Wait", pb.WaitRequest(id="box"))
    await client.close()
    command = [str(program), "-namespace", token, "-id", "box", "-bundle", str(bundle), "delete"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=bundle)
    response = pb.DeleteResponse.FromString(done.stdout)
    assert (response.pid, response.exit_status) == (created.pid, KILLED)
    assert done.stderr == b""
    assert not Path(f"/run/containerd/hybrid/{token}").exists()
    assert not socket_of(address).exists()
    until(lambda: not Path(f"/proc/{created.pid}/exe").exists())
    # Nothing is left to do for a second one.
    done = subprocess.run(command, capture_output=True, check=True, cwd=bundle)
    assert pb.DeleteResponse.FromString(done.stdout).exit_status == KILLED


async def test_delete_has_a_shim_that_lives_let_go(
    start: Start, program: Path, bundle: Path, token: str
) -> None:
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"]["args"] = ["sh", "-c", "while :; do :; done"]
    (bundle / "config.json").write_text(json.dumps(spec))
    address = start().stdout.decode()
    client = await connect(address)
    request = pb.CreateTaskRequest(id="box", bundle=str(bundle))
    created = pb.CreateTaskResponse.FromString(await call(client, "Create", request))
    await call(client, "Start", pb.StartRequest(id="box"))
    command = [str(program), "-namespace", token, "-id", "box", "-bundle", str(bundle), "delete"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=bundle)
    assert pb.DeleteResponse.FromString(done.stdout).pid == created.pid
    until(lambda: not Path(f"/proc/{created.pid}/exe").exists())
    until(lambda: not shims(token))
    assert not socket_of(address).exists()
    await client.close()


def test_delete_tells_how_the_container_ended_if_its_shim_knew(
    program: Path, bundle: Path, token: str
) -> None:
    (bundle / "exit").write_text("42 1700000000 5\n")
    command = [str(program), "-namespace", token, "-id", "box", "-bundle", str(bundle), "delete"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=bundle)
    response = pb.DeleteResponse.FromString(done.stdout)
    assert response.exit_status == 42
    assert (response.exited_at.seconds, response.exited_at.nanos) == (1_700_000_000, 5)
