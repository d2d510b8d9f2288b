"""The log of events through the daemon, the library, hyctl and a runtime without a daemon."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

import containerd_hybrid
from containerd_hybrid import AsyncClient
from containerd_hybrid.errors import NotFoundError, OutOfRangeError
from containerd_hybrid.proto.services.namespaces.v1 import namespaces_pb2
from containerd_hybrid.testing.daemon import DaemonProcess

pytestmark = pytest.mark.root

NAMESPACES = namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"]


async def relabel(client: AsyncClient, name: str) -> None:
    """One event in the client's namespace."""
    request = namespaces_pb2.CreateNamespaceRequest(namespace=namespaces_pb2.Namespace(name=name))
    await client._calls.unary(NAMESPACES, "Create", request, namespaces_pb2.CreateNamespaceResponse)


def hyctl(daemon: DaemonProcess, namespace: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "containerd_hybrid.cli.main", "-a", daemon.address, "-n", namespace]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


async def test_a_subscriber_that_comes_back_gets_what_it_missed_and_goes_on(daemon: DaemonProcess) -> None:
    begun = time.time() - 1
    async with await containerd_hybrid.connect_async(daemon.address, "first") as client:
        await relabel(client, "first")
        async with aclosing(client.replay()) as events:
            last = await anext(events)
            assert (last.topic, last.fields["name"]) == ("/namespaces/create", "first")
    await asyncio.to_thread(daemon.stop)
    await asyncio.to_thread(daemon.start)
    async with await containerd_hybrid.connect_async(daemon.address, "second") as client:
        await relabel(client, "second")
        async with aclosing(client.replay(after=last.sequence)) as events:
            missed = await anext(events)
            assert (missed.fields["name"], missed.sequence) == ("second", last.sequence + 1)
            request = namespaces_pb2.UpdateNamespaceRequest(
                namespace=namespaces_pb2.Namespace(name="second", labels={"a": "b"})
            )
            await client._calls.unary(NAMESPACES, "Update", request, namespaces_pb2.UpdateNamespaceResponse)
            live = await anext(events)
            assert (live.topic, live.sequence) == ("/namespaces/update", last.sequence + 2)
        with pytest.raises(OutOfRangeError, match="no event has number 1000 yet"):
            async for _ in client.replay(after=1000):
                pass
        status = await client.event_log()
        assert (status.first, status.last) == (1, last.sequence + 2)

    shown = await asyncio.to_thread(
        hyctl, daemon, "second", "events", "--after", "0", "--no-follow", "--format", "json"
    )
    assert shown.returncode == 0, shown.stderr
    found = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(one["Sequence"], one["Topic"]) for one in found] == [
        (last.sequence + 1, "/namespaces/create"),
        (last.sequence + 2, "/namespaces/update"),
    ]
    since = await asyncio.to_thread(hyctl, daemon, "first", "events", "--since", str(begun), "--no-follow")
    assert since.stdout.startswith(f"{last.sequence} ")
    nothing = await asyncio.to_thread(hyctl, daemon, "first", "events", "--after", "99", "--no-follow")
    assert nothing.returncode == 1
    assert "no event has number 99 yet" in nothing.stderr


async def test_a_follower_does_not_notice_that_the_daemon_was_started_anew(daemon: DaemonProcess) -> None:
    async with await containerd_hybrid.connect_async(daemon.address, "n") as client:
        await relabel(client, "n")
        async with aclosing(client.replay()) as events:
            first = await anext(events)
            await asyncio.to_thread(daemon.kill)
            following = asyncio.ensure_future(anext(events))
            await asyncio.to_thread(daemon.start)
            request = namespaces_pb2.DeleteNamespaceRequest(name="n")
            await client._calls.unary(NAMESPACES, "Delete", request, Empty)
            event = await following
            assert (event.topic, event.sequence) == ("/namespaces/delete", first.sequence + 1)
            await asyncio.to_thread(daemon.stop)
            for path in (daemon.root / "io.containerd.hybrid.events.v1.log").iterdir():
                path.unlink()
            await asyncio.to_thread(daemon.start)
            with pytest.raises(NotFoundError, match="its numbers begin anew"):
                await anext(events)


async def test_without_a_daemon_the_log_is_kept_as_well(short_folder: Path) -> None:
    folders = short_folder / "root", short_folder / "state"
    async with await containerd_hybrid.open_async(*folders, "n") as client:
        await relabel(client, "n")
    async with await containerd_hybrid.open_async(*folders, "n") as client:
        assert [event.topic async for event in client.replay(follow=False)] == ["/namespaces/create"]


async def test_a_daemon_whose_log_is_damaged_serves_without_one_and_says_so(daemon: DaemonProcess) -> None:
    await asyncio.to_thread(daemon.stop)
    file = daemon.root / "io.containerd.hybrid.events.v1.log" / "events.db"
    for path in file.parent.iterdir():
        path.write_bytes(b"not a database" * 1000)
    await asyncio.to_thread(daemon.start)
    async with await containerd_hybrid.connect_async(daemon.address, "n") as client:
        await relabel(client, "n")
    shown = await asyncio.to_thread(hyctl, daemon, "n", "events", "--after", "0", "--no-follow")
    assert shown.returncode == 1
    assert "EventLog" in shown.stderr
    assert "move it away" in daemon.log
