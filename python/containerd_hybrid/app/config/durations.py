"""Durations as Go writes them (``time.ParseDuration``, ``Duration.String``): ``1m30s``, ``100ms``, ``0s``."""

from __future__ import annotations

import re

from containerd_hybrid.errors import InvalidArgumentError

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_LIMIT = 2**63


class Duration(float):
    """Seconds. In a configuration it is a Go duration, which ``str()`` gives back."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Parse a Go duration.

        Raises:
            InvalidArgumentError: not one, or beyond Go's 292 years.
        """
        unsigned = text.removeprefix("-").removeprefix("+") if text[:2] not in {"-+", "+-"} else text
        if unsigned == "0":
            return cls(0)
        total = position = 0
        while position < len(unsigned):
            part = _PART.match(unsigned, position)
            if part is None:
                break
            total += _nanoseconds(part[1], _NANOSECONDS[part[2]])
            position = part.end()
        if not unsigned or position != len(unsigned) or total >= _LIMIT:
            raise InvalidArgumentError(
                f'invalid duration {text!r}: expected a duration such as "1m30s" or "100ms"'
            )
        return cls(-total / 1e9 if text.startswith("-") else total / 1e9)

    def __str__(self) -> str:
        total = round(self * 1e9)
        sign, total = ("-", -total) if total < 0 else ("", total)
        if total == 0:
            return "0s"
        if total < 10**9:
            unit = next(u for u in ("ms", "us", "ns") if total >= _NANOSECONDS[u])
            return f"{sign}{_decimal(total, _NANOSECONDS[unit])}{'µs' if unit == 'us' else unit}"
        minutes, rest = divmod(total, _NANOSECONDS["m"])
        hours, minutes = divmod(minutes, 60)
        text = f"{_decimal(rest, 10**9)}s"
        if hours or minutes:
            text = f"{minutes}m{text}"
        return f"{sign}{hours}h{text}" if hours else sign + text

    def __repr__(self) -> str:
        return f"Duration.parse({str(self)!r})"


def _nanoseconds(number: str, unit: int) -> int:
    """Exact, because 0.1 has no binary form and 1.1 h must not lose a nanosecond."""
    whole, _, fraction = number.partition(".")
    return int(whole or "0") * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
