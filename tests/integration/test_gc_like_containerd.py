"""Conditional references, on containerd and on our daemon: one scenario, and what is left of it.

Debian's containerd does not know them. ``CONTAINERD_2_FOR_TESTS`` names the program of one that does (2.3).
"""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.client.grpc_transport import GrpcTransport
from containerd_hybrid.proto.services.content.v1 import content_pb2
from containerd_hybrid.proto.services.leases.v1 import leases_pb2
from containerd_hybrid.proto.services.snapshots.v1 import snapshots_pb2
from containerd_hybrid.testing.containerd import StockContainerd
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import LeakCheck

pytestmark = pytest.mark.root

PROGRAM = "CONTAINERD_2_FOR_TESTS"
CONTENT = "containerd.services.content.v1.Content"
LEASES = "containerd.services.leases.v1.Leases"
SNAPSHOTS = "containerd.services.snapshots.v1.Snapshots"
CONDITION, USED_AT = "containerd.io/gc.cond.snapshot.native", "containerd.io/gc.cond.value-usedat"

# By the snapshot's key: the condition, how many seconds ago it was used, whether it is kept.
CASES = {
    "fresh": ("usedat<1h|fresh", 60, True),
    "stale": ("usedat<1h|stale", 7200, False),
    "older": ("usedat>1h|older", 7200, True),
    "young": ("usedat>1h|young", 60, False),
    "or": ("usedat<1m,usedat>1h|or", 7200, True),
    "neither": ("usedat<1m,usedat>3h|neither", 7200, False),
    "never-used": ("usedat<1h|never-used", None, False),
    "no-condition": ("no-condition", 60, False),
    "unknown": ("color=red|unknown", 60, False),
    "unknown-or": ("color=red,usedat<1h|unknown-or", 60, True),
    "equal": ("usedat=1h|equal", 60, False),
    "or-equal": ("usedat<=1h|or-equal", 60, False),
    "no-duration": ("usedat<soon|no-duration", 60, False),
    "other-key": ("usedat<1h|another", 60, False),
    "space": ("usedat< 1h|space", 60, False),
    "zero": ("usedat>0|zero", 60, True),
    "a|bar": ("usedat<1h|a|bar", 60, True),
}


@pytest.fixture(params=["containerd", "hybrid"])
def address(request: pytest.FixtureRequest, short_folder: Path, leak_check: LeakCheck) -> Iterator[str]:
    if request.param == "containerd":
        program = os.environ.get(PROGRAM)
        if not program:
            pytest.skip(f"{PROGRAM} is not set: conditional references need a containerd of 2.3 or newer")
        with StockContainerd(short_folder, program=program) as stock:
            yield stock.address
        return
    with DaemonProcess(short_folder).serving(leak_check) as daemon:
        yield daemon.address


def ago(seconds: int) -> str:
    moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def write(
    transport: GrpcTransport, metadata: dict[str, str], data: bytes, labels: dict[str, str]
) -> None:
    async def requests() -> AsyncIterator[content_pb2.WriteContentRequest]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        commit = content_pb2.WriteAction.COMMIT
        yield content_pb2.WriteContentRequest(
            action=commit, ref=digest, total=len(data), expected=digest, data=data, labels=labels
        )

    answers = transport.bidi_stream(
        CONTENT, "Write", requests(), content_pb2.WriteContentResponse, metadata=metadata
    )
    assert {answer.action async for answer in answers} == {content_pb2.WriteAction.COMMIT}


async def test_what_conditions_keep(address: str, token: str) -> None:
    transport = GrpcTransport(address)
    here = {"containerd-namespace": token}
    held = {**here, "containerd-lease": "setup"}
    create = leases_pb2.CreateRequest(id="setup")
    await transport.unary(LEASES, "Create", create, leases_pb2.CreateResponse, metadata=here)
    for key, (condition, seconds, _) in CASES.items():
        labels = {USED_AT: ago(seconds)} if seconds is not None else {}
        prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter="native", key=key, labels=labels)
        await transport.unary(
            SNAPSHOTS, "Prepare", prepare, snapshots_pb2.PrepareSnapshotResponse, metadata=held
        )
        await write(transport, held, key.encode(), {"containerd.io/gc.root": ago(0), CONDITION: condition})
    delete = leases_pb2.DeleteRequest(id="setup", sync=True)
    await transport.unary(LEASES, "Delete", delete, Empty, metadata=here)
    found = transport.server_stream(
        SNAPSHOTS,
        "List",
        snapshots_pb2.ListSnapshotsRequest(snapshotter="native"),
        snapshots_pb2.ListSnapshotsResponse,
        metadata=here,
    )
    left = {info.name async for part in found for info in part.info}
    await transport.close()
    assert left == {key for key, (_, _, kept) in CASES.items() if kept}
