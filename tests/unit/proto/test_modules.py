"""The generated modules live beside other libraries, and the generator keeps the tree as `proto/` is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.rpc import status_pb2

import containerd_hybrid.proto
from containerd_hybrid.proto.grpc.health.v1 import health_pb2
from containerd_hybrid.proto.ttrpc import ttrpc_pb2

ROOT = Path(__file__).resolve().parents[3]

# Does what grpcio-health-checking and grpcio-reflection do: the same messages from files of another name.
RIVAL = """
from google.protobuf import descriptor_pb2, descriptor_pool

def define():
    for package, message in (("grpc.health.v1", "HealthCheckRequest"),
                             ("grpc.reflection.v1", "ServerReflectionRequest")):
        file = descriptor_pb2.FileDescriptorProto(name=f"rival/{package}.proto", package=package)
        file.message_type.add(name=message)
        descriptor_pool.Default().Add(file)
"""
OURS = """
import containerd_hybrid.proto.grpc.health.v1.health_pb2
import containerd_hybrid.proto.grpc.reflection.v1.reflection_pb2
"""


@pytest.mark.parametrize(
    "script", [RIVAL + "define()" + OURS, OURS + RIVAL + "define()"], ids=["rival first", "ours first"]
)
def test_health_and_reflection_do_not_clash_with_those_of_another_library(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_messages_of_the_private_pool_travel() -> None:
    answer = health_pb2.HealthListResponse()
    answer.statuses["x"].status = health_pb2.HealthCheckResponse.SERVING
    assert health_pb2.HealthListResponse.FromString(answer.SerializeToString()) == answer
    assert health_pb2.DESCRIPTOR.pool is containerd_hybrid.proto.PRIVATE_POOL


def test_a_ttrpc_status_is_the_status_of_every_other_library() -> None:
    status = status_pb2.Status(code=5, message="no such task")
    assert ttrpc_pb2.Response(status=status).status == status


def test_our_file_of_the_status_says_what_pythons_owner_of_it_says(tmp_path: Path) -> None:
    """Rust compiles `proto/google/rpc/status.proto`, Python imports googleapis-common-protos."""
    protos = pytest.importorskip(
        "hybrid_build.protos", reason="needs a work tree with its build requirements"
    )
    protos.descriptors(ROOT, tmp_path / "all.pb")
    files = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "all.pb").read_bytes()).file
    ours = next(file for file in files if file.name == "google/rpc/status.proto").message_type[0]
    theirs = descriptor_pb2.DescriptorProto()
    status_pb2.Status.DESCRIPTOR.CopyToProto(theirs)
    assert [(f.name, f.number, f.type, f.label, f.type_name) for f in ours.field] == [
        (f.name, f.number, f.type, f.label, f.type_name) for f in theirs.field
    ]


def test_generating_follows_the_sources(tmp_path: Path) -> None:
    """A module whose source is gone goes; every folder is a package; no gRPC stub is made."""
    protos = pytest.importorskip(
        "hybrid_build.protos", reason="needs a work tree with its build requirements"
    )
    source = tmp_path / "proto" / "a" / "v1" / "kept.proto"
    source.parent.mkdir(parents=True)
    source.write_text('syntax = "proto3"; package a.v1; service S { rpc C(M) returns (M); } message M {}')
    stale = tmp_path / "python" / "containerd_hybrid" / "proto" / "a" / "v1" / "gone_pb2.py"
    stale.parent.mkdir(parents=True)
    stale.touch()

    assert protos.generate(tmp_path) == 1

    made = {str(path.relative_to(tmp_path / "python")) for path in (tmp_path / "python").rglob("*.py*")}
    base = "containerd_hybrid/proto/a"
    assert made == {
        f"{base}/__init__.py",
        f"{base}/v1/__init__.py",
        f"{base}/v1/kept_pb2.py",
        f"{base}/v1/kept_pb2.pyi",
    }
