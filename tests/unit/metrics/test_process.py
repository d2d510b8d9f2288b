"""The ``process_*`` figures are those of this process."""

from __future__ import annotations

import gc
import os
import resource
import time
from pathlib import Path

from containerd_hybrid.metrics import process
from containerd_hybrid.metrics.api import Family
from containerd_hybrid.metrics.process import ProcessCollector


async def collected() -> dict[str, Family]:
    return {family.name: family for family in await ProcessCollector("v9", "abc").collect()}


async def test_they_are_this_process(tmp_path: Path) -> None:
    gc.collect()  # so that no forgotten file of another test is closed in between
    before = {name: family.samples[0].value for name, family in (await collected()).items()}
    files = [(tmp_path / str(number)).open("w") for number in range(200)]
    try:
        after = {name: family.samples[0].value for name, family in (await collected()).items()}
    finally:
        for file in files:
            file.close()
    # Threads of the interpreter and of libraries may open and close some of their own.
    assert abs(after["process_open_fds"] - before["process_open_fds"] - 200) < 50
    assert after["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < after["process_start_time_seconds"] <= time.time()
    assert 1 << 20 < after["process_resident_memory_bytes"] < after["process_virtual_memory_bytes"]
    used = sum(os.times()[:2])
    assert abs(after["process_cpu_seconds_total"] - used) < max(1.0, used)
    assert after["process_threads"] >= 1


async def test_the_build_is_told() -> None:
    (sample,) = (await collected())["containerd_build_info_total"].samples
    assert (sample.value, dict(sample.labels)) == (1, {"version": "v9", "revision": "abc"})


async def test_without_proc_the_build_is_still_told(monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(process, "_PROC", tmp_path)
    assert set(await collected()) == {"containerd_build_info_total", "python_info"}
