"""What introspection may ask of the plug-in ``io.containerd.runtime.v2.task``: its runtimes, one at a time.

The question is a ``containerd.types.RuntimeRequest``, the answer a ``containerd.types.RuntimeInfo``.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from containerd_hybrid.errors import InvalidArgumentError, UnimplementedError
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.types import introspection_pb2 as pb
from containerd_hybrid.tasks.api import RuntimeInfo
from containerd_hybrid.wire import any_from_wire, any_to_wire

_REQUEST = pb.RuntimeRequest.DESCRIPTOR.full_name
_INFO = pb.RuntimeInfo.DESCRIPTOR.full_name


def read_request(options: AnyValue) -> tuple[str, AnyValue | None]:
    """The runtime that is asked about (name or path), and its options.

    Raises:
        UnimplementedError: another question.
        InvalidArgumentError: not a message.
    """
    if options.type_name != _REQUEST:
        raise UnimplementedError(f"unknown request type {options.type_name}: not implemented")
    try:
        request = pb.RuntimeRequest.FromString(options.value)
    except DecodeError as error:
        raise InvalidArgumentError(f"cannot decode {_REQUEST}: {error}") from error
    return request.runtime_path, any_from_wire(request.options)


def write_info(info: RuntimeInfo) -> AnyValue:
    """The answer as it travels."""
    message = pb.RuntimeInfo(
        name=info.name,
        version=pb.RuntimeVersion(version=info.version, revision=info.revision),
        options=any_to_wire(info.options),
        features=any_to_wire(info.features),
        annotations=dict(info.annotations),
    )
    return AnyValue(_INFO, message.SerializeToString())


def from_program(message: pb.RuntimeInfo) -> RuntimeInfo:
    """What a shim program printed."""
    return RuntimeInfo(
        name=message.name,
        version=message.version.version,
        revision=message.version.revision,
        options=any_from_wire(message.options),
        features=any_from_wire(message.features),
        annotations=dict(message.annotations),
    )
