"""How a shim program says where its shim listens, and where that is remembered.

Three generations of answers are in use. A shim of containerd 1.6 prints a bare address; one of 1.7 to
2.2 prints JSON ``{"version": 3, "address": …, "protocol": "ttrpc"}``; one of 2.3 and later prints a
``containerd.runtime.bootstrap.v1.BootstrapResult``. We remember the second form in ``bootstrap.json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from containerd_hybrid.errors import FailedPreconditionError, NotFoundError, UnimplementedError
from containerd_hybrid.proto.runtime.bootstrap.v1 import bootstrap_pb2
from containerd_hybrid.tasks.bundle import Bundle, read_record, write_private

CURRENT_VERSION = 3

# The tags of BootstrapResult's first two fields; neither byte can begin a text.
_PROTOBUF_TAGS = (0x08, 0x12)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a shim listens and which version of the task API it speaks there."""

    address: str
    version: int = 2
    protocol: str = "ttrpc"


def parse(output: bytes) -> Endpoint:
    """Read what a shim program printed on ``start``.

    Raises:
        FailedPreconditionError: nothing, or nothing that can be read.
        UnimplementedError: a version or protocol that we do not speak.
    """
    if output[:1] and output[0] in _PROTOBUF_TAGS:
        endpoint = _from_protobuf(output)
    elif output.lstrip()[:1] == b"{":
        endpoint = _from_json(output)
    else:
        endpoint = Endpoint(output.decode(errors="replace").strip())
    if not endpoint.address or any(c.isspace() for c in endpoint.address):
        raise FailedPreconditionError(f"the shim program printed no address but {output[:200]!r}")
    if endpoint.version > CURRENT_VERSION:
        raise UnimplementedError(f"unsupported shim version ({endpoint.version})")
    if endpoint.protocol != "ttrpc":
        raise UnimplementedError(
            f"unsupported shim protocol {endpoint.protocol!r}: this daemon speaks ttrpc with shims"
        )
    return endpoint


def save(bundle: Bundle, endpoint: Endpoint) -> None:
    """Remember the endpoint for a restarted daemon."""
    record = {"version": endpoint.version, "address": endpoint.address, "protocol": endpoint.protocol}
    write_private(bundle.path / "bootstrap.json", json.dumps(record, separators=(",", ":")).encode())


def load(bundle: Bundle) -> Endpoint:
    """The remembered endpoint; older daemons left only the ``address`` that the shim wrote.

    Raises:
        NotFoundError: no shim was ever reached for this bundle.
        FailedPreconditionError, UnimplementedError: the record cannot be used.
    """
    for name in ("bootstrap.json", "address"):
        data = read_record(bundle.path / name)
        if data:
            return parse(data)
    raise NotFoundError(f"the bundle {bundle.path} has no record of a shim")


def _from_protobuf(output: bytes) -> Endpoint:
    try:
        result = bootstrap_pb2.BootstrapResult.FromString(output)
    except DecodeError as error:
        raise FailedPreconditionError(f"the shim program printed no address but {output[:200]!r}") from error
    return Endpoint(result.address, result.version or 2, result.protocol or "ttrpc")


def _from_json(output: bytes) -> Endpoint:
    try:
        record: Any = json.loads(output)
        return Endpoint(
            str(record["address"]), int(record["version"]), str(record.get("protocol") or "ttrpc")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FailedPreconditionError(
            f"the shim program printed an answer that cannot be read: {output[:200]!r}"
        ) from error
