"""When to ask again, and how long to wait before."""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

RETRIED = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter; a host's Retry-After is followed up to ``patience`` seconds."""

    attempts: int = 5
    first_seconds: float = 0.25
    most_seconds: float = 10.0
    patience: float = 60.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random

    def delay(self, attempt: int, retry_after: str = "") -> float | None:
        """Seconds to wait after the ``attempt``-th failure (from 1); None to give up."""
        if attempt >= self.attempts:
            return None
        asked = parse_retry_after(retry_after)
        if asked is not None and asked > self.patience:
            return None
        backoff = min(self.first_seconds * 2.0 ** (attempt - 1), self.most_seconds)
        backoff *= 0.5 + self.jitter() / 2
        return backoff if asked is None else max(asked, backoff)


def parse_retry_after(value: str, now: datetime.datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, which holds them or a date; None for anything else."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    import email.utils

    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - (now or datetime.datetime.now(datetime.UTC))).total_seconds())
