"""The sync face is the async one: derived, current, and interruptible."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import containerd_hybrid
from containerd_hybrid.client import client, container, containers, images, process, sync
from containerd_hybrid.client.portal import Portal, through_portal
from containerd_hybrid.errors import (
    CallCancelledError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)

ROOT = Path(__file__).parents[3]
PAIRS = [
    (client.AsyncClient, sync.Client),
    (images.AsyncImages, sync.Images),
    (containers.AsyncContainers, sync.Containers),
    (container.AsyncContainer, sync.Container),
    (process.AsyncProcess, sync.Process),
]


@pytest.fixture
def derive_sync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("derive_sync", ROOT / "tools" / "derive_sync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["derive_sync"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def portal() -> Iterator[Portal]:
    opened = Portal()
    yield opened
    opened.close()


# --- derivation


def test_the_file_is_what_the_tool_makes_now() -> None:
    done = subprocess.run(
        [sys.executable, "tools/derive_sync.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_stale_file_is_found(
    derive_sync: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    derive_sync.ROOT = tmp_path
    derive_sync.TARGET = tmp_path / "sync.py"
    assert derive_sync.main(["--check"]) == 1
    assert derive_sync.main([]) == 0
    assert derive_sync.main(["--check"]) == 0
    derive_sync.TARGET.write_text(derive_sync.TARGET.read_text() + "# changed by hand\n")
    assert derive_sync.main(["--check"]) == 1
    assert "sync.py is stale: run python tools/derive_sync.py" in capsys.readouterr().err


@pytest.mark.parametrize(("with_async", "without"), PAIRS, ids=[pair[1].__name__ for pair in PAIRS])
def test_every_method_has_its_twin(with_async: type, without: type) -> None:
    def public(cls: type) -> dict[str, object]:
        return {name: member for name, member in vars(cls).items() if not name.startswith("_")}

    members = public(without)
    for name, member in public(with_async).items():
        assert name in members, name
        twin = members[name]
        assert inspect.isfunction(member)
        assert inspect.isfunction(twin)
        assert not inspect.iscoroutinefunction(twin)
        assert (twin.__doc__ or "").replace("``with``", "``async with``") == (member.__doc__ or "")
        ours, theirs = inspect.signature(twin), inspect.signature(member)
        assert list(ours.parameters) == list(theirs.parameters)
        for parameter in ours.parameters.values():
            other = theirs.parameters[parameter.name]
            assert (parameter.default, parameter.kind) == (other.default, other.kind)
            assert parameter.annotation == str(other.annotation).replace(
                "Async", ""
            ) or parameter.annotation is (inspect.Parameter.empty)
    for name in inspect.get_annotations(with_async):
        assert name in members or name in inspect.getsource(without), name


# --- the portal


def press_control_c() -> None:
    """As the kernel does it: to the main thread."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


async def give(value: int) -> int:
    await asyncio.sleep(0)
    return value


def test_results_and_errors_come_out(portal: Portal) -> None:
    async def fail() -> None:
        raise NotFoundError("nothing")

    assert portal.call(give(7)) == 7
    with pytest.raises(NotFoundError, match="nothing"):
        portal.call(fail())


def test_many_threads_use_one_portal(portal: Portal) -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(portal.call(give(n)))) for n in range(20)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(20))


def test_an_interrupt_cancels_the_call_and_waits_for_its_clean_up(portal: Portal) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()

    def interrupt() -> None:
        begun.wait()
        press_control_c()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        portal.call(long())
    assert cleaned.is_set()
    assert portal.call(give(1)) == 1


def test_a_second_interrupt_does_not_wait(portal: Portal) -> None:
    begun, cleaning, release = threading.Event(), threading.Event(), threading.Event()

    async def stubborn() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await asyncio.to_thread(release.wait)

    def interrupt() -> None:
        begun.wait()
        press_control_c()
        cleaning.wait()
        press_control_c()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        portal.call(stubborn())
    assert not release.is_set()
    release.set()


def test_iteration_ends_with_the_loop_over_it(portal: Portal) -> None:
    closed = threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(1000):
                yield number
        finally:
            closed.set()

    assert list(zip(portal.iterate(numbers()), range(3), strict=False)) == [(0, 0), (1, 1), (2, 2)]
    assert closed.is_set()
    assert sum(portal.iterate(numbers())) == sum(range(1000))

    async def failing() -> AsyncIterator[int]:
        yield 1
        raise NotFoundError("no more")

    iterator = portal.iterate(failing())
    assert next(iterator) == 1
    with pytest.raises(NotFoundError, match="no more"):
        next(iterator)


def test_what_runs_when_a_portal_is_closed_is_cancelled() -> None:
    before = set(threading.enumerate())
    portal = Portal()
    begun = threading.Event()
    outcome: list[BaseException] = []

    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    def call() -> None:
        try:
            portal.call(long())
        except CallCancelledError as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    begun.wait()
    portal.close()
    thread.join()
    assert str(outcome[0]) == "the client was closed"
    portal.close()
    with pytest.raises(UnavailableError, match="the client is closed"):
        portal.call(give(1))
    assert not [t for t in set(threading.enumerate()) - before if t.name == "containerd-hybrid"]


def test_a_call_from_within_is_an_error_and_no_deadlock(portal: Portal) -> None:
    async def nested() -> int:
        return portal.call(give(1))

    with pytest.raises(FailedPreconditionError, match="cannot be called from a function that it calls"):
        portal.call(nested())


def test_no_thread_stays_when_nothing_could_be_made() -> None:
    async def fail() -> None:
        raise NotFoundError("nothing")

    before = set(threading.enumerate())
    with pytest.raises(NotFoundError):
        through_portal(fail)
    assert not [t for t in set(threading.enumerate()) - before if t.name == "containerd-hybrid"]


# --- the public face


def test_importing_the_package_loads_next_to_nothing() -> None:
    script = (
        "import sys; before = set(sys.modules); import containerd_hybrid; "
        "new = set(sys.modules) - before; "
        "print(sorted(name for name in new if not name.startswith('containerd_hybrid')))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['__future__']"


def test_every_public_name_is_there() -> None:
    for name in containerd_hybrid.__all__:
        assert getattr(containerd_hybrid, name) is not None
    assert set(containerd_hybrid.__all__) <= set(dir(containerd_hybrid))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = containerd_hybrid.nothing


def test_a_daemon_that_is_not_there_is_told_by_the_first_call(tmp_path: Path) -> None:
    with containerd_hybrid.connect(str(tmp_path / "no.sock")) as connected:
        assert connected.namespace == "default"
        with pytest.raises(UnavailableError, match=r"no daemon answers at .*no.sock: start one"):
            connected.version()
        with pytest.raises(UnavailableError, match="no daemon answers"):
            connected.images.list()
    with pytest.raises(UnavailableError, match="the client is closed"):
        connected.version()
    connected.close()
