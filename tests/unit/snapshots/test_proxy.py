"""What the proxy asks of the other side, and what it keeps of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
)
from containerd_hybrid.events.api import Event
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.snapshots import MetadataSnapshotter
from containerd_hybrid.model import Mount, Scope
from containerd_hybrid.proto.services.snapshots.v1 import snapshots_pb2 as pb
from containerd_hybrid.proto.types import mount_pb2
from containerd_hybrid.snapshots.api import DriverSnapshot, Kind, Usage
from containerd_hybrid.snapshots.proxy import ProxySnapshotDriver

NS = Scope("default")
REF = "containerd.io/snapshot.ref"


class _Remote:
    """A snapshotter over there: names and kinds. ``has`` are layers that it can get by itself."""

    def __init__(self) -> None:
        self.snapshots: dict[str, pb.Info] = {}
        self.has: set[str] = set()
        self.namespaces: set[str] = set()
        self.failures: dict[str, list[Exception]] = {}
        self.cleaned = 0

    async def unary(
        self, service: str, method: str, request: Any, response: Any, *, metadata: Mapping[str, str], **_: Any
    ) -> Any:
        assert service == "containerd.services.snapshots.v1.Snapshots"
        assert request.snapshotter == "over-there"
        self.namespaces.add(metadata["containerd-namespace"])
        if self.failures.get(method):
            raise self.failures[method].pop(0)
        return getattr(self, method.lower())(request)

    async def server_stream(
        self, service: str, method: str, request: Any, response: Any, *, metadata: Mapping[str, str]
    ) -> AsyncIterator[Any]:
        wanted = [
            info
            for info in self.snapshots.values()
            if f'"{info.labels.get(REF)}",parent=="{info.parent}"' in request.filters[0]
        ]
        yield pb.ListSnapshotsResponse(info=wanted)

    async def close(self) -> None:
        pass

    def prepare(self, request: Any) -> Any:
        target = request.labels.get(REF, "")
        if target in self.has:
            name = f"theirs/{target}"
            labels = dict(request.labels)
            self.snapshots[name] = pb.Info(name=name, parent=request.parent, kind=pb.COMMITTED, labels=labels)
            raise AlreadyExistsError(f"target snapshot {target}")
        self.snapshots[request.key] = pb.Info(
            name=request.key, parent=request.parent, kind=pb.ACTIVE, labels=dict(request.labels)
        )
        return pb.PrepareSnapshotResponse()

    def commit(self, request: Any) -> Any:
        if request.key not in self.snapshots:
            raise NotFoundError(request.key)
        info = self.snapshots.pop(request.key)
        self.snapshots[request.name] = pb.Info(
            name=request.name, parent=request.parent or info.parent, kind=pb.COMMITTED
        )
        return Empty()

    def stat(self, request: Any) -> Any:
        if request.key not in self.snapshots:
            raise NotFoundError(request.key)
        return pb.StatSnapshotResponse(info=self.snapshots[request.key])

    def mounts(self, request: Any) -> Any:
        return pb.MountsResponse(mounts=[mount_pb2.Mount(type="bind", source=f"/{request.key}")])

    def usage(self, request: Any) -> Any:
        return pb.UsageResponse(size=10, inodes=2)

    def remove(self, request: Any) -> Any:
        if request.key not in self.snapshots:
            raise NotFoundError(request.key)
        if any(info.parent == request.key for info in self.snapshots.values()):
            raise FailedPreconditionError("cannot remove snapshot with child")
        del self.snapshots[request.key]
        return Empty()

    def cleanup(self, request: Any) -> Any:
        self.cleaned += 1
        raise UnimplementedError("no clean-up")


class _Nobody:
    def publish(self, namespace: str, event: Event) -> None: ...
    def forward(self, envelope: object) -> None: ...


@pytest.fixture
def remote() -> _Remote:
    return _Remote()


def _driver(remote: _Remote, root: Path) -> ProxySnapshotDriver:
    return ProxySnapshotDriver("proxy", "over-there", remote, root, ("rebase",))


def _active(number: int, *parents: int, **labels: str) -> DriverSnapshot:
    return DriverSnapshot(number, Kind.ACTIVE, parents, labels, "ns")


async def test_names_over_there_are_kept_and_used_once(remote: _Remote, tmp_path: Path) -> None:
    driver = _driver(remote, tmp_path)
    await asyncio.to_thread(driver.create, _active(1))
    [name] = remote.snapshots
    assert name.startswith("ns/1-")
    assert "containerd.io/gc.root" in remote.snapshots[name].labels
    mounts = await asyncio.to_thread(driver.mounts, _active(1))
    assert mounts == [Mount("bind", f"/{name}")]
    assert await asyncio.to_thread(driver.commit, _active(1)) == Usage(10, 2)
    await asyncio.to_thread(driver.create, _active(2, 1))
    assert (
        remote.snapshots[next(n for n in remote.snapshots if n.startswith("ns/2"))].parent
        == f"{name}-committed"
    )
    assert remote.namespaces == {"ns"}
    again = _driver(remote, tmp_path)
    assert again.ids() == [1, 2]
    for number in (2, 1, 1):
        await asyncio.to_thread(again.remove, number)
    assert (again.ids(), remote.snapshots) == ([], {})


async def test_a_commit_whose_answer_was_lost_is_found_again(remote: _Remote, tmp_path: Path) -> None:
    driver = _driver(remote, tmp_path)
    await asyncio.to_thread(driver.create, _active(1))
    [name] = remote.snapshots
    remote.commit(pb.CommitSnapshotRequest(key=name, name=f"{name}-committed"))
    assert await asyncio.to_thread(driver.commit, _active(1)) == Usage(10, 2)
    assert await asyncio.to_thread(driver.commit, _active(1)) == Usage(10, 2)
    assert json.loads((tmp_path / "snapshots/1.json").read_text())["committed"] == f"{name}-committed"
    del remote.snapshots[f"{name}-committed"]
    (tmp_path / "snapshots/1.json").write_text(json.dumps({"namespace": "ns", "active": name}))
    with pytest.raises(NotFoundError):
        await asyncio.to_thread(driver.commit, _active(1))


async def test_what_the_other_side_has_is_taken_over(remote: _Remote, tmp_path: Path) -> None:
    remote.has = {"base", "top"}
    driver = _driver(remote, tmp_path / "proxy")
    async with SqliteDatabase(tmp_path / "meta.db", no_sync=True) as database:
        snapshotter = MetadataSnapshotter(database, driver, _Nobody())
        for target, parent in (("base", ""), ("top", "base")):
            with pytest.raises(AlreadyExistsError, match=f'target snapshot "{target}": already exists'):
                await snapshotter.prepare(NS, f"extract {target}", parent, {REF: target})
            info = await snapshotter.stat(NS, target)
            assert (info.kind, info.parent) == (Kind.COMMITTED, parent)
            assert await snapshotter.usage(NS, target) == Usage(10, 2)
        mounts = await snapshotter.prepare(NS, "container", "top")
        assert remote.snapshots[mounts[0].source[1:]].parent == "theirs/top"
        for name in ("container", "top", "base"):
            await snapshotter.remove(NS, name)
        await snapshotter.close()
        await snapshotter.cleanup()
    assert (driver.ids(), remote.snapshots, remote.cleaned) == ([], {}, 1)


async def test_what_cannot_be_removed_now_is_removed_later(remote: _Remote, tmp_path: Path) -> None:
    driver = _driver(remote, tmp_path)
    await asyncio.to_thread(driver.create, _active(1))
    remote.failures["Remove"] = [UnavailableError("nobody")]
    with pytest.raises(UnavailableError):
        await asyncio.to_thread(driver.remove, 1)
    assert driver.ids() == [1]
    await asyncio.to_thread(driver.remove, 1)
    assert driver.ids() == []


async def test_a_damaged_note_is_named(remote: _Remote, tmp_path: Path) -> None:
    driver = _driver(remote, tmp_path)
    (tmp_path / "snapshots/7.json").write_text("{")
    with pytest.raises(FailedPreconditionError, match=r"7\.json is damaged"):
        await asyncio.to_thread(driver.mounts, _active(7))
    with pytest.raises(NotFoundError, match="nothing is known of snapshot 8"):
        await asyncio.to_thread(driver.mounts, _active(8))


async def test_it_does_not_wait_for_the_loop_that_it_is_on(remote: _Remote, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="event loop"):
        _driver(remote, tmp_path).create(_active(1))
