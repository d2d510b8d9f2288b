"""Model values to wire messages and back, for every package that speaks on a wire."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from containerd_hybrid.model import Descriptor, Digest, Mount, Platform
from containerd_hybrid.model.any import AnyValue
from containerd_hybrid.proto.types import descriptor_pb2, mount_pb2, platform_pb2

if TYPE_CHECKING:
    from containerd_hybrid.proto.types import sandbox_pb2
    from containerd_hybrid.sandbox.api import Sandbox


def timestamp(unix_nanoseconds: int) -> Timestamp | None:
    """The message for a time; None (an unset field) for 0, which the model uses for "not yet"."""
    if not unix_nanoseconds:
        return None
    message = Timestamp()
    message.FromNanoseconds(unix_nanoseconds)
    return message


def any_to_wire(value: AnyValue | None) -> AnyMessage | None:
    """An unset field for None."""
    return AnyMessage(type_url=value.type_url, value=value.value) if value is not None else None


def any_from_wire(message: AnyMessage) -> AnyValue | None:
    """None for a message that was never set."""
    if not message.type_url and not message.value:
        return None
    return AnyValue(message.type_url, message.value)


def mount_to_wire(mount: Mount) -> mount_pb2.Mount:
    return mount_pb2.Mount(type=mount.type, source=mount.source, target=mount.target, options=mount.options)


def mounts_from_wire(messages: Iterable[mount_pb2.Mount]) -> tuple[Mount, ...]:
    return tuple(Mount(m.type, m.source, tuple(m.options), m.target) for m in messages)


def descriptor_to_wire(descriptor: Descriptor) -> descriptor_pb2.Descriptor:
    return descriptor_pb2.Descriptor(
        media_type=descriptor.media_type,
        digest=str(descriptor.digest),
        size=descriptor.size,
        annotations=dict(descriptor.annotations),
    )


def descriptor_from_wire(message: descriptor_pb2.Descriptor) -> Descriptor:
    """
    Raises:
        InvalidDigestError: the digest is missing or malformed.
    """
    return Descriptor(
        message.media_type, Digest.parse(message.digest), message.size, annotations=dict(message.annotations)
    )


def platform_to_wire(platform: Platform) -> platform_pb2.Platform:
    return platform_pb2.Platform(
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


def platform_from_wire(message: platform_pb2.Platform) -> Platform:
    return Platform(
        message.os, message.architecture, message.variant, message.os_version, tuple(message.os_features)
    )


def sandbox_to_wire(sandbox: Sandbox) -> sandbox_pb2.Sandbox:
    # Of all who speak on a wire, few speak of sandboxes.
    from containerd_hybrid.proto.types import sandbox_pb2

    message = sandbox_pb2.Sandbox(
        sandbox_id=sandbox.id,
        runtime=sandbox_pb2.Sandbox.Runtime(
            name=sandbox.runtime_name, options=any_to_wire(sandbox.runtime_options)
        ),
        spec=any_to_wire(sandbox.spec),
        sandboxer=sandbox.sandboxer,
        labels=dict(sandbox.labels),
        created_at=timestamp(sandbox.created_at),
        updated_at=timestamp(sandbox.updated_at),
    )
    for name, value in sandbox.extensions.items():
        message.extensions[name].type_url = value.type_url
        message.extensions[name].value = value.value
    return message
