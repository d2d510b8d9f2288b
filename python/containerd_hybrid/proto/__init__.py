"""Protobuf modules generated from `proto/` by `make proto`; import them by their folder:

    from containerd_hybrid.proto.services.containers.v1 import containers_pb2

The modules hold messages and the descriptors of the services; there are no gRPC stubs, because our RPC
layer drives the descriptors itself. `google.rpc.Status` comes from googleapis-common-protos
(`google.rpc.status_pb2`).

The messages of a package named `containerd.*`, `runtime.v1`, ... are in protobuf's default pool, which
allows one definition of a message in a process: a second library that defines them cannot be loaded
beside this one. Health and reflection are too common for that and have `PRIVATE_POOL`.
"""

from __future__ import annotations

from google.protobuf import descriptor_pool

PRIVATE_POOL = descriptor_pool.DescriptorPool()
"""Holds `grpc.health.v1` and `grpc.reflection.v1`, which grpcio's own helper packages define as well."""

__all__ = ["PRIVATE_POOL"]
