"""Profiles of this process: what its threads do, and what is in its memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from containerd_hybrid.app import profiles


class Looks(threading.Event):
    """Lets a profile look so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._left = times

    def wait(self, timeout: float | None = None) -> bool:
        self._left -= 1
        return self._left < 0


def beside(work: Callable[[threading.Event], None], name: str) -> tuple[threading.Event, threading.Thread]:
    """``work`` in a thread that has begun."""
    end, begun = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        work(end)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    begun.wait()
    return end, thread


def spin(end: threading.Event) -> None:
    while not end.is_set():
        pass


def _wait(end: threading.Event) -> None:
    end.wait()


def test_a_profile_tells_stacks_from_the_outermost_call_and_how_often() -> None:
    end, thread = beside(spin, "spinner")
    give_up = time.monotonic() + 120
    try:
        # It is on its way there at first.
        while ";test_profiles.py:spin" not in (told := profiles.sample(1000, Looks(3))):
            assert time.monotonic() < give_up
    finally:
        end.set()
        thread.join()
    # One or two: it was seen in ``is_set`` or not.
    lines = [line for line in told.splitlines() if ";test_profiles.py:spin" in line]
    assert all(line.startswith("spinner;") for line in lines)
    assert lines[0].split(";")[1].endswith("Thread._bootstrap")
    assert 1 <= sum(int(line.rpartition(" ")[2]) for line in lines) <= 3


def test_who_waits_is_not_in_a_profile() -> None:
    end, thread = beside(_wait, "sleeper")
    give_up = time.monotonic() + 120
    try:
        # It is on its way to its wait at first.
        while "sleeper;" in profiles.sample(1000, Looks(1)):
            assert time.monotonic() < give_up
    finally:
        end.set()
        thread.join()


def test_a_profile_ends_when_the_daemon_does() -> None:
    assert profiles.sample(1000, Looks(0)) == ""


def test_threads_are_told_by_name_and_number() -> None:
    end, thread = beside(_wait, "a name")
    try:
        told = profiles.threads().splitlines()
    finally:
        end.set()
        thread.join()
    assert any(line.startswith(f"{thread.native_id} a name ") for line in told)
    assert any(line.split()[1] == "MainThread" for line in told)


class Rare:
    """One of which there are so many that it is shown."""

    def __init__(self) -> None:
        self.me = self


def test_what_is_in_memory_is_counted_by_type() -> None:
    kept = [Rare() for _ in range(20_000)]
    told = profiles.heap()
    assert "VmRSS:" in told
    (count,) = (line.split("\t")[0] for line in told.splitlines() if line.endswith("test_profiles.Rare"))
    assert int(count) >= len(kept)
