"""Times on the shim's wire."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp


def from_wire(timestamp: Timestamp) -> int:
    """Unix nanoseconds; 0 for an unset field and for Go's zero time, which is the year 1."""
    return max(timestamp.ToNanoseconds(), 0)
