"""Labels: small strings on every object, a few of which the daemon itself reads.

A label with an empty value does not exist: setting a label to ``""`` removes it.
Sources: containerd's ``pkg/labels`` and docs/garbage-collection.md.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

from containerd_hybrid.errors import InvalidArgumentError

MAX_SIZE = 4096
"""Bytes of a label's key and value together."""

SHARED_NAMESPACE = "containerd.io/namespace.shareable"
"""On a namespace: its content may be used by other namespaces under an isolating policy."""

UNCOMPRESSED = "containerd.io/uncompressed"
"""On a compressed layer's blob: the digest of its uncompressed bytes."""

LAYERS_DROPPED = "io.containerd.hybrid/layers-dropped"
"""On a manifest that let go of its layers' blobs: the snapshotter that has them unpacked."""

DISTRIBUTION_SOURCE = "containerd.io/distribution.source"
"""Prefix, ``.HOST``: repositories of that registry in which the blob was seen."""

GC_ROOT = "containerd.io/gc.root"
GC_EXPIRE = "containerd.io/gc.expire"
GC_FLAT = "containerd.io/gc.flat"
GC_REF_CONTENT = "containerd.io/gc.ref.content"
GC_REF_IMAGE = "containerd.io/gc.ref.image"
GC_REF_MOUNT = "containerd.io/gc.ref.mount"
GC_REF_SNAPSHOT = "containerd.io/gc.ref.snapshot"
GC_BREF_CONTAINER = "containerd.io/gc.bref.container"
GC_BREF_CONTENT = "containerd.io/gc.bref.content"
GC_BREF_IMAGE = "containerd.io/gc.bref.image"
GC_BREF_SNAPSHOT = "containerd.io/gc.bref.snapshot"
GC_COND_SNAPSHOT = "containerd.io/gc.cond.snapshot"
GC_USED_AT = "containerd.io/gc.cond.value-usedat"

_SHOWN_KEY = 64
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(?:(Z)|([+-])(\d\d):(\d\d))", re.ASCII
)
_SECOND = 1_000_000_000
_LAST = 2**63 - 1


def validate_label(key: str, value: str, where: str = "") -> None:
    """Check the key and the size of one label; ``where`` (``image.Labels``) is put before the message.

    Raises:
        InvalidArgumentError: key and value are longer than 4096 bytes together, or a value has no key.
    """
    require_key(key, value, where)
    encoded = key.encode(errors="surrogatepass")
    total = len(encoded) + len(value.encode(errors="surrogatepass"))
    if total > MAX_SIZE:
        shown = encoded[:_SHOWN_KEY].decode(errors="ignore")
        raise InvalidArgumentError(
            f"{_prefix(where)}label key and value length ({total} bytes) greater than maximum size "
            f"({MAX_SIZE} bytes), key: {shown}: invalid argument"
        )


def require_key(key: str, value: str, where: str = "") -> None:
    """
    Raises:
        InvalidArgumentError: there is a value without a key.
    """
    if value and not key:
        raise InvalidArgumentError(f"{_prefix(where)}label key required: invalid argument")


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""


def validate_labels(labels: Mapping[str, str], where: str = "") -> None:
    """Check the size of each label; see :func:`validate_label`."""
    for key, value in labels.items():
        validate_label(key, value, where)


def stored_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """What remains of labels when they are stored: those with a value."""
    return {key: value for key, value in labels.items() if value}


def parse_rfc3339(text: str) -> int | None:
    """Unix nanoseconds of a time such as ``2026-01-02T03:04:05.6+02:00``; None when it is no such time.

    Times that 64 bits cannot hold, before 1677 and after 2262, become the nearest that they can.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    try:
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    except ValueError:
        return None
    seconds = int((moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)).total_seconds())
    if match[9]:
        hours, minutes = int(match[10]), int(match[11])
        if hours > 24 or minutes > 60:
            return None
        offset = hours * 3600 + minutes * 60
        seconds -= offset if match[9] == "+" else -offset
    fraction = (match[7] or "")[:9].ljust(9, "0")
    return min(max(seconds * _SECOND + int(fraction), -_LAST - 1), _LAST)


def expiry(labels: Mapping[str, str]) -> int | None:
    """When ``containerd.io/gc.expire`` says an object may go (Unix nanoseconds).

    None when it has no such label or one that is no RFC 3339 time, which counts as none.
    """
    text = labels.get(GC_EXPIRE)
    return None if text is None else parse_rfc3339(text)
