"""Leases of processes that are no more."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.content.world import World, open_world

from containerd_hybrid.leases.api import (
    EXPIRE_LABEL,
    OWNER_LABEL,
    LeaseResource,
    has_ended,
    protected,
    this_process,
)
from containerd_hybrid.metadata.orphans import shorten_dead_leases
from containerd_hybrid.model import Digest, Scope

NS = Scope("orphans")
EXTRACT = LeaseResource("snapshots/overlayfs", "extract-1 sha256:x")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


def a_dead_process() -> str:
    boot, pid, started = this_process().split(":")
    return f"{boot}:{pid}:{int(started) - 1}"  # of the same number, and another one


def test_a_process_knows_itself_and_others_by_their_start() -> None:
    assert not has_ended(this_process())
    assert has_ended(a_dead_process())
    assert has_ended("another-boot:" + this_process().partition(":")[2])
    for text in ("", "no process", "a:b:c"):
        assert not has_ended(text)


def test_a_program_that_was_waited_for_has_ended() -> None:
    program = "from containerd_hybrid.leases.api import this_process; print(this_process())"
    name = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert has_ended(name.strip())


async def test_what_a_dead_pull_has_fetched_stays_for_an_hour(world: World) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=24)
    labels = {EXPIRE_LABEL: later.strftime("%Y-%m-%dT%H:%M:%SZ"), OWNER_LABEL: a_dead_process(), "x": "y"}
    await world.leases.create(NS, "dead", labels)
    await world.leases.create(NS, "foreign", {EXPIRE_LABEL: labels[EXPIRE_LABEL]})
    await world.leases.add_resource(NS, "dead", EXTRACT)
    ingest = await world.content.open_ingest(Scope(NS.namespace, "dead"), "layer", 10)
    await ingest.write(b"half")
    await ingest.close()
    digest = Digest.of(b"whole")
    whole = await world.content.open_ingest(Scope(NS.namespace, "dead"), "other", 5)
    await whole.write(b"whole")
    await whole.commit(5, digest)
    async with protected(world.leases, NS) as held:
        assert await shorten_dead_leases(world.database) == 1
        leases = {lease.id: lease.labels for lease in await world.leases.list(NS)}
        assert leases[held.lease or ""][OWNER_LABEL] == this_process()
    assert leases["foreign"] == {EXPIRE_LABEL: labels[EXPIRE_LABEL]}
    assert leases["dead"]["x"] == "y"
    assert OWNER_LABEL not in leases["dead"]
    assert leases["dead"][EXPIRE_LABEL] < labels[EXPIRE_LABEL]
    await world.collector.collect()
    assert (await world.content.ingest_status(NS, "layer")).offset == 4
    assert (await world.content.info(NS, digest)).size == 5
    assert EXTRACT not in await world.leases.list_resources(NS, "dead")
    assert await shorten_dead_leases(world.database) == 0
