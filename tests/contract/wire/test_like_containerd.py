"""Our daemon answers as an installed containerd does: the same calls to both, answers, codes and events.

Debian's containerd is one; where ``CTR2`` names the ctr of a containerd 2.x, or PATH has it, that is another.
What differs on purpose is marked in the tables with its reason, and listed in docs/compatibility.md.
"""

from __future__ import annotations

import difflib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from tests.contract.wire import calls_content, calls_metadata, calls_others, calls_snapshots, calls_tasks
from tests.contract.wire.asking import LEASE, Ask, Daemon, differences, told, wait_alike

from containerd_hybrid.errors import NotFoundError
from containerd_hybrid.testing.images import busybox_layer
from containerd_hybrid.testing.pair import DaemonPair

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="containerd needs root")]

SCRIPTS: dict[str, Callable[[], Iterator[Ask]]] = {
    "namespaces": calls_metadata.namespace_calls,
    "images": calls_metadata.image_calls,
    "leases": calls_metadata.lease_calls,
    "containers": calls_metadata.container_calls,
    "content": calls_content.content_calls,
    "diff": calls_content.diff_calls,
    "snapshots": calls_snapshots.snapshot_calls,
    "tasks": calls_tasks.task_calls,
    "sandboxes": calls_others.sandbox_calls,
    "transfer": calls_others.transfer_calls,
    "daemon": calls_others.daemon_calls,
}


@pytest.fixture(scope="module", params=[1, 2], ids=["containerd1", "containerd2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonPair]:
    try:
        made = DaemonPair(tmp_path_factory.mktemp("pair"), request.param)
    except NotFoundError as error:
        pytest.skip(error.message)
    with made:
        yield made


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rootfs")
    with tarfile.open(fileobj=BytesIO(busybox_layer())) as archive:
        archive.extractall(folder, filter="fully_trusted")
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_answer_is_containerds(pair: DaemonPair, rootfs: Path, script: str, token: str) -> None:
    sides = [
        Daemon(address, {str(Path(address).parent): "DAEMON", f"/{token}/{name}": "/CGROUP"})
        for name, address in (("c", pair.theirs.address), ("o", pair.ours.address))
    ]
    words = [
        {
            "rootfs": str(rootfs),
            "runtime": "io.containerd.runc.v2",
            "spec": json.dumps(calls_tasks.spec(f"/{token}/{name}")).encode(),
        }
        for name in ("c", "o")
    ]
    different: list[str] = []
    for side in sides:
        side.ask(Ask("Leases.Create", {"id": LEASE}, headers=()), {})
        if script == "namespaces":
            side.ask(Ask("Namespaces.Delete", {"name": "contract"}), {})
    events = [side.subscribe([]) for side in sides]
    try:
        for ask in SCRIPTS[script]():
            if ask.only in (0, pair.major):
                theirs, ours = (side.ask(ask, known) for side, known in zip(sides, words, strict=True))
                different += differences(ask, theirs, ours, pair.major)
        wait_alike(events[0], events[1], pair.major)
    finally:
        theirs_seen, ours_seen = (one.end() for one in events)
        for side in sides:
            for name in ("contract", "contract-other"):
                side.ask(Ask("Namespaces.Delete", {"name": name}), {})
            side.close()
    ours_told, theirs_told = (told(one, pair.major) for one in (ours_seen, theirs_seen))
    # Maps have no order.
    spelled = (
        [json.dumps(one, sort_keys=True, default=str) for one in told_of]
        for told_of in (theirs_told, ours_told)
    )
    lines = difflib.ndiff(*spelled)
    different += [f"event {line}" for line in lines if line[0] in "+-"]
    if different:
        pytest.fail("\n".join(different), pytrace=False)
