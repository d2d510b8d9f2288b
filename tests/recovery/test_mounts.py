"""Mounts by name across the end of the daemon that made them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from containerd_hybrid import _native
from containerd_hybrid.proto.services.leases.v1 import leases_pb2
from containerd_hybrid.proto.services.mounts.v1 import mounts_pb2 as pb
from containerd_hybrid.proto.types import mount_pb2
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import mounts_below

pytestmark = [pytest.mark.root]

MOUNTS = "containerd.services.mounts.v1.Mounts"
LEASES = "containerd.services.leases.v1.Leases"
TMPFS = mount_pb2.Mount(type="tmpfs", source="tmpfs")


class Client:
    """Plain calls in a namespace of their own, under a lease if there is one."""

    def __init__(self, address: str, namespace: str) -> None:
        self._channel = grpc.insecure_channel(f"unix:{address}")
        self._namespace = namespace

    def close(self) -> None:
        self._channel.close()

    def call(self, service: str, method: str, request: Any, response: Any, lease: str = "") -> Any:
        call = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        metadata = [("containerd-namespace", self._namespace)]
        if lease:
            metadata.append(("containerd-lease", lease))
        return call(request, metadata=tuple(metadata), timeout=30, wait_for_ready=True)

    def lease(self, name: str) -> None:
        self.call(LEASES, "Create", leases_pb2.CreateRequest(id=name), leases_pb2.CreateResponse)

    def release(self, name: str) -> None:
        """Delete a lease and wait for the collection that follows."""
        self.call(LEASES, "Delete", leases_pb2.DeleteRequest(id=name, sync=True), Empty)

    def activate(self, name: str, lease: str) -> Path:
        request = pb.ActivateRequest(name=name, mounts=[TMPFS], temporary=True)
        response = self.call(MOUNTS, "Activate", request, pb.ActivateResponse, lease)
        return Path(response.info.active[0].mount_point)

    def exists(self, name: str) -> bool:
        try:
            self.call(MOUNTS, "Info", pb.InfoRequest(name=name), pb.InfoResponse)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            return False
        return True

    def deactivate(self, name: str) -> None:
        self.call(MOUNTS, "Deactivate", pb.DeactivateRequest(name=name), Empty)


@pytest.fixture
def client(daemon: DaemonProcess, token: str) -> Iterator[Client]:
    client = Client(daemon.address, token)
    client.lease("l")
    yield client
    client.close()


@pytest.mark.parametrize("crash", [False, True])
def test_what_is_mounted_outlives_the_daemon(daemon: DaemonProcess, client: Client, crash: bool) -> None:
    point = client.activate("a", "l")
    (point / "file").write_text("kept")
    daemon.restart(crash=crash)
    assert client.exists("a")
    assert (point / "file").read_text() == "kept"
    client.deactivate("a")
    assert not point.parent.exists()


def test_what_was_unmounted_meanwhile_is_forgotten(daemon: DaemonProcess, client: Client) -> None:
    points = [client.activate(name, "l") for name in ("a", "b")]
    daemon.kill()
    _native.unmount_all(points[0])
    daemon.start()
    assert not client.exists("a")
    assert not points[0].parent.exists()
    assert client.exists("b")
    client.deactivate("b")


def test_mounts_end_with_their_lease(daemon: DaemonProcess, client: Client) -> None:
    point = client.activate("a", "l")
    assert mounts_below(daemon.state) == [str(point)]
    client.release("l")
    assert not client.exists("a")
    assert mounts_below(daemon.state) == []


def test_mounts_without_a_record_are_taken_away_at_the_start(daemon: DaemonProcess, client: Client) -> None:
    point = client.activate("a", "l")
    daemon.kill()
    stray = point.parent.with_name("77")
    (stray / "1").mkdir(parents=True)
    (stray / "1-type").write_text("tmpfs")
    _native.mount_all([("tmpfs", "tmpfs", "", [])], stray / "1")
    daemon.start()
    assert not stray.exists()
    client.deactivate("a")
