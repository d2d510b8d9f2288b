"""When collections happen, by a clock that a test turns: the event loop's own, run ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from containerd_hybrid.errors import UnavailableError
from containerd_hybrid.metadata.api import CollectedNode, CollectionReport, CommitListener
from containerd_hybrid.metadata.scheduler import GcScheduler, GcSettings


@dataclass
class FakeCollector:
    """Notes when it was asked; takes ``took`` seconds by its own account."""

    clock: Callable[[], float]
    took: float = 0.0
    failures: int = 0
    times: list[float] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def collect(self, *, dry_run: bool = False) -> CollectionReport:
        self.times.append(round(self.clock(), 3))
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise UnavailableError("disk away")
        return CollectionReport((), self.took, self.took)

    async def why(self, namespace: str, type: str, key: str) -> list[CollectedNode]:
        return [CollectedNode(namespace, type, key)]


class FakeDatabase:
    """Only tells of commits."""

    def __init__(self) -> None:
        self.commit: CommitListener = lambda writes, deletions: None

    def on_commit(self, listener: CommitListener) -> None:
        self.commit = listener


class Rig:
    """A scheduler on a loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self, **settings: Any) -> None:
        self.offset = 0.0
        self.loop = asyncio.new_event_loop()
        # Not the real time by any means: a machine that is busy would make this one late.
        self.loop.time = lambda: self.offset  # type: ignore[method-assign]
        self.collector = FakeCollector(self.loop.time)
        self.database = FakeDatabase()
        self.scheduler = GcScheduler(self.collector, self.database, GcSettings(**settings))  # type: ignore[arg-type]

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def begin(self) -> None:
        async def begin() -> None:
            self.scheduler.start()

        self.run(begin())

    def advance(self, seconds: float) -> list[float]:
        """Let time pass in small steps; the times of the collections in it."""
        before = len(self.collector.times)
        for _ in range(round(seconds / 0.005)):
            self.offset += 0.005
            self.run(self._spin())
        return self.collector.times[before:]

    async def _spin(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)

    def close(self) -> None:
        self.run(self.scheduler.close())
        self.loop.close()


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def build(**settings: Any) -> Rig:
        rigs.append(Rig(**settings))
        rigs[-1].begin()
        return rigs[-1]

    yield build
    for one in rigs:
        one.close()


def test_the_first_collection_follows_the_start(rig: Callable[..., Rig]) -> None:
    (when,) = rig().advance(1)
    assert 0.095 <= when <= 0.115


def test_without_a_startup_delay_there_is_none_until_something_happens(rig: Callable[..., Rig]) -> None:
    one = rig(startup_delay=0)
    assert one.advance(5) == []
    one.database.commit(99, 0)
    assert one.advance(5) == []
    one.database.commit(1, 0)
    assert len(one.advance(0.1)) == 1


def test_nothing_happens_while_nothing_happens(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.advance(0.2)
    assert one.advance(10) == []


def test_a_deletion_is_collected_when_the_next_one_is_planned(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.advance(0.2)
    one.database.commit(1, 1)
    # The least pause of 5 ms may be 2% of the time: 0.245 s after the last one, at 0.1 s.
    (when,) = one.advance(2)
    assert 0.34 <= when <= 0.36


def test_a_long_pause_makes_long_intervals(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.collector.took = 0.1
    one.advance(0.2)
    one.database.commit(1, 1)
    assert one.advance(4) == []
    assert len(one.advance(2)) == 1


def test_writes_count_from_the_mutation_threshold(rig: Callable[..., Rig]) -> None:
    one = rig(mutation_threshold=10)
    one.advance(0.2)
    one.database.commit(9, 0)
    assert one.advance(1) == []
    one.database.commit(1, 0)
    assert len(one.advance(1)) == 1
    assert one.advance(1) == []
    never = rig(mutation_threshold=0)
    never.advance(0.2)
    never.database.commit(10_000, 0)
    assert never.advance(1) == []


def test_the_deletion_threshold_does_not_wait_for_the_plan(rig: Callable[..., Rig]) -> None:
    one = rig(deletion_threshold=3, pause_threshold=0.001)
    one.collector.took = 1.0
    one.advance(0.2)
    one.database.commit(2, 2)
    assert one.advance(1) == []
    one.database.commit(1, 1)
    assert len(one.advance(0.1)) == 1


def test_the_schedule_delay_is_kept(rig: Callable[..., Rig]) -> None:
    one = rig(deletion_threshold=1, schedule_delay=0.5, pause_threshold=0.001)
    one.advance(0.2)
    one.database.commit(1, 1)
    assert one.advance(0.45) == []
    one.database.commit(1, 1)
    assert len(one.advance(0.1)) == 1


def test_collect_waits_for_a_collection_that_begins_after_the_call(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.collector.gate = asyncio.Event()
    one.advance(0.2)
    assert len(one.collector.times) == 1  # and is under way

    async def two_callers() -> None:
        calls = [asyncio.ensure_future(one.scheduler.collect()) for _ in range(2)]
        await one._spin()
        assert not any(call.done() for call in calls)
        assert one.collector.gate is not None
        one.collector.gate.set()
        await asyncio.gather(*calls)

    one.run(two_callers())
    assert len(one.collector.times) == 2


def test_trigger_counts_as_a_deletion(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.advance(0.2)
    one.scheduler.trigger()
    assert len(one.advance(1)) == 1


def test_a_failed_collection_is_told_to_who_waits_and_tried_again(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    one = rig()
    one.advance(0.2)
    one.collector.failures = 1

    async def call() -> None:
        with pytest.raises(UnavailableError, match="disk away"):
            await one.scheduler.collect()

    one.run(call())
    assert "garbage collection failed: disk away" in caplog.text
    one.database.commit(1, 1)
    assert len(one.advance(3)) == 1


def test_what_is_deleted_during_a_collection_is_collected_by_the_next(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.collector.gate = asyncio.Event()
    one.advance(0.2)
    one.database.commit(1, 1)
    one.collector.gate.set()
    assert len(one.advance(1)) == 1
    assert one.advance(1) == []


def test_closing_tells_who_waits(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.collector.gate = asyncio.Event()

    async def call() -> None:
        waiting = asyncio.ensure_future(one.scheduler.collect())
        await one._spin()
        await one.scheduler.close()
        with pytest.raises(UnavailableError, match="stopped"):
            await waiting
        with pytest.raises(UnavailableError, match="does not run"):
            await one.scheduler.collect()

    one.run(call())


def test_dry_runs_and_questions_do_not_wait(rig: Callable[..., Rig]) -> None:
    one = rig(startup_delay=0)
    one.run(one.scheduler.collect(dry_run=True))
    assert one.run(one.scheduler.why("n", "content", "k")) == [CollectedNode("n", "content", "k")]


def test_settings_out_of_range_are_brought_in() -> None:
    wild = GcSettings(0.9, -1, -1, -1.0, -1.0)
    assert wild.clamped() == GcSettings(0.5, 0, 0, 0.0, 0.0)
    assert GcSettings(-1.0).clamped().pause_threshold == 0.0
    assert GcSettings().clamped() == GcSettings()
