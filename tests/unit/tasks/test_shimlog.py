"""A shim's log lines arrive in ours, with their level and whose they are."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from containerd_hybrid.errors import FailedPreconditionError
from containerd_hybrid.tasks.bundle import Bundle
from containerd_hybrid.tasks.shimlog import ShimLog


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Without what asyncio may say of an earlier test's remains."""
    return [record for record in caplog.records if record.name.startswith("containerd_hybrid")]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle("ns", "c1", tmp_path, tmp_path)


async def written(bundle: Bundle, *chunks: bytes) -> None:
    def write() -> None:
        with (bundle.path / "log").open("wb", buffering=0) as fifo:
            for chunk in chunks:
                fifo.write(chunk)

    await asyncio.to_thread(write)
    await asyncio.sleep(0.02)


async def test_lines(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = await ShimLog.open(bundle)
    await written(bundle, b'time=x level=warning msg="a"\nlevel=debug m', b"sg=b\n\nplain\nlevel=panic x\n")
    log.close()
    assert [(r.levelname, r.getMessage()) for r in ours(caplog)] == [
        ("WARNING", 'time=x level=warning msg="a"'),
        ("DEBUG", "level=debug msg=b"),
        ("INFO", "plain"),
        ("CRITICAL", "level=panic x"),
    ]
    assert {(r.__dict__["namespace"], r.__dict__["container"]) for r in ours(caplog)} == {("ns", "c1")}


async def test_a_writer_neither_waits_nor_ends_the_log(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = await ShimLog.open(bundle)
    await written(bundle, b"first\n")
    await written(bundle, b"second\n")
    log.close()
    assert [r.getMessage() for r in ours(caplog)] == ["first", "second"]


async def test_the_last_words_are_kept_without_a_line_end(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = await ShimLog.open(bundle)
    await written(bundle, b"panic: oh")
    log.close()
    log.close()
    assert [(r.levelname, r.getMessage()) for r in ours(caplog)] == [("CRITICAL", "panic: oh")]
    assert log.last_words == "panic: oh"


async def test_an_endless_line_is_not_collected_for_ever(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = await ShimLog.open(bundle)
    for _ in range(8):
        await written(bundle, b"x" * 32768)
    assert sum(len(r.getMessage()) for r in ours(caplog)) >= 100_000
    log.close()


async def test_a_second_daemon_reads_on(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (await ShimLog.open(bundle)).close()
    log = await ShimLog.open(bundle)
    await written(bundle, b"later\n")
    log.close()
    assert [r.getMessage() for r in ours(caplog)] == ["later"]


@pytest.mark.parametrize("kind", ["file", "link"])
async def test_something_else_in_its_place_is_not_touched(bundle: Bundle, kind: str) -> None:
    target = bundle.path / "target"
    target.write_text("precious")
    path = bundle.path / "log"
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(target)
    with pytest.raises(FailedPreconditionError, match="is not a FIFO"):
        await ShimLog.open(bundle)
    assert path.read_text() == "precious"
