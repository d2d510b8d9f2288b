"""Tables, sizes and times as people read them, in the words that Docker uses."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from typing import Any

from containerd_hybrid.errors import InvalidArgumentError

_UNITS = (("year", 31_536_000), ("month", 2_592_000), ("week", 604_800), ("day", 86_400), ("hour", 3600))
_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(i?b)?", re.IGNORECASE)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they have to be, three spaces between them."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def size(count: int) -> str:
    """Bytes in decimal units with three or four digits: ``1.23MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.0f}PB"


def parse_size(text: str) -> int:
    """``64m``, ``1.5GiB``, ``1000``: binary units, as Docker reads them.

    Raises:
        InvalidArgumentError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgumentError(f"invalid size {text!r}: expected a number and b, k, m or g, as in 64m")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def age(nanoseconds: int, *, now: float | None = None) -> str:
    """How long something took or has been: ``5 minutes``."""
    seconds = (now if now is not None else time.time()) - nanoseconds / 1e9
    if seconds < 1:
        return "Less than a second"
    for name, unit in _UNITS:
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {name}s"
    if seconds >= 3600:
        return "About an hour"
    if seconds >= 120:
        return f"{seconds // 60:.0f} minutes"
    if seconds >= 60:
        return "About a minute"
    return "1 second" if seconds < 2 else f"{seconds // 1:.0f} seconds"


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with all digits; empty for 0."""
    if not nanoseconds:
        return ""
    moment = datetime.datetime.fromtimestamp(nanoseconds // 1_000_000_000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000:09d}Z"


def shortened(text: str, width: int) -> str:
    """Cut to a width, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: width - 1] + "…"


def moment(text: str, *, now: float | None = None) -> float:
    """Unix seconds of ``10m``, ``1h30m``, ``2d`` (ago), of an RFC 3339 time, or of a number of them.

    A time without a zone is the local one's.

    Raises:
        InvalidArgumentError: it is none of these.
    """
    parts = _AGO.findall(text)
    if parts and "".join(f"{number}{unit}" for number, unit in parts) == text:
        ago = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        return (now if now is not None else time.time()) - ago
    try:
        if text.replace(".", "", 1).isdigit():
            return float(text)
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise InvalidArgumentError(
            f"invalid time {text!r}: expected how long ago, as in 10m, or a time, as in 2030-01-31T12:00:00Z"
        ) from None


def spelled(value: Any) -> Any:
    """Tables of a dataclass as ``--format json`` shows them: ``credential_host`` is ``CredentialHost``."""
    if isinstance(value, dict):
        return {"".join(p.capitalize() for p in key.split("_")): spelled(item) for key, item in value.items()}
    return [spelled(item) for item in value] if isinstance(value, list | tuple) else value
