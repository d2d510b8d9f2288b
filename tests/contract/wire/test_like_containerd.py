"""Our daemon answers as an installed containerd does: the same calls to both, answers, codes and events.

Debian's containerd is one; where ``CTR2`` names the ctr of a containerd 2.x, or PATH has it, that is another.
What differs on purpose is marked in the tables with its reason, and listed in docs/compatibility.md.
"""

from __future__ import annotations

import difflib
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from tests.contract.wire import (
    calls_content,
    calls_events,
    calls_limits,
    calls_metadata,
    calls_others,
    calls_snapshots,
    calls_tasks,
)
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
    "ids": calls_limits.id_calls,
    "labels": calls_limits.label_calls,
    "leased": calls_limits.lease_header_calls,
    "large": calls_limits.large_calls,
}


def _pair(folder: Path, major: int, config: str = "") -> DaemonPair:
    try:
        return DaemonPair(folder, major, config=config)
    except NotFoundError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="module", params=[1, 2], ids=["containerd1", "containerd2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonPair]:
    with _pair(tmp_path_factory.mktemp("pair"), request.param) as made:
        yield made


@pytest.fixture(params=[1, 2], ids=["containerd1", "containerd2"])
def isolated_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DaemonPair]:
    """Namespaces do not see each other's content, unless one is labelled."""
    config = '[plugins."io.containerd.metadata.v1.bolt"]\ncontent_sharing_policy = "isolated"\n'
    with _pair(tmp_path, request.param, config) as made:
        yield made


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rootfs")
    with tarfile.open(fileobj=BytesIO(busybox_layer())) as archive:
        archive.extractall(folder, filter="fully_trusted")
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_answer_is_containerds(pair: DaemonPair, rootfs: Path, script: str, token: str) -> None:
    neutral = [{f"/{token}/{name}": "/CGROUP"} for name in ("c", "o")]
    words = [
        {
            "rootfs": str(rootfs),
            "runtime": "io.containerd.runc.v2",
            "spec": json.dumps(calls_tasks.spec(f"/{token}/{name}")).encode(),
        }
        for name in ("c", "o")
    ]
    with both(pair, neutral) as sides:
        if script == "namespaces":
            for side in sides:
                side.ask(Ask("Namespaces.Delete", {"name": "contract"}), {})
        told = Told(pair.major)
        with told.of(sides, [[]]):
            told.ask(sides, SCRIPTS[script](), words)
    told.fail_if_different()


def test_filters_of_subscriptions_are_containerds(pair: DaemonPair) -> None:
    with both(pair) as sides:
        told = Told(pair.major)
        filters = [text for text in calls_events.FILTERS if pair.major > 1 or text not in calls_events.ONLY_2]
        with told.of(sides, [[text] for text in filters]):
            told.ask(sides, calls_events.eventful_calls())
    told.fail_if_different()


def test_content_that_is_not_shared_is_shared_as_in_containerd(isolated_pair: DaemonPair) -> None:
    with both(isolated_pair) as sides:
        told = Told(isolated_pair.major)
        with told.of(sides, [[]]):
            told.ask(sides, calls_content.content_calls())
    told.fail_if_different()


@contextmanager
def both(pair: DaemonPair, neutral: Sequence[dict[str, str]] = ({}, {})) -> Iterator[list[Daemon]]:
    """containerd and ours, with a lease to hold what the calls make, and empty again at the end."""
    addresses = (pair.theirs.address, pair.ours.address)
    sides = [
        Daemon(address, {str(Path(address).parent): "DAEMON", **own})
        for address, own in zip(addresses, neutral, strict=True)
    ]
    try:
        for side in sides:
            side.ask(Ask("Leases.Create", {"id": LEASE}, headers=()), {})
        yield sides
    finally:
        for side in sides:
            for name in ("contract", "contract-other"):
                side.ask(Ask("Namespaces.Delete", {"name": name}), {})
            side.close()


class Told:
    """What differs in answers and events of both."""

    def __init__(self, major: int) -> None:
        self._major = major
        self._different: list[str] = []

    @contextmanager
    def of(self, sides: Sequence[Daemon], filters: Sequence[list[str]]) -> Iterator[None]:
        """Compare the events that subscriptions with these filters get in the block."""
        pairs = [[side.subscribe(one) for side in sides] for one in filters]
        try:
            yield
            for theirs, ours in pairs:
                wait_alike(theirs, ours, self._major)
        finally:
            ended = [[events.end() for events in pair] for pair in pairs]
        for one, seen in zip(filters, ended, strict=True):
            lines = difflib.ndiff(*(_spelled(told(side, self._major)) for side in seen))
            name = f"event of {one[0]} " if one else "event "
            self._different += [f"{name}{line}" for line in lines if line[0] in "+-"]

    def ask(
        self, sides: Sequence[Daemon], asks: Iterable[Ask], words: Sequence[dict[str, Any]] = ({}, {})
    ) -> None:
        """Ask both the same, and compare the answers."""
        for ask in asks:
            if ask.only in (0, self._major):
                theirs, ours = (side.ask(ask, known) for side, known in zip(sides, words, strict=True))
                self._different += differences(ask, theirs, ours, self._major)

    def fail_if_different(self) -> None:
        if self._different:
            pytest.fail("\n".join(self._different), pytrace=False)


def _spelled(events: list[tuple[str, Any]]) -> list[str]:
    """Each in a line, since maps have no order. A shim tells of tasks when it comes to it: those are last."""
    return [
        json.dumps(one, sort_keys=True, default=str)
        for one in sorted(events, key=lambda one: one[0].startswith("/tasks/"))
    ]
